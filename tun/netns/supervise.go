package netns

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The command stays in the process group that the shell has made for it, so that
// it is in the foreground when it ought to be, and gets what the terminal sends.
// This process, which the shell knows, must not: it could not tell a Ctrl-C of the
// terminal, which the command has got too, from a signal that was sent to this
// process alone and is meant for the command. So it moves to the daemon's group,
// and hands on everything that it gets. When the command is stopped it comes back,
// for the shell will continue the whole group, and stops itself likewise.
//
// The leader of a session can neither change its group nor has a shell above it.
// There the command gets a group of its own, and the terminal with it.

// handedOn are the signals that are meant for the command when they are sent to
// this process. Not those that are about the process itself: faults, SIGCHLD,
// SIGPIPE, SIGTTIN and SIGTTOU; nor SIGURG, by which the Go runtime talks to itself.
var handedOn = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGVTALRM,
	unix.SIGTSTP, unix.SIGCONT, unix.SIGWINCH, unix.SIGIO, unix.SIGPWR, unix.SIGXCPU, unix.SIGXFSZ,
}

// ignored are those that were ignored when this program was started: they are for
// the command too. The Go runtime tells of no others.
var ignored = slices.DeleteFunc([]os.Signal{unix.SIGHUP, unix.SIGINT}, func(s os.Signal) bool { return !signal.Ignored(s) })

// keepIgnored undoes what a handler of this program's has changed.
func keepIgnored() {
	for _, s := range ignored {
		signal.Ignore(s)
	}
}

// ignoreSignals is for the daemon, which ends when the command has.
func ignoreSignals() {
	signal.Ignore(append([]os.Signal{unix.SIGTTOU, unix.SIGTTIN}, slices.DeleteFunc(slices.Clone(handedOn), func(s os.Signal) bool { return s == unix.SIGCONT })...)...)
}

// leadsSession says whether this process cannot change its process group.
func leadsSession() bool {
	session, err := unix.Getsid(0)
	return err == nil && session == os.Getpid()
}

// terminalToHand returns the terminal, if the command is to have it from us.
func terminalToHand() (*os.File, error) {
	if !leadsSession() {
		return nil, errors.New("netns: the terminal is the shell's to give")
	}
	return os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
}

// supervisor is this process while the command runs.
type supervisor struct {
	child, daemon int
	life          int // our end of what tells the daemon when to end
	home          int // the command's process group, which this process was in
	away          bool
	signals       chan os.Signal

	daemonStatus unix.WaitStatus
	daemonEnded  bool
}

// run hands signals on until the command has ended.
func (s *supervisor) run() (Ended, error) {
	s.leave()
	changes := make(chan unix.WaitStatus)
	again := make(chan struct{})
	go waitFor(s.child, changes, again)
	for {
		select {
		case sig := <-s.signals:
			if sig == unix.SIGCONT && !s.isStopped() {
				continue // it was continued with us
			}
			_ = unix.Kill(s.child, sig.(unix.Signal)) // it may have ended
		case status := <-changes:
			if status.Stopped() {
				s.stop(status.StopSignal())
				again <- struct{}{}
				continue
			}
			return s.ended(status)
		}
	}
}

// waitFor tells of each stop and of the end of a child; it looks on after a stop
// when it is told to.
func waitFor(pid int, changes chan<- unix.WaitStatus, again <-chan struct{}) {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, unix.WUNTRACED, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			status = unix.WaitStatus(1 << 8) // not to be: only we wait for it
		}
		changes <- status
		if !status.Stopped() {
			return
		}
		<-again
	}
}

// listen begins to take the signals that are to be handed on.
func (s *supervisor) listen() {
	s.signals = make(chan os.Signal, 64)
	signal.Notify(s.signals, slices.DeleteFunc(slices.Clone(handedOn), func(sig os.Signal) bool { return slices.Contains(ignored, sig) })...)
}

// leave moves this process out of the command's way.
func (s *supervisor) leave() { s.away = unix.Setpgid(0, s.daemon) == nil }

// stop stops this process as the command was, with the same signal, and returns
// when it is continued. Where the kernel does not let the signal stop it, since
// nobody is there to continue it, it would not have stopped the command either.
func (s *supervisor) stop(sig unix.Signal) {
	if s.away {
		_ = unix.Setpgid(0, s.home) // the command is still in it
	}
	if !leadsSession() {
		handler := setDefault(sig)
		_ = unix.Tgkill(os.Getpid(), unix.Gettid(), sig)
		setHandler(sig, &handler, nil)
	}
	if s.away {
		s.leave()
	}
	if s.isStopped() {
		_ = unix.Kill(s.child, unix.SIGCONT) // it may have ended
	}
}

// isStopped says whether the command is stopped now: its state is T (proc(5)).
func (s *supervisor) isStopped() bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.child))
	if err != nil {
		return false
	}
	for i := len(text) - 1; i > 0; i-- {
		if text[i] == ')' { // the name before may have any character
			return i+2 < len(text) && text[i+2] == 'T'
		}
	}
	return false
}

// ended is the end of the command; or of what was to become it, if the daemon
// failed, whose error and exit code are then the true ones.
func (s *supervisor) ended(status unix.WaitStatus) (Ended, error) {
	var said [1]byte
	if n, _, err := unix.Recvfrom(s.life, said[:], unix.MSG_DONTWAIT); n != 1 || err != nil {
		s.endDaemon(overtime) // it has not said that the command could begin
		if code := s.daemonStatus.ExitStatus(); code > 0 {
			return Ended{Code: code}, nil
		}
	}
	if status.Signaled() {
		return Ended{Signal: status.Signal()}, nil
	}
	return Ended{Code: status.ExitStatus()}, nil
}

// endDaemon tells the daemon that the command has ended, and waits for its end.
func (s *supervisor) endDaemon(patience time.Duration) {
	if s.daemonEnded {
		return
	}
	_ = unix.Shutdown(s.life, unix.SHUT_RDWR) // it is connected
	s.waitDaemon(patience)
	if !s.daemonEnded {
		_ = unix.Kill(s.daemon, unix.SIGKILL)
		s.waitDaemon(overtime)
	}
}

// waitDaemon waits for the daemon's end, but not for ever.
func (s *supervisor) waitDaemon(patience time.Duration) {
	for deadline := time.Now().Add(patience); !s.daemonEnded; time.Sleep(time.Millisecond) {
		pid, err := unix.Wait4(s.daemon, &s.daemonStatus, unix.WNOHANG, nil)
		s.daemonEnded = pid == s.daemon || errors.Is(err, unix.ECHILD)
		if time.Now().After(deadline) {
			return
		}
	}
}

// Die ends this process by the signal that has ended the command, so that who
// waits for it sees the same.
func Die(sig syscall.Signal) {
	// One dump of memory is enough, and it is the command's.
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	setDefault(sig)
	_ = unix.Kill(os.Getpid(), sig)
	time.Sleep(time.Second) // another thread may take it
}

// action is the kernel's struct sigaction: four words at most. The zero value is
// the default.
type action [4]uintptr

// setDefault takes away the Go runtime's handler of a signal, which would print
// what its goroutines do, or swallow a stop also after [signal.Reset], and returns
// it.
func setDefault(sig syscall.Signal) (handler action) {
	setHandler(sig, &action{}, &handler)
	return handler
}

func setHandler(sig syscall.Signal, to, was *action) {
	const maskSize = 8
	// It only fails for signals that there are not, and those that have no handler.
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(was)), maskSize, 0, 0)
}

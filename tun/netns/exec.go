package netns

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Ended is how a command has ended.
type Ended struct {
	Code   int            // its exit code
	Signal syscall.Signal // that killed it; 0 if none did
}

const (
	selfPath = "/proc/self/exe"

	// The daemon's descriptors.
	daemonDevice = 3 // on which the device comes, and it says when it is ready
	daemonLife   = 4 // which ends when the command has ended

	// overtime is how long after its time the daemon may still be busy.
	overtime = 5 * time.Second
)

// Exec runs the plan's command in namespaces of its own, and what carries its
// flows beside it, and returns when both have ended. The daemon is this program
// again, with the same arguments: it finds out by [Daemon] that it is the one. It
// has to end by itself within drain after the command.
//
// Whoever waits for the command waits for this process, which is therefore
// stopped and continued with it, and hands on the signals that it is sent. See
// supervise.go.
func Exec(p Plan, drain time.Duration) (Ended, error) {
	// The command is killed when the thread that started it ends, which is
	// then with this process.
	runtime.LockOSThread()
	keepIgnored()
	device, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Ended{}, fmt.Errorf("netns: socketpair: %w", err)
	}
	life, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Ended{}, fmt.Errorf("netns: socketpair: %w", err)
	}
	inherited := inheritedFiles()
	s := &supervisor{life: life[0], home: unix.Getpgrp()}
	if s.daemon, err = startDaemon(p, device[1], life[1], inherited); err != nil {
		return Ended{}, err
	}
	closeAll(device[1], life[1])
	defer s.endDaemon(drain + overtime)
	p.Socket = device[0]
	s.listen()
	defer signal.Stop(s.signals)
	if s.child, err = startChild(p); err != nil {
		closeAll(device[0])
		return Ended{}, err
	}
	closeAll(append(inherited, device[0])...)
	if err := dropStreams(); err != nil {
		return Ended{}, err
	}
	return s.run()
}

// inheritedFiles lists what the caller of this program has left open for the
// command, beside the three streams.
func inheritedFiles() (files []int) {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil // then the daemon has them too
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name.Name())
		if err != nil || fd < 3 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			files = append(files, fd)
		}
	}
	return files
}

func setCloseOnExec(files []int, on int) {
	for _, fd := range files {
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFD, on) // it is open
	}
}

func closeAll(files ...int) {
	for _, fd := range files {
		_ = unix.Close(fd) // nothing was written to it
	}
}

// dropStreams gives the command's input and output up: who reads them is to see
// their end when the command closes them.
func dropStreams() error {
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	for fd := 0; fd < 2 && err == nil; fd++ {
		err = unix.Dup3(null, fd, 0)
	}
	if err != nil {
		return fmt.Errorf("netns: %s: %w", os.DevNull, err)
	}
	return unix.Close(null)
}

// startDaemon starts this program again, with nothing of the command's but its
// standard error, and in a process group of its own: a terminal's signals are not
// for it.
func startDaemon(p Plan, device, life int, inherited []int) (pid int, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("netns: %w", err)
	}
	defer null.Close() //nolint:errcheck // nothing was written
	var env []string
	for _, v := range os.Environ() {
		// What the service manager gave is the command's.
		if name, _, _ := strings.Cut(v, "="); name != "NOTIFY_SOCKET" && name != "WATCHDOG_USEC" && name != "WATCHDOG_PID" && !strings.HasPrefix(name, "LISTEN_") {
			env = append(env, v)
		}
	}
	if env, err = p.environment(env, daemonVariable); err != nil {
		return 0, err
	}
	setCloseOnExec(inherited, unix.FD_CLOEXEC)
	defer setCloseOnExec(inherited, 0)
	pid, err = syscall.ForkExec(selfPath, os.Args, &syscall.ProcAttr{
		Env: env, Files: []uintptr{null.Fd(), null.Fd(), 2, uintptr(device), uintptr(life)},
		Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("netns: start the daemon: %w", err)
	}
	return pid, nil
}

// startChild starts this program again in new namespaces, where it becomes the
// command.
func startChild(p Plan) (pid int, err error) {
	env, err := p.environment(os.Environ(), childVariable)
	if err != nil {
		return 0, err
	}
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if p.ResolvConf != "" {
		attr.Cloneflags |= syscall.CLONE_NEWNS
	}
	if !isRoot() {
		// The same user and group, so that nothing of what the command sees of
		// files and of itself is another.
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
		attr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN}
	}
	if terminal, err := terminalToHand(); err == nil {
		defer terminal.Close() //nolint:errcheck // nothing was written
		attr.Foreground, attr.Ctty = true, int(terminal.Fd())
	} else if leadsSession() {
		attr.Setpgid = true
	}
	setCloseOnExec([]int{p.Socket}, 0)
	defer setCloseOnExec([]int{p.Socket}, unix.FD_CLOEXEC)
	pid, err = syscall.ForkExec(selfPath, os.Args[:1], &syscall.ProcAttr{Env: env, Files: []uintptr{0, 1, 2}, Sys: attr})
	if err != nil {
		return 0, forbidden(fmt.Errorf("netns: make namespaces for the command: %w", err), sysctls)
	}
	return pid, nil
}

// isRoot says whether no user namespace is needed.
func isRoot() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	want := uint32(1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_SYS_ADMIN)
	return os.Geteuid() == 0 && unix.Capget(&header, &data[0]) == nil && data[0].Effective&want == want
}

// Daemon returns the plan, if this process is the one that carries a command's
// flows, and what it needs for that.
func Daemon() (p Plan, c *Carrier, ok bool, err error) {
	p, ok, err = planFor(daemonVariable)
	if !ok || err != nil {
		return p, nil, ok, err
	}
	ignoreSignals()
	closeOnExec := func(fd int) int { unix.CloseOnExec(fd); return fd }
	return p, &Carrier{device: closeOnExec(daemonDevice), life: os.NewFile(uintptr(closeOnExec(daemonLife)), "life")}, true, nil
}

// Carrier is the daemon's side of what holds it and the command together.
type Carrier struct {
	device int
	life   *os.File
}

// ErrNoCommand says that the command has ended before it was one, and has said
// why.
var ErrNoCommand = errors.New("netns: the command could not be started")

// Device waits for the descriptor of the device.
func (c *Carrier) Device() (*os.File, error) {
	var b [1]byte
	oob := make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	var err error
	for {
		if n, oobn, _, _, err = unix.Recvmsg(c.device, b[:], oob, unix.MSG_CMSG_CLOEXEC); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil || n != 1 {
		return nil, ErrNoCommand
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("netns: no device came with the message: %w", err)
	}
	files, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(files) != 1 {
		return nil, fmt.Errorf("netns: no device came with the message: %w", err)
	}
	return os.NewFile(uintptr(files[0]), "/dev/net/tun"), nil
}

// Ready lets the command begin.
func (c *Carrier) Ready() error {
	if _, err := unix.Write(int(c.life.Fd()), []byte{0}); err != nil {
		return ErrNoCommand
	}
	if _, err := unix.Write(c.device, []byte{0}); err != nil {
		return ErrNoCommand
	}
	return unix.Close(c.device)
}

// Wait returns when the command has ended.
func (c *Carrier) Wait() {
	for {
		if n, err := readEINTR(int(c.life.Fd()), make([]byte, 1)); n <= 0 || err != nil {
			return
		}
	}
}

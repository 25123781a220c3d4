package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"aarptun/tun"
)

// The main thread is kept for the main goroutine, so that /proc/self speaks of
// the namespace that every test begins in.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func TestPathOf(t *testing.T) {
	for ref, want := range map[string]string{
		"web": "/run/netns/web", "1234": "/proc/1234/ns/net", "./web": "./web", "/proc/self/ns/net": "/proc/self/ns/net",
		"12a": "/run/netns/12a", "": "/run/netns",
	} {
		if got := PathOf(ref); got != want {
			t.Errorf("%q: got %q, want %q", ref, got, want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for ref, want := range map[string]string{
		"nobody-has-this": "there is no network namespace", "4194305": "no process 4194305 runs", // PID_MAX_LIMIT is 2^22
		"/etc/passwd": "is no network namespace", "/proc/self/ns/mnt": "is no network namespace",
		"/nowhere/x": "no such file", fmt.Sprint(os.Getpid()): "aarptun itself runs in",
	} {
		n, err := Open(ref)
		if !errors.Is(err, tun.ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", ref, err, want)
		}
		if err == nil {
			_ = n.Close()
		}
	}
}

// resident is a process with a network namespace of its own.
type resident struct {
	cmd  *exec.Cmd
	hold io.Closer
}

func start(t *testing.T) *resident {
	t.Helper()
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if uid := os.Geteuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	hold, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); errors.Is(err, os.ErrPermission) || errors.Is(err, unix.ENOSPC) {
		t.Skipf("no network namespace can be made here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	r := &resident{cmd, hold}
	t.Cleanup(r.end)
	return r
}

func (r *resident) end() {
	_ = r.hold.Close()
	_ = r.cmd.Wait() // it was ended so
}

func (r *resident) ref() string { return fmt.Sprint(r.cmd.Process.Pid) }

func TestDoIsThereAndNowhereElse(t *testing.T) {
	r := start(t)
	n, err := Open(r.ref())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close() //nolint:errcheck // only read
	here := func() string {
		at, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			t.Error(err)
		}
		return at
	}
	before, inside := here(), ""
	failure := errors.New("said by f")
	err = n.Do(func() error { inside = here(); return failure })
	if errors.Is(err, os.ErrPermission) {
		t.Skipf("this user may not enter a namespace: %v", err)
	}
	if err != failure {
		t.Errorf("Do: %v", err)
	}
	theirs, err := os.Readlink(filepath.Join("/proc", r.ref(), "ns/net"))
	if err != nil || inside != theirs || inside == before {
		t.Errorf("f was in %s, want %s (%v), and not %s", inside, theirs, err, before)
	}
	// Whatever thread comes next is where it was.
	for range 50 {
		done := make(chan string)
		go func() { done <- here() }()
		if now := <-done; now != before {
			t.Fatalf("another goroutine finds itself in %s", now)
		}
	}
}

func TestFollowEndsWithTheLastProcess(t *testing.T) {
	r := start(t)
	n, err := Open(r.ref())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close() //nolint:errcheck // only read
	ctx, stop := n.Follow(context.Background())
	defer stop()
	select {
	case <-ctx.Done():
		t.Fatalf("it ended while a process was there: %v", context.Cause(ctx))
	case <-time.After(lookEvery + lookEvery/2):
	}
	r.end()
	select {
	case <-ctx.Done():
	case <-time.After(patience):
		t.Fatal("it does not end with the namespace")
	}
	if cause := context.Cause(ctx); !errors.Is(cause, ErrGone) || !strings.Contains(cause.Error(), r.ref()) {
		t.Errorf("the cause is %v", cause)
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	r := start(t)
	n, err := Open(r.ref())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close() //nolint:errcheck // only read
	outer, cancel := context.WithCancelCause(context.Background())
	ctx, stop := n.Follow(outer)
	cause := errors.New("asked to")
	cancel(cause)
	<-ctx.Done()
	stop()
	if context.Cause(ctx) != cause {
		t.Errorf("the cause is %v", context.Cause(ctx))
	}
}

package tun

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The environment of a child process, which leads a run up to a step and then
// waits to be killed. It inherits the namespaces of the thread that starts it.
const (
	childStep   = "AARPTUN_TEST_STEP"
	childDir    = "AARPTUN_TEST_DIR"
	childDevice = "AARPTUN_TEST_DEVICE"

	childReturns = "AARPTUN_TEST_RETURNS" // not empty: Config.Returns
)

// step is how far a run has come when it is killed.
type step struct {
	name  string
	rules int // how many of the two are set then
	do    func(Config) (*Host, error)
}

var steps = []step{
	{"lock", 0, func(c Config) (*Host, error) { return begin(c, nil) }},
	{"journal", 0, func(c Config) (*Host, error) { return begin(c, (*Host).inherit) }},
	{"device", 0, Open},
	{"routes", 0, openAnd((*Host).setRoutes)},
	{"first rule", 1, openAnd((*Host).setRoutes, func(h *Host) error { return addRule(h.handle, h.rules[0]) })},
	{"second rule", 2, openAnd((*Host).AddRoutes)},
	{"drain", 0, openAnd((*Host).AddRoutes, (*Host).RemoveRoutes)},
}

func openAnd(then ...func(*Host) error) func(Config) (*Host, error) {
	return func(c Config) (*Host, error) {
		h, err := Open(c)
		for _, f := range then {
			if err == nil {
				err = f(h)
			}
		}
		return h, err
	}
}

// begin is what Open does before it makes the device. The directory stays
// locked, as it is then.
func begin(c Config, write func(*Host, *directory, []byte) error) (*Host, error) {
	h := newHost(c)
	var err error
	if h.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, err
	}
	if locked, err = lockDirectory(c.Dir, true); err != nil {
		return nil, err
	}
	j, left, err := lockJournal(locked.path(h.name), true)
	if err != nil {
		return nil, err
	}
	if h.journal = j; write != nil {
		err = write(h, locked, left)
	}
	return h, err
}

// locked is what begin has locked, by the child until it is killed.
var locked *directory

// locksDirectory reports whether the run still holds the directory.
func (s step) locksDirectory() bool { return s.name == "lock" || s.name == "journal" }

// confined is not a step: the child may not change anything, and says what Open
// says of that, and whether it is a matter of permission.
const confined = "confined"

func childMain(name string) int {
	c := testConfig(os.Getenv(childDir))
	c.Name = os.Getenv(childDevice)
	c.Returns = os.Getenv(childReturns) != ""
	if name == confined {
		_, err := Open(c)
		fmt.Println(errors.Is(err, os.ErrPermission), err)
		return 0
	}
	i := slices.IndexFunc(steps, func(s step) bool { return s.name == name })
	h, err := steps[i].do(c)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed, or the test is
	fmt.Println("left alone with", h.Name(), locked)
	return 1
}

// child is a run in a process of its own.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

func childCommand(step, dir, device string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childStep+"="+step, childDir+"="+dir, childDevice+"="+device)
	cmd.Stderr = os.Stderr
	return cmd
}

// startChild starts a run that stops at a step.
func startChild(t *testing.T, s step, dir, device string) *child {
	t.Helper()
	cmd := childCommand(s.name, dir, device)
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	c := &child{cmd, stdin}
	t.Cleanup(func() { c.kill(t) })
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the child says %q (%v)", line, err)
	}
	return c
}

// kill ends the run as no program can prevent, and waits until it is gone.
func (c *child) kill(t *testing.T) {
	t.Helper()
	if c.cmd.ProcessState != nil {
		return
	}
	must(t, c.cmd.Process.Kill())
	var exit *exec.ExitError
	if err := c.cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the child ended with %v", err)
	}
}

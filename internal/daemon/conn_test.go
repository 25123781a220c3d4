package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"
)

const nearMember = "203.0.113.10"

// memberHost makes a host at the other end of a link of ours, and listens there.
func memberHost(t *testing.T) net.Listener {
	t.Helper()
	type made struct {
		listener net.Listener
		err      error
	}
	result, end := make(chan made), make(chan struct{})
	ended := make(chan struct{})
	go func() {
		// The namespace is this thread's, and goes with it.
		runtime.LockOSThread()
		defer close(ended)
		listener, err := listenElsewhere()
		result <- made{listener, err}
		<-end
	}()
	t.Cleanup(func() {
		// Now and not with the namespace, whose end takes its time.
		ip(t, "link", "del", "near")
		close(end)
		<-ended
	})
	m := <-result
	if m.err != nil {
		t.Fatal(m.err)
	}
	t.Cleanup(func() { _ = m.listener.Close() }) // nothing is buffered in it
	return m.listener
}

// listenElsewhere moves the calling thread to a new namespace.
func listenElsewhere() (net.Listener, error) {
	run := func(commands ...string) error {
		for _, command := range commands {
			if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %s: %w: %s", command, err, out)
			}
		}
		return nil
	}
	// The link is made here and its far end taken along.
	if err := run("link add near type veth peer name far", "addr add 203.0.113.2/24 dev near", "link set near up"); err != nil {
		return nil, err
	}
	here, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(here) }() // only looked through
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	move := exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/fd/%d", unix.Getpid(), here),
		"ip", "link", "set", "far", "netns", fmt.Sprintf("/proc/%d/task/%d/ns/net", unix.Getpid(), unix.Gettid()))
	if out, err := move.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%v: %w: %s", move.Args, err, out)
	}
	if err := run("addr add "+nearMember+"/24 dev far", "link set far up", "link set lo up"); err != nil {
		return nil, err
	}
	return net.Listen("tcp4", nearMember+":7000")
}

// TestConnThroughTheDaemon holds a flow, kernel to kernel over a real TUN, to all
// that a net.Conn promises.
func TestConnThroughTheDaemon(t *testing.T) {
	cfg := onHost(t)
	cfg.Static[netip.MustParseAddr(testAA)] = []netip.Addr{netip.MustParseAddr(nearMember)}
	member := memberHost(t)
	start(t, cfg)
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		accepted := make(chan net.Conn, 1)
		go func() {
			defer close(accepted)
			if c, err := member.Accept(); err == nil {
				accepted <- c
			}
		}()
		if c1, err = net.Dial("tcp4", testAA+":7000"); err != nil {
			return nil, nil, nil, err
		}
		c2, ok := <-accepted
		if !ok {
			return nil, nil, nil, errors.New("the member accepted nothing")
		}
		if peer := c1.RemoteAddr().String(); peer != testAA+":7000" {
			return nil, nil, nil, fmt.Errorf("the client's peer is %s", peer)
		}
		return c1, c2, func() { _, _ = c1.Close(), c2.Close() }, nil
	})
}

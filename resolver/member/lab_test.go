package member

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// host is a network namespace of a test.
type host struct {
	t  testing.TB
	ns *os.File
}

// newHost makes a host with a loopback. The test's goroutine keeps its thread
// to the end and takes it along, so nothing of this reaches another test.
func newHost(t testing.TB) *host {
	t.Helper()
	runtime.LockOSThread()
	switch err := unix.Unshare(unix.CLONE_NEWNET); {
	case errors.Is(err, unix.EPERM) && os.Getenv("AARPTUN_TEST_NO_SKIP") == "":
		t.Skip("this needs a network namespace of its own: run it as root, or by 'unshare --user --map-root-user --net'")
	case err != nil:
		t.Fatal(err)
	}
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	h := &host{t, ns}
	h.sysctl("ipv6.conf.all.accept_dad", "0")
	h.sysctl("ipv6.conf.default.accept_dad", "0")
	h.sysctl("ipv4.icmp_ratelimit", "0") // every datagram gets its error
	h.sysctl("ipv6.icmp.ratelimit", "0")
	h.ip("link set lo up")
	return h
}

// on runs do in the host's namespace. Only the test's own goroutine may.
func (h *host) on(do func()) {
	h.t.Helper()
	before, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = before.Close() }()
	if err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err != nil {
		h.t.Fatal(err)
	}
	defer func() {
		if err := unix.Setns(int(before.Fd()), unix.CLONE_NEWNET); err != nil {
			h.t.Fatal(err)
		}
	}()
	do()
}

// ip runs commands of ip(8), such as "link set lo up".
func (h *host) ip(commands ...string) { h.ipWith(nil, commands...) }

// ipWith is ip; /proc/self/fd/3 in the commands is the namespace of peer.
func (h *host) ipWith(peer *host, commands ...string) {
	h.t.Helper()
	h.on(func() {
		for _, command := range commands {
			cmd := exec.Command("ip", strings.Fields(command)...)
			if peer != nil {
				cmd.ExtraFiles = []*os.File{peer.ns}
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				h.t.Fatalf("ip %s: %v\n%s", command, err, out)
			}
		}
	})
}

func (h *host) sysctl(name, value string) {
	h.t.Helper()
	h.on(func() {
		path := filepath.Join("/proc/sys/net", strings.ReplaceAll(name, ".", "/"))
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			h.t.Fatal(err)
		}
	})
}

// connect lays a wire between two hosts.
func (h *host) connect(dev string, addrs []string, peer *host, peerDev string, peerAddrs []string) {
	h.t.Helper()
	h.ipWith(peer, fmt.Sprintf("link add %s type veth peer name %s netns /proc/self/fd/3", dev, peerDev))
	h.address(dev, addrs)
	peer.address(peerDev, peerAddrs)
}

func (h *host) address(dev string, addrs []string) {
	h.t.Helper()
	commands := []string{"link set " + dev + " up"}
	for _, a := range addrs {
		command := "addr add " + a + " dev " + dev
		if strings.Contains(a, ":") {
			command += " nodad"
		}
		commands = append(commands, command)
	}
	h.ip(commands...)
}

// newPair makes a client and a member, the addresses of the golden messages on
// the wire between them, and AA on the member's lo, the client's routes for AA
// leading there.
func newPair(t testing.TB) (client, server *host) {
	t.Helper()
	client, server = newHost(t), newHost(t)
	server.connect("eth0", []string{"2001:db8:12::2/64", "192.0.2.130/24"}, client, "eth0", []string{"2001:db8:12::1/64", "192.0.2.2/24"})
	server.address("lo", []string{"2001:db8:aa::1/128", "198.51.100.1/32"})
	client.ip("-6 route add 2001:db8:aa::/64 via 2001:db8:12::2", "route add 198.51.100.0/24 via 192.0.2.130")
	client.ip("-6 addr add 2001:db8:1::2/128 dev lo nodad")
	server.ip("-6 route add 2001:db8:1::/64 via 2001:db8:12::1")
	client.reaches(aa6, aa4, ua6, ua4)
	return client, server
}

// reaches waits until the link carries packets, and neighbours know each other.
func (h *host) reaches(addrs ...netip.Addr) {
	h.t.Helper()
	for _, a := range addrs {
		eventually(h.t, "reaches "+a.String(), func() bool {
			var err error
			h.on(func() {
				var conn net.Conn
				if conn, err = net.DialTimeout("tcp", netip.AddrPortFrom(a, 9).String(), time.Second); err == nil {
					_ = conn.Close()
				}
			})
			return err == nil || errors.Is(err, syscall.ECONNREFUSED)
		})
	}
}

// prober opens a prober on the host and runs it until the test ends.
func (h *host) prober(c ProberConfig) *Prober {
	h.t.Helper()
	var p *Prober
	var err error
	h.on(func() { p, err = OpenProber(c) })
	if err != nil {
		h.t.Fatal(err)
	}
	runProber(h.t, p)
	return p
}

func runProber(t testing.TB, p *Prober) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// within is the time in which everything here must happen.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until another process has come so far.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for ctx := within(t); !done(); time.Sleep(time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("still not so: %s", what)
		}
	}
}

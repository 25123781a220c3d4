package ping

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is a network namespace of a test.
type host struct {
	t  testing.TB
	ns *os.File
}

// newHost makes a host with a loopback. The test's goroutine keeps its thread
// to the end and takes it along, so nothing of this reaches another test; what
// a subtest does, it does on another thread.
func newHost(t testing.TB) *host {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, unix.EPERM) && os.Getenv("AARPTUN_TEST_NO_SKIP") == "" {
		t.Skip("this needs a network namespace of its own: run it as root, or by 'unshare --user --map-root-user --net'")
	} else if err != nil {
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

// ip runs commands of ip(8), such as "link set lo up"; /proc/self/fd/3 in them
// is the namespace of peer, if one is given.
func (h *host) ip(commands ...string) { h.ipWith(nil, commands...) }

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

// drops is how many messages the host's ICMP sockets had no room for.
func (h *host) drops() (n int64) {
	h.t.Helper()
	h.on(func() {
		for _, list := range []string{"raw", "raw6", "icmp", "icmp6"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + list)
			if err != nil {
				h.t.Fatal(err)
			}
			for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
				fields := strings.Fields(line)
				if i == 0 {
					continue // the head of the table
				}
				drops, err := strconv.ParseInt(fields[len(fields)-1], 10, 64)
				if err != nil {
					h.t.Fatal(err)
				}
				n += drops
			}
		}
	})
	return n
}

// allowPing lets root's group open ping sockets; a fresh namespace lets nobody.
func (h *host) allowPing() { h.sysctl("ipv4.ping_group_range", "0 0") }

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

// path is a client, a router and a member in a row.
type path struct{ client, router, member *host }

var (
	clientV6, clientV4 = netip.MustParseAddr("2001:db8:1::2"), netip.MustParseAddr("192.0.2.2")
	routerV6, routerV4 = netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("192.0.2.1") // as the client sees it
	memberV6, memberV4 = netip.MustParseAddr("2001:db8:2::2"), netip.MustParseAddr("192.0.2.130")
)

func newPath(t testing.TB) path {
	t.Helper()
	p := path{newHost(t), newHost(t), newHost(t)}
	p.router.sysctl("ipv6.conf.all.forwarding", "1")
	p.router.sysctl("ipv4.ip_forward", "1")
	p.router.sysctl("ipv4.icmp_ratelimit", "0") // every packet gets its error
	p.router.sysctl("ipv6.icmp.ratelimit", "0")
	p.router.sysctl("ipv4.icmp_msgs_per_sec", "1000000")
	p.router.sysctl("ipv4.icmp_msgs_burst", "1000000")
	p.client.connect("eth0", []string{"2001:db8:1::2/64", "192.0.2.2/25"}, p.router, "c0", []string{"2001:db8:1::1/64", "192.0.2.1/25"})
	p.member.connect("eth0", []string{"2001:db8:2::2/64", "192.0.2.130/25"}, p.router, "m0", []string{"2001:db8:2::1/64", "192.0.2.129/25"})
	p.client.ip("-6 route add default via 2001:db8:1::1", "route add default via 192.0.2.1")
	p.member.ip("-6 route add default via 2001:db8:2::1", "route add default via 192.0.2.129")
	// A link that has just come up may lose what is sent.
	s := p.client.socket(variants[0], 0)
	for _, ua := range []netip.Addr{memberV6, memberV4} {
		if _, err := s.Probe(within(t), ua); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return p
}

// variant is one of the kinds of socket.
type variant struct {
	name string
	raw  bool
}

var variants = []variant{{"raw", true}, {"ping socket", false}}

// socket opens a socket of the given kind on the host, and runs it until the
// test ends.
func (h *host) socket(v variant, mark uint32) *Socket {
	h.t.Helper()
	var s *Socket
	if !v.raw {
		h.allowPing()
	}
	h.on(func() {
		v4, err := openSocket(false, v.raw, mark)
		if err != nil {
			h.t.Fatal(err)
		}
		v6, err := openSocket(true, v.raw, mark)
		if err != nil {
			h.t.Fatal(err)
		}
		s = newSocket(v4, v6)
	})
	run(h.t, s)
	return s
}

// run runs the socket until the test ends.
func run(t testing.TB, s *Socket) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// within is the time in which everything here must happen.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until the kernel or another goroutine has come so far.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for ctx := within(t); !done(); time.Sleep(time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("still not so: %s", what)
		}
	}
}

// wantStats waits until the counters are as they must be: a reply is counted
// after it has been handed over.
func wantStats(t testing.TB, s *Socket, right func(Stats) bool) {
	t.Helper()
	for ctx := within(t); !right(s.Stats()); time.Sleep(time.Millisecond) {
		if ctx.Err() != nil {
			t.Errorf("stats: %+v", s.Stats())
			return
		}
	}
}

// wire is a listener for all packets that a host gets.
type wire struct {
	file *os.File
	conn syscall.RawConn // of file
}

// listen opens a packet socket (packet(7)) on the host, which delivers packets
// without the link's header. It goes before what it is to hear.
func (h *host) listen() wire {
	h.t.Helper()
	var w wire
	h.on(func() {
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network byte order
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
		if err != nil {
			h.t.Fatal(err)
		}
		w.file = os.NewFile(uintptr(fd), "wire")
		w.conn, err = w.file.SyscallConn()
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1), w.file.SetReadDeadline(time.Now().Add(30*time.Second)))
		if err != nil {
			h.t.Fatal(err)
		}
	})
	h.t.Cleanup(func() { _ = w.file.Close() })
	return w
}

// next returns the next packet that is wanted, and when the kernel got it.
func (w wire) next(t testing.TB, wanted func(packet []byte) bool) (packet []byte, at time.Time) {
	t.Helper()
	buf, control := make([]byte, 1<<16), make([]byte, 128)
	for {
		var n, controls int
		var err error
		late := w.conn.Read(func(fd uintptr) bool {
			n, controls, _, _, err = unix.Recvmsg(int(fd), buf, control, 0)
			return !errors.Is(err, unix.EAGAIN)
		})
		if err := errors.Join(late, err); err != nil {
			t.Fatal(err)
		}
		if !wanted(buf[:n]) {
			continue
		}
		// The only control message is a struct timespec.
		messages, err := unix.ParseSocketControlMessage(control[:controls])
		if err != nil || len(messages) != 1 || len(messages[0].Data) != 16 {
			t.Fatalf("no time stamp: %v, %v", messages, err)
		}
		data := messages[0].Data
		return buf[:n], time.Unix(int64(binary.NativeEndian.Uint64(data)), int64(binary.NativeEndian.Uint64(data[8:])))
	}
}

// echoRequestV6 tells an ICMPv6 echo request without extension headers.
func echoRequestV6(packet []byte) bool {
	return len(packet) >= 48 && packet[0]>>4 == 6 && packet[6] == 58 && packet[40] == 128
}

// echoRequestV4 tells an ICMP echo request without options, or its first
// fragment.
func echoRequestV4(packet []byte) bool {
	return len(packet) >= 28 && packet[0] == 0x45 && packet[9] == 1 && packet[6]&0x1f == 0 && packet[7] == 0 && packet[20] == 8
}

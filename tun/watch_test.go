package tun

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watching is a Host that is watched.
type watching struct {
	*Host
	log   lockedLog
	ended chan error
}

type lockedLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// watch opens a Host, adds the routes and watches them until the test ends.
func watch(t *testing.T, c Config) *watching {
	t.Helper()
	w := &watching{Host: mustOpen(t, c), ended: make(chan error, 1)}
	must(t, w.AddRoutes())
	ctx, end := context.WithCancel(t.Context())
	go func() { w.ended <- w.Watch(ctx, slog.New(slog.NewTextHandler(&w.log, nil))); close(w.ended) }()
	t.Cleanup(func() { end(); <-w.ended })
	return w
}

// becomes waits for the host's state to be as it was.
func becomes(t *testing.T, want string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if networkState(t) == want {
			return
		}
	}
	unchanged(t, want)
}

// repaired waits for the state to be as it was, and wants a count of repairs.
func (w *watching) repaired(t *testing.T, state string, least, most uint64) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for w.Stats().Repairs < least && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	becomes(t, state)
	if s := w.Stats(); s.Repairs < least || s.Repairs > most || s.Failures != 0 || s.Resyncs != 0 {
		t.Errorf("%+v, want %d to %d repairs\n%s", s, least, most, &w.log)
	}
}

func TestWatchPutsBack(t *testing.T) {
	for remove, says := range map[string]string{
		"-6 rule del priority 17000":                                  rule6,
		"-4 rule del priority 17000":                                  rule4,
		"rule flush protocol 170":                                     rule4,
		"-6 rule flush":                                               rule6,
		"-6 route flush table 170":                                    "route 2001:db8:aa::/64 dev aarptun0 table 170",
		"-4 route flush table 170":                                    "route 198.51.100.0/24 dev aarptun0 table 170",
		"-4 route flush dev aarptun0 table all":                       "route 198.51.100.0/24 dev aarptun0 table 170",
		"-6 route del 2001:db8:aa::/64 table 170":                     "route 2001:db8:aa::/64 dev aarptun0 table 170",
		"-4 route replace unreachable 198.51.100.0/24 table 170":      "route 198.51.100.0/24 dev aarptun0 table 170",
		"-4 route replace 198.51.100.0/24 dev lo table 170 proto 170": "route 198.51.100.0/24 dev aarptun0 table 170",
		"link set aarptun0 down":                                      "aarptun0 up",
		"link set aarptun0 mtu 1300":                                  "MTU 1500 of aarptun0, which was 1300",
	} {
		t.Run(remove, func(t *testing.T) {
			isolateTUN(t)
			w := watch(t, testConfig(t.TempDir()))
			all := networkState(t)
			removed := exec.Command("ip", strings.Fields(remove)...)
			removed.Stderr = os.Stderr
			must(t, removed.Run())
			if remove == "-6 rule flush" { // which is of the kernel's own too
				ip(t, "-6", "rule", "add", "priority", "32766", "lookup", "main")
			}
			most := uint64(1)
			if strings.Contains(remove, "flush") {
				most = 3 // it comes again, to see whether all is gone
			}
			w.repaired(t, all, 1, most)
			text := w.log.String()
			if !strings.Contains(text, says) || strings.Count(text, "it is back") != int(w.Stats().Repairs) {
				t.Errorf("the log says %q", text)
			}
			by := fmt.Sprint("by_process=", removed.Process.Pid)
			if !strings.Contains(remove, "rule flush") && !strings.HasPrefix(remove, "link") && !strings.Contains(text, by) {
				t.Errorf("the log does not say %s: %q", by, text)
			}
		})
	}
}

func TestWatchLeavesAloneWhatIsNotOurs(t *testing.T) {
	isolateTUN(t)
	w := watch(t, testConfig(t.TempDir()))
	uplink(t, "u0", 1500)
	ip(t, "route", "add", "203.0.113.0/24", "dev", "u0", "table", "300")
	ip(t, "rule", "add", "priority", "99", "lookup", "300")
	ip(t, "route", "flush", "table", "300")
	ip(t, "rule", "del", "priority", "99")
	ip(t, "link", "set", "u0", "down")
	all := networkState(t)
	ip(t, "-4", "rule", "del", "priority", "17000") // the last of many things to be told
	w.repaired(t, all, 1, 1)
}

// What is taken back by ourselves stays away.
func TestWatchPutsNothingBackAfterRemoveRoutes(t *testing.T) {
	isolateTUN(t)
	w := watch(t, testConfig(t.TempDir()))
	must(t, w.RemoveRoutes())
	removed := networkState(t)
	ip(t, "link", "set", testDevice, "down")
	ip(t, "link", "set", testDevice, "up")
	unchanged(t, removed)
	must(t, w.AddRoutes())
	all := networkState(t)
	ip(t, "-4", "rule", "del", "priority", "17000")
	w.repaired(t, all, 1, 1)
}

func TestWatchEndsWithTheDevice(t *testing.T) {
	isolateTUN(t)
	w := watch(t, testConfig(t.TempDir()))
	must(t, w.Missing())
	ip(t, "link", "del", testDevice)
	if err := <-w.ended; !errors.Is(err, ErrGone) || errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "has deleted aarptun0") {
		t.Errorf("Watch: %v, want %v", err, ErrGone)
	}
	if err := w.Missing(); !errors.Is(err, ErrGone) {
		t.Errorf("Missing: %v, want %v", err, ErrGone)
	}
}

// A host whose changes come faster than they are read loses notices, and then
// everything is looked at.
func TestWatchAfterLostNotices(t *testing.T) {
	isolateTUN(t)
	h := mustOpen(t, testConfig(t.TempDir()))
	must(t, h.AddRoutes())
	must(t, h.notices[0].socket.SetReceiveBufferSize(1, false)) // the kernel's least, 2,304 bytes
	all := networkState(t)
	var batch strings.Builder
	for i := range 500 {
		fmt.Fprintf(&batch, "route add 203.0.113.%d/32 dev lo table 300\n", i%250)
		fmt.Fprintf(&batch, "route del 203.0.113.%d/32 dev lo table 300\n", i%250)
	}
	batch.WriteString("rule del priority 17000\n")
	add := exec.Command("ip", "-batch", "-")
	add.Stdin = strings.NewReader(batch.String())
	out, err := add.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ctx, end := context.WithCancel(t.Context())
	defer end()
	ended := make(chan error, 1)
	go func() { ended <- h.Watch(ctx, slog.New(slog.DiscardHandler)) }()
	becomes(t, all)
	end()
	must(t, <-ended)
	if s := h.Stats(); s.Resyncs == 0 || s.Repairs != 1 {
		t.Errorf("%+v, want lost notices and 1 repair", s)
	}
}

// What cannot be put back is said once, and put back as soon as it can be.
func TestWatchGoesOnTrying(t *testing.T) {
	isolateTUN(t)
	w := watch(t, testConfig(t.TempDir()))
	all := networkState(t)
	ip(t, "-4", "rule", "del", "priority", "17000")
	w.repaired(t, all, 1, 1)
	sysctl(t, "net.ipv6.conf."+testDevice+".disable_ipv6", "1") // and the route is gone
	ip(t, "-4", "rule", "del", "priority", "17000")             // lest it be noticed half a minute later
	says := func() bool { return strings.Contains(w.log.String(), "cannot be put back") }
	for deadline := time.Now().Add(10 * time.Second); !says() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if text := w.log.String(); w.Stats().Failures == 0 || !strings.Contains(text, "is IPv6 disabled") {
		t.Errorf("%+v, and the log says %q", w.Stats(), text)
	}
	sysctl(t, "net.ipv6.conf."+testDevice+".disable_ipv6", "0")
	becomes(t, all)
	if text := w.log.String(); strings.Count(text, "cannot be put back") != 1 {
		t.Errorf("it is not said once:\n%s", text)
	}
}

// Whoever takes away again and again is not fought for ever.
func TestWatchSlowsDown(t *testing.T) {
	isolateTUN(t)
	w := watch(t, testConfig(t.TempDir()))
	all := networkState(t)
	for i := range burst {
		if w.Stats().Contest {
			t.Fatalf("after %d repairs it slows down", i)
		}
		ip(t, "-4", "rule", "del", "priority", "17000")
		w.repaired(t, all, uint64(i+1), uint64(i+1))
	}
	if text := w.log.String(); !w.Stats().Contest || strings.Count(text, "again and again") != 1 || !strings.Contains(text, "ManageForeignRoutingPolicyRules=no") {
		t.Errorf("%+v, and the log says %q", w.Stats(), text)
	}
	began := time.Now()
	ip(t, "-4", "rule", "del", "priority", "17000")
	becomes(t, all)
	if waited := time.Since(began); waited < slowFirst*8/10 {
		t.Errorf("one more was made after %v", waited)
	}
}

func TestPace(t *testing.T) {
	var p pace
	now := time.Unix(1_000_000, 0)
	for i := range burst - 1 {
		if p.made(now) || p.wait(now) != apart {
			t.Fatalf("repair %d has the next one wait", i+1)
		}
	}
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30, 30} {
		want *= time.Second
		if !p.made(now) || p.wait(now) != want {
			t.Errorf("the next one waits for %v, want %v", p.wait(now), want)
		}
		now = now.Add(want)
	}
	if !p.slow(now.Add(burstIn - 31*time.Second)) {
		t.Error("it forgets too early")
	}
	if now = now.Add(burstIn); p.slow(now) || p.wait(now) != 0 {
		t.Error("after a quiet minute it still waits")
	}
	for i := range 100 {
		if p.made(now) {
			t.Errorf("repair %d of one every 7 s has the next one wait", i+1)
		}
		now = now.Add(7 * time.Second)
	}
}

// The table of a route is not in the header if it is large.
func TestWatchSeesALargeTable(t *testing.T) {
	isolateTUN(t)
	c := testConfig(t.TempDir())
	c.Table = 170_000
	w := watch(t, c)
	all := networkState(t)
	ip(t, "-6", "route", "del", testPrefix6.String(), "table", "170000")
	w.repaired(t, all, 1, 1)
}

// The whole address space is routed too, whose destination netlink does not name.
func TestWatchKnowsDefaultRoutes(t *testing.T) {
	isolateTUN(t)
	c := testConfig(t.TempDir())
	c.Prefixes = []netip.Prefix{netip.MustParsePrefix("::/0"), netip.MustParsePrefix("0.0.0.0/0")}
	w := watch(t, c)
	all := networkState(t)
	for i, dst := range []string{"0.0.0.0/0", "::/0"} {
		ip(t, "route", "del", dst, "table", "170")
		w.repaired(t, all, uint64(i+1), uint64(i+1))
	}
}

// What leads packets to clients' addresses back is put back too.
func TestWatchPutsBackReturns(t *testing.T) {
	for _, remove := range []string{"ip -6 rule del priority 17001", "ip -4 route del local default table 171", "nft flush ruleset"} {
		t.Run(remove, func(t *testing.T) {
			isolateFilter(t)
			words := strings.Fields(remove)
			if _, err := exec.LookPath(words[0]); err != nil {
				t.Skip(err)
			}
			w := watch(t, returnsConfig(t.TempDir()))
			wantReturns(t)
			all := networkState(t)
			if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			w.repaired(t, all, 1, 1)
			wantReturns(t)
			if text := w.log.String(); !strings.Contains(text, testReturns) {
				t.Errorf("the log says %q", text)
			}
		})
	}
}

// An address that the device was lent is put back, and no other.
func TestWatchPutsBackTheLentAddress(t *testing.T) {
	for remove, most := range map[string]uint64{"link set aarptun0 down": 1, "-4 addr flush dev aarptun0": 3, "addr del 100::1/128 dev aarptun0": 1} {
		t.Run(remove, func(t *testing.T) {
			isolateTUN(t)
			c := testConfig(t.TempDir())
			c.Address = true
			w := watch(t, c)
			all := networkState(t)
			// The kernel adds an address's own route a little later.
			for deadline := time.Now().Add(10 * time.Second); !strings.Contains(all, "local 100::1 ") && time.Now().Before(deadline); {
				all = networkState(t)
			}
			if !strings.Contains(all, "local 100::1 ") || !strings.Contains(all, "192.0.0.1/32") {
				t.Fatalf("no address is lent:\n%s", all)
			}
			ip(t, strings.Fields(remove)...)
			w.repaired(t, all, 1, most)
		})
	}
}

// Messages of other processes, which anybody may send, are not listened to.
func TestWatchListensToTheKernelAlone(t *testing.T) {
	isolateTUN(t)
	h := mustOpen(t, testConfig(t.TempDir()))
	name, err := unix.Getsockname(h.notices[0].socket.GetFd())
	must(t, err)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	must(t, err)
	defer func() { must(t, unix.Close(fd)) }()
	port := name.(*unix.SockaddrNetlink).Pid
	forged := append([]byte{16, 0, 0, 0, unix.RTM_DELRULE}, make([]byte, 11)...)
	forged[12] = 77 // the port of whoever asked for it
	for _, text := range [][]byte{{1}, make([]byte, 16), forged} {
		must(t, unix.Sendto(fd, text, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: port}))
	}
	must(t, h.AddRoutes())
	rule := exec.Command("ip", "rule", "del", "priority", "17000")
	must(t, rule.Run())
	for by := 0; by != rule.Process.Pid; {
		c, err := h.notices[0].next()
		must(t, err)
		if by = c.by; by == 77 || c.lost {
			t.Fatalf("it believes %+v", c)
		}
	}
}

package nat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func tupleOf(client string, aa string, port uint16) Tuple {
	return Tuple{
		Proto:   TCP,
		Client:  netip.AddrPortFrom(netip.MustParseAddr(client), port),
		Anycast: netip.AddrPortFrom(netip.MustParseAddr(aa), 80),
	}
}

func TestLimits(t *testing.T) {
	big := Limits{100, 100, 100, 100, 100, 100, 100, 100, 100, 100}
	for _, tc := range []struct {
		name   string
		limit  func(*Limits)
		answer bool // flows leave the opening state
		tuple  func(i int) Tuple
		fits   int
	}{
		{"flows", func(l *Limits) { l.Flows = 3 }, true,
			func(i int) Tuple { return tupleOf(fmt.Sprintf("::%x", i+1), "::aa", 1) }, 3},
		{"flows per client", func(l *Limits) { l.FlowsPerClient = 2 }, true,
			func(i int) Tuple { return tupleOf("::1", "::aa", uint16(i)) }, 2},
		{"flows per /64", func(l *Limits) { l.FlowsPerNetwork = 5 }, true,
			func(i int) Tuple { return tupleOf(fmt.Sprintf("2001:db8::%x", i+1), "::aa", 1) }, 5},
		{"UDP flows", func(l *Limits) { l.UDPFlows = 2 }, true, func(i int) Tuple {
			tuple := tupleOf("::1", "::aa", uint16(i))
			tuple.Proto = UDP
			return tuple
		}, 2},
		{"opening", func(l *Limits) { l.Opening = 4 }, false,
			func(i int) Tuple { return tupleOf(fmt.Sprintf("::%x", i+1), fmt.Sprintf("::aa:%x", i), 1) }, 4},
		{"opening per client", func(l *Limits) { l.OpeningPerClient = 2 }, false,
			func(i int) Tuple { return tupleOf("::1", fmt.Sprintf("::aa:%x", i), 1) }, 2},
		{"opening per /64", func(l *Limits) { l.OpeningPerNetwork = 3 }, false,
			func(i int) Tuple { return tupleOf(fmt.Sprintf("::%x", i+1), fmt.Sprintf("::aa:%x", i), 1) }, 3},
		{"opening per anycast address", func(l *Limits) { l.OpeningPerAnycast = 1 }, false,
			func(i int) Tuple { return tupleOf(fmt.Sprintf("::%x", i+1), "::aa", 1) }, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := big
			tc.limit(&l)
			table := newTable(l)
			var flows []*flow
			for i := range 10 {
				limit, reached := table.reached(tc.tuple(i))
				f, err := table.open(tc.tuple(i), func() {})
				if reached != (err != nil) || reached && err != limit {
					t.Errorf("flow %d: reached says %v, %v, and open %v", i, limit, reached, err)
				}
				if (err == nil) != (i < tc.fits) {
					t.Fatalf("flow %d: %v, want %d to fit", i, err, tc.fits)
				}
				if err != nil {
					if got := RefusalFor(err, testAA); got != (Refusal{Reason: Busy}) {
						t.Errorf("told %v", got)
					}
					continue
				}
				flows = append(flows, f)
				if tc.answer {
					table.answered(f)
				}
			}
			table.close(flows[0])
			if _, err := table.open(tc.tuple(11), func() {}); tc.name != "flows" && err != nil {
				t.Errorf("no room after a flow has ended: %v", err)
			}
			for _, f := range flows[1:] {
				table.close(f)
			}
		})
	}
}

// One client that has all the flows it may have is counted, and is in nobody's
// way; nor is a /64 in that of another, nor of IPv4.
func TestLimitsPerClientLeaveOthersAlone(t *testing.T) {
	l := DefaultLimits()
	l.FlowsPerClient, l.FlowsPerNetwork = 2, 4
	table := newTable(l)
	var flows []*flow
	for i, tc := range []struct {
		client  string
		limit   Limit
		atLimit int
	}{
		{"2001:db8::1", 0, 0}, {"2001:db8::1", 0, 1}, {"2001:db8::1", LimitFlowsPerClient, 1},
		{"2001:db8::2", 0, 1}, {"2001:db8::3", 0, 1}, {"2001:db8::4", LimitFlowsPerNetwork, 1},
		{"2001:db8:0:1::1", 0, 1}, {"192.0.2.1", 0, 1}, {"192.0.2.1", 0, 2}, {"192.0.2.1", LimitFlowsPerClient, 2},
		{"192.0.2.2", 0, 2}, {"192.0.2.3", 0, 2}, {"192.0.2.4", 0, 2},
	} {
		f, err := table.open(tupleOf(tc.client, "2001:db8:aa::1", uint16(i+1)), func() {})
		if err == nil {
			flows = append(flows, f)
		}
		if tc.limit == 0 && err != nil || tc.limit != 0 && err != tc.limit {
			t.Errorf("flow %d, of %s: %v, want %v", i, tc.client, err, tc.limit)
		}
		if _, _, n, _ := table.size(); n != tc.atLimit {
			t.Errorf("after flow %d %d clients are at the limit, want %d", i, n, tc.atLimit)
		}
	}
	for _, f := range flows {
		table.close(f)
	}
	if _, _, n, _ := table.size(); n != 0 {
		t.Errorf("%d clients are at the limit when all flows have gone", n)
	}
}

func TestUDPFlowsLeaveRoomForOthers(t *testing.T) {
	l := DefaultLimits()
	l.Flows, l.UDPFlows = 4, 2
	table := newTable(l)
	for port, proto := range []Proto{UDP, UDP, UDP, TCP, Echo} {
		if _, reached := table.reached(testTuple(proto, uint16(port), 80)); reached != (port == 2) {
			t.Errorf("flow %d, %v: reached says %v", port, proto, reached)
		} else if !reached {
			if _, err := table.open(testTuple(proto, uint16(port), 80), func() {}); err != nil {
				t.Error(err)
			}
		}
	}
}

// However few files there may be, a daemon works, and has some left.
func TestLimitsForFewFiles(t *testing.T) {
	if got := DefaultLimits().For(EnoughFiles); got != DefaultLimits() {
		t.Errorf("with enough files: %+v", got)
	}
	for _, files := range []int{0, 1, 16, 256, 1024, 4096, 20000, 65536, 174763, EnoughFiles} {
		l := DefaultLimits().For(files)
		if err := l.validate(); err != nil {
			t.Errorf("%d files: %v", files, err)
		}
		most := DefaultLimits()
		if l.Flows > most.Flows || l.FlowsPerClient > l.Flows || l.FlowsPerNetwork > l.Flows || l.OpeningPerNetwork > l.Opening || l.UDPFlows >= l.Flows || l.OpeningPerClient > l.Opening || l.OpeningPerAnycast > l.Opening {
			t.Errorf("%d files: %+v", files, l)
		}
		if files >= 256 && (l.FlowsPerNetwork <= l.FlowsPerClient || l.OpeningPerNetwork <= l.OpeningPerClient) {
			t.Errorf("%d files: one client can shut out its /64: %+v", files, l)
		}
		if left := files - l.Flows - l.Opening; files >= 256 && left < files/100+8 {
			t.Errorf("%d files: %d are left by %+v", files, left, l)
		}
	}
}

// Limits that change count for flows that are yet to come, and what is counted
// stays right.
func TestLimitsChangeWhileFlowsExist(t *testing.T) {
	table := newTable(DefaultLimits())
	var flows []*flow
	for port := range uint16(3) {
		f, err := table.open(testTuple(UDP, port+1, 80), func() { t.Error("a flow was cut") })
		if err != nil {
			t.Fatal(err)
		}
		table.answered(f)
		flows = append(flows, f)
	}
	want := func(what string, atLimit int, limit error) {
		t.Helper()
		if _, _, n, _ := table.size(); n != atLimit {
			t.Errorf("%s: %d clients are at the limit, want %d", what, n, atLimit)
		}
		f, err := table.open(testTuple(UDP, 99, 80), func() {})
		if err != limit {
			t.Errorf("%s: %v, want %v", what, err, limit)
		}
		if err == nil {
			table.close(f)
		}
	}
	want("at first", 0, nil)
	fewer := DefaultLimits()
	fewer.FlowsPerClient = 2
	table.setLimits(fewer)
	want("fewer than there are", 1, LimitFlowsPerClient)
	table.close(flows[0])
	want("as many", 1, LimitFlowsPerClient)
	table.close(flows[1])
	want("one less", 0, nil)
	rate := DefaultLimits()
	rate.UDPFlowsPerSecond = 1
	table.setLimits(rate)
	want("one a second", 0, nil)
	want("one a second, again", 0, LimitUDPRate)
	table.setLimits(DefaultLimits())
	want("as at first", 0, nil)
	if n := table.within(netip.MustParsePrefix("::/0")) + table.within(netip.MustParsePrefix("0.0.0.0/0")); n != 1 {
		t.Errorf("%d flows anywhere", n)
	}
	table.close(flows[2])
	if flows, _, atLimit, _ := table.size(); flows != 0 || atLimit != 0 {
		t.Errorf("%d flows are left, %d at the limit", flows, atLimit)
	}
}

// With as many files as the limits want, none of them is lowered.
func TestFilesForLimits(t *testing.T) {
	for i := range 2000 {
		l := Limits{
			Flows: 1 + i*37%9000, FlowsPerClient: 1 + i*53%9000, FlowsPerNetwork: 1 + i*71%9000, UDPFlows: 1 + i*89%9000,
			Opening: 1 + i*97%3000, OpeningPerClient: 1 + i*101%3000, OpeningPerNetwork: 1 + i*103%3000, OpeningPerAnycast: 1 + i*107%3000,
			EchoesPerSecond: 1, UDPFlowsPerSecond: 1,
		}
		if got := l.For(l.Files()); got != l {
			t.Fatalf("%+v with %d files: %+v", l, l.Files(), got)
		}
	}
	if files := DefaultLimits().Files(); files > EnoughFiles {
		t.Errorf("%d files are enough for the default limits, and EnoughFiles is %d", files, EnoughFiles)
	}
}

func TestTableIsEmptyAfterItsFlows(t *testing.T) {
	table := newTable(DefaultLimits())
	f, err := table.open(testTuple(TCP, 1, 80), func() {})
	if err != nil {
		t.Fatal(err)
	}
	isCut := false
	f.cut = func() { isCut = true }
	again, err := table.open(testTuple(TCP, 1, 80), func() {})
	if err != nil {
		t.Fatalf("a client that began anew with its port: %v", err)
	}
	table.close(f)
	if flows := table.snapshot(); !isCut || len(flows) != 1 || flows[0].ID != again.id {
		t.Errorf("flows %+v", flows)
	}
	table.close(again)
	if n := len(table.flows) + len(table.perClient) + len(table.openClient) + len(table.openAA) + len(table.perNetwork) + len(table.openNet) + table.opening + table.atLimit + table.count; n != 0 {
		t.Errorf("%d entries left: %+v", n, table)
	}
}

func TestNewNamesWhatIsWrong(t *testing.T) {
	ok := Config{
		Resolver: &fakeResolver{}, Outside: &fakeNet{},
		Pinger: fakePinger(func(context.Context, netip.Addr, []byte) ([]byte, error) { return nil, nil }),
	}
	limits, timeouts := DefaultLimits(), DefaultTimeouts()
	limits.Opening = 0
	timeouts.UDPIdle = -time.Second
	for want, change := range map[string]func(*Config){
		"nat: Resolver, Outside and Pinger are required":   func(c *Config) { c.Pinger = nil },
		"nat: limit Opening is 0: it must be at least 1":   func(c *Config) { c.Limits = limits },
		"nat: timeout UDPIdle is -1s: it must be positive": func(c *Config) { c.Timeouts = timeouts },
		"": func(*Config) {},
	} {
		c := ok
		change(&c)
		_, err := New(c)
		if got := fmt.Sprint(err); err != nil && got != want || (err == nil) != (want == "") {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestRefusalFor(t *testing.T) {
	relayed := func(kind, code uint8, info uint32) (*networkError, Refusal) {
		icmp := ICMP{testU1, kind, code, info}
		return &networkError{errno: syscall.EHOSTUNREACH, icmp: icmp}, Refusal{Relayed, icmp}
	}
	policy, policyTold := relayed(1, 5, 0)
	tooBig, tooBigTold := relayed(2, 0, 1300)
	query, _ := relayed(128, 0, 0)
	plain := func(r Reason) Refusal { return Refusal{Reason: r} }
	for _, tc := range []struct {
		err  error
		want Refusal
	}{
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, plain(Refused)},
		{fmt.Errorf("x: %w", syscall.ENETUNREACH), plain(NetUnreachable)},
		{syscall.EHOSTUNREACH, plain(Unreachable)},
		{syscall.EACCES, plain(Prohibited)},
		{syscall.EPERM, plain(Prohibited)},
		{syscall.ETIMEDOUT, plain(Timeout)},
		{os.ErrDeadlineExceeded, plain(Timeout)},
		{context.DeadlineExceeded, plain(Timeout)},
		{context.Canceled, plain(Timeout)},
		{LimitDraining, plain(Timeout)},
		{LimitFlows, plain(Busy)},
		{fmt.Errorf("x: %w", LimitUDPRate), plain(Busy)},
		{syscall.EMFILE, plain(Busy)},
		{syscall.EADDRNOTAVAIL, plain(Busy)},
		{errors.New("something new"), plain(Unreachable)},
		{fmt.Errorf("x: %w", policy), policyTold},
		{fmt.Errorf("x: %w", tooBig), tooBigTold},
		{query, plain(Unreachable)}, // no error about a packet: only its errno counts
	} {
		if got := RefusalFor(tc.err, testAA); got != tc.want {
			t.Errorf("RefusalFor(%v) = %v, want %v", tc.err, got, tc.want)
		}
	}
}

func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := DefaultLimits()
		l.UDPFlowsPerSecond, l.EchoesPerSecond = 2, 3
		table := newTable(l)
		open := func(p Proto, port int) error {
			tuple := testTuple(p, uint16(port), 80)
			if p == Echo {
				_, err := table.use(tuple)
				return err
			}
			_, err := table.open(tuple, func() {})
			return err
		}
		for port := range 5 {
			for range 3 { // to ask takes nothing
				if _, reached := table.reached(testTuple(UDP, uint16(port), 80)); reached != (port >= 2) {
					t.Errorf("UDP flow %d: reached says %v", port, reached)
				}
			}
			if err := open(UDP, port); (err == nil) != (port < 2) || err != nil && !errors.Is(err, LimitUDPRate) {
				t.Errorf("UDP flow %d: %v", port, err)
			}
			if err := open(Echo, port); (err == nil) != (port < 3) || err != nil && !errors.Is(err, LimitEchoRate) {
				t.Errorf("echo %d: %v", port, err)
			}
			if err := open(TCP, port); err != nil {
				t.Errorf("TCP flow %d: %v", port, err) // has no rate
			}
		}
		time.Sleep(500 * time.Millisecond)
		if err := open(UDP, 100); err != nil {
			t.Errorf("after half a second there is no room for one of two a second: %v", err)
		}
		if err := open(UDP, 101); !errors.Is(err, LimitUDPRate) {
			t.Errorf("a second one: %v", err)
		}
	})
}

func TestFlowInfoJSON(t *testing.T) {
	in := FlowInfo{ID: 7, Proto: UDP, Client: netip.MustParseAddrPort("[::1]:1"), Anycast: netip.MustParseAddrPort("[::2]:2"), Member: testU1, State: Established}
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out FlowInfo
	if err := json.Unmarshal(text, &out); err != nil || out != in {
		t.Errorf("%s came back as %+v, %v", text, out, err)
	}
	for _, bad := range []string{`{"proto":"sctp"}`, `{"state":"gone"}`} {
		if json.Unmarshal([]byte(bad), &out) == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

// TestFewer: each time that most of many flows have gone is said once, and the
// last of them too; a few flows that come and go are worth nothing.
func TestFewer(t *testing.T) {
	table := newTable(DefaultLimits())
	var flows []*flow
	want := func(said bool, what string) {
		t.Helper()
		select {
		case <-table.fewer:
			if !said {
				t.Errorf("%s: said", what)
			}
		default:
			if said {
				t.Errorf("%s: not said", what)
			}
		}
	}
	open := func(n int) {
		for range n {
			f, err := table.open(tupleOf("::1", "::aa", uint16(table.lastID)), func() {})
			if err != nil {
				t.Fatal(err)
			}
			table.answered(f)
			flows = append(flows, f)
		}
	}
	closeTo := func(n int) {
		for _, f := range flows[n:] {
			table.close(f)
		}
		flows = flows[:n]
	}
	open(manyFlows - 1)
	closeTo(0)
	want(false, "few flows have gone")
	open(40 * manyFlows)
	want(false, "many have come")
	closeTo(11 * manyFlows)
	want(false, "a quarter is left, and more")
	closeTo(10 * manyFlows)
	want(true, "three quarters have gone")
	closeTo(9 * manyFlows)
	want(false, "some more have gone")
	closeTo(manyFlows / 5)
	want(true, "most of the rest have gone")
	for range 3 {
		open(manyFlows / 4)
		closeTo(manyFlows / 10)
		want(false, "a few have come and gone")
	}
	closeTo(0)
	want(true, "the last have gone")
	open(1)
	closeTo(0)
	want(false, "one has come and gone")
}

// BenchmarkTableOpenClose shows that a table is no slower when it is full.
func BenchmarkTableOpenClose(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			table := newTable(DefaultLimits())
			for i := range n {
				f, err := table.open(tupleOf("::1", "::aa", uint16(i)), func() {})
				if err != nil {
					b.Fatal(err)
				}
				table.answered(f)
			}
			cut, tuple := func() {}, tupleOf("::2", "::aa", 1)
			b.ReportAllocs()
			for b.Loop() {
				f, err := table.open(tuple, cut)
				if err != nil {
					b.Fatal(err)
				}
				table.answered(f)
				table.close(f)
			}
		})
	}
}

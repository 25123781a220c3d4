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
	big := Limits{100, 100, 100, 100, 100}
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
		{"opening", func(l *Limits) { l.Opening = 4 }, false,
			func(i int) Tuple { return tupleOf(fmt.Sprintf("::%x", i+1), fmt.Sprintf("::aa:%x", i), 1) }, 4},
		{"opening per client", func(l *Limits) { l.OpeningPerClient = 2 }, false,
			func(i int) Tuple { return tupleOf("::1", fmt.Sprintf("::aa:%x", i), 1) }, 2},
		{"opening per anycast address", func(l *Limits) { l.OpeningPerAnycast = 1 }, false,
			func(i int) Tuple { return tupleOf(fmt.Sprintf("::%x", i+1), "::aa", 1) }, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := big
			tc.limit(&l)
			table := newTable(l)
			var flows []*flow
			for i := range 10 {
				f, err := table.open(tc.tuple(i), func() {})
				if (err == nil) != (i < tc.fits) {
					t.Fatalf("flow %d: %v, want %d to fit", i, err, tc.fits)
				}
				if err != nil {
					if ReasonFor(err) != Busy {
						t.Errorf("told %v", ReasonFor(err))
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

func TestTableIsEmptyAfterItsFlows(t *testing.T) {
	table := newTable(DefaultLimits())
	f, err := table.open(testTuple(TCP, 1, 80), func() {})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := table.open(testTuple(TCP, 1, 80), func() {}); !errors.Is(err, errExists) {
		t.Errorf("a tuple was entered twice: %v", err)
	}
	table.close(f)
	if n := len(table.flows) + len(table.perClient) + len(table.openClient) + len(table.openAA) + table.opening; n != 0 {
		t.Errorf("%d entries left: %+v", n, table)
	}
}

func TestNewNamesWhatIsWrong(t *testing.T) {
	ok := Config{
		Resolver: &fakeResolver{}, Dial: (&fakeNet{}).dial,
		Pinger: fakePinger(func(context.Context, netip.Addr, []byte) ([]byte, error) { return nil, nil }),
	}
	limits, timeouts := DefaultLimits(), DefaultTimeouts()
	limits.Opening = 0
	timeouts.UDPIdle = -time.Second
	for want, change := range map[string]func(*Config){
		"nat: Resolver, Dial and Pinger are required":      func(c *Config) { c.Pinger = nil },
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

func TestReasonFor(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want Reason
	}{
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, Refused},
		{fmt.Errorf("x: %w", syscall.ENETUNREACH), NetUnreachable},
		{syscall.EHOSTUNREACH, Unreachable},
		{syscall.EACCES, Prohibited},
		{syscall.EPERM, Prohibited},
		{syscall.ETIMEDOUT, Timeout},
		{os.ErrDeadlineExceeded, Timeout},
		{context.DeadlineExceeded, Timeout},
		{context.Canceled, Timeout},
		{errDraining, Busy},
		{errBusy, Busy},
		{syscall.EMFILE, Busy},
		{errors.New("something new"), Unreachable},
	} {
		if got := ReasonFor(tc.err); got != tc.want {
			t.Errorf("ReasonFor(%v) = %v, want %v", tc.err, got, tc.want)
		}
	}
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

func BenchmarkTableOpenClose(b *testing.B) {
	table := newTable(DefaultLimits())
	tuple := testTuple(TCP, 1, 80)
	b.ReportAllocs()
	for b.Loop() {
		f, err := table.open(tuple, func() {})
		if err != nil {
			b.Fatal(err)
		}
		table.answered(f)
		table.close(f)
	}
}

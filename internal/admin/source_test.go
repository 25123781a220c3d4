package admin

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"aarptun/nat"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixed is a source that always says the same. Status blocks until held is
// closed, if there is one; asked gets a value for each call of it.
type fixed struct {
	status  Status
	flows   []nat.FlowInfo
	pins    []Pin
	flushed []string // what was asked of Flush
	err     error    // its error
	asked   chan struct{}
	held    chan struct{}
}

func (f *fixed) Status() Status {
	if f.asked != nil {
		f.asked <- struct{}{}
	}
	if f.held != nil {
		<-f.held
	}
	return f.status
}
func (f *fixed) Flows() []nat.FlowInfo { return f.flows }
func (f *fixed) Pins() []Pin           { return f.pins }

func (f *fixed) Flush(aa netip.Addr, cut bool) (Flushed, error) {
	f.flushed = append(f.flushed, fmt.Sprint(aa, " ", cut))
	return Flushed{Pins: 1, Cut: 2}, f.err
}

func newFixed() *fixed {
	started := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	aa, ua := netip.MustParseAddr("2001:db8:aa::1"), netip.MustParseAddr("2001:db8:12::2")
	return &fixed{
		status: Status{
			Version: "1.2.3", PID: 7, Started: started, Device: "aarptun0", MTU: 1500,
			Prefixes:   []netip.Prefix{netip.MustParsePrefix("2001:db8:aa::/64")},
			Goroutines: 30, OpenFiles: 12, ResidentBytes: 20 << 20, Rooms: map[string]any{},
		},
		flows: []nat.FlowInfo{{
			ID: 1, Proto: nat.TCP, Client: netip.MustParseAddrPort("[2001:db8:1::2]:4000"), Anycast: netip.AddrPortFrom(aa, 7000),
			Member: ua, State: nat.Established, Started: started, Active: started, Sent: 1, Got: 2,
		}},
		pins: []Pin{{Anycast: aa, Member: ua, Method: "icmp", Trust: "nonce", RTT: 166, TTL: 30000}},
	}
}

// serve runs a server at path until the test ends or stop is called; stop
// returns what Run did.
func serve(t *testing.T, path string, source Source) (stop func() error) {
	t.Helper()
	s, err := Listen(path, source, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	var result error
	stopped := false
	stop = func() error {
		cancel()
		if !stopped {
			stopped, result = true, <-ended
		}
		return result
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return stop
}

func socketPath(t *testing.T) string { return filepath.Join(t.TempDir(), "admin.sock") }

// names lists a directory.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	list := []string{}
	for _, entry := range entries {
		list = append(list, entry.Name())
	}
	return list
}

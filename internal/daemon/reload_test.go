package daemon

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"aarptun/internal/admin"
	"aarptun/internal/config"
	"aarptun/nat"
)

// desk is where a test lays the next configuration.
type desk struct {
	mu    sync.Mutex
	cfg   config.Config
	err   error
	level slog.LevelVar
}

func (d *desk) reload() Reload {
	return Reload{File: "/etc/test.toml", Level: &d.level, Load: func() (config.Config, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.cfg, d.err
	}}
}

// hangUp lays a configuration, sends SIGHUP, and waits until that has been dealt
// with.
func (d *desk) hangUp(t *testing.T, r *running, cfg config.Config, err error) admin.Status {
	t.Helper()
	d.mu.Lock()
	d.cfg, d.err = cfg, err
	d.mu.Unlock()
	before, statusErr := r.client.Status(t.Context())
	if statusErr != nil {
		t.Fatal(statusErr)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	return r.status(t, func(s admin.Status) bool { return s.Config.Reloaded.After(before.Config.Reloaded) })
}

// status waits for a status that is as it should be.
func (r *running) status(t *testing.T, ok func(admin.Status) bool) admin.Status {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		s, err := r.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("the status stays %+v", s)
		}
	}
}

func routes(t *testing.T) string {
	t.Helper()
	return ip(t, "rule") + ip(t, "-6", "rule") + ip(t, "route", "show", "table", "all") + ip(t, "-6", "route", "show", "table", "all")
}

// A reload changes what it may while flows go on, a bad one changes nothing, and
// neither does one that asks for what only a start can do.
func TestReload(t *testing.T) {
	cfg := onHost(t)
	d := &desk{}
	r := startReloading(t, cfg, d.reload())
	udp, tcp := dial(t, "udp", testAA), dial(t, "tcp", testAA6)
	exchange(t, udp, "one")
	exchange(t, tcp, "one")
	flows := func(what string) {
		t.Helper()
		exchange(t, udp, what)
		exchange(t, tcp, what)
	}

	bad := cfg
	bad.Prefixes, bad.LogLevel = nil, slog.LevelError
	before := routes(t)
	s := d.hangUp(t, r, bad, errors.New("/etc/test.toml:7:1: unknown key"))
	if s.Config.Error != "/etc/test.toml:7:1: unknown key" || s.Config.File != "/etc/test.toml" || !s.Config.Loaded.Before(s.Config.Reloaded) {
		t.Errorf("after a bad file: %+v", s.Config)
	}
	fixed := cfg
	fixed.Table, fixed.CacheTTL, fixed.TUN = 171, time.Minute, "other0"
	fixed.Prefixes = fixed.Prefixes[:1]
	if s = d.hangUp(t, r, fixed, nil); !strings.Contains(s.Config.Error, "start it again, or put it back: tun other0, which is aarptun0, table 171, which is 170") {
		t.Errorf("what is fixed: %q", s.Config.Error)
	}
	keyless := cfg
	keyless.PSKFiles = config.PerPrefix[string]{config.AllPrefixes: filepath.Join(t.TempDir(), "none")}
	keyless.Prefixes = slices.Concat(cfg.Prefixes, []netip.Prefix{netip.MustParsePrefix("203.0.113.128/25")})
	if s = d.hangUp(t, r, keyless, nil); !strings.Contains(s.Config.Error, "no such file") {
		t.Errorf("no key file: %q", s.Config.Error)
	}
	if now := routes(t); now != before || len(s.Prefixes) != 2 || d.level.Level() != slog.LevelInfo {
		t.Errorf("bad reloads changed something: %v, %v\n%s", s.Prefixes, d.level.Level(), now)
	}
	flows("after three that changed nothing")
	if pins, err := r.client.Pins(t.Context()); err != nil || len(pins.Pins) != 2 {
		t.Errorf("pins %+v, %v", pins, err)
	}

	// What resolving depends on is changed for one of the prefixes, and its pins go.
	good := cfg
	good.Prefixes = slices.Concat(cfg.Prefixes, []netip.Prefix{netip.MustParsePrefix("2001:db8:ee::/64")})
	good.MemberPrefixes = config.PerPrefix[[]netip.Prefix]{netip.MustParsePrefix(testPrefix6): {netip.MustParsePrefix("2001:db8:ff::/64")}}
	good.LogLevel = slog.LevelWarn
	s = d.hangUp(t, r, good, nil)
	if s.Config.Error != "" || !s.Config.Loaded.Equal(s.Config.Reloaded) || len(s.Prefixes) != 3 || d.level.Level() != slog.LevelWarn {
		t.Errorf("after a good one: %+v, %v", s.Config, s.Prefixes)
	}
	if now := routes(t); !strings.Contains(now, "2001:db8:ee::/64 dev aarptun0") {
		t.Errorf("no route for the new prefix:\n%s", now)
	}
	flows("after one that changed much")
	pins, err := r.client.Pins(t.Context())
	if err != nil || len(pins.Pins) != 1 || pins.Pins[0].Anycast != netip.MustParseAddr(testAA) {
		t.Errorf("the pin whose trust has changed is there, or the other is not: %+v, %v", pins, err)
	}
	refuses := func(aa string, want error) {
		t.Helper()
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(aa, strconv.Itoa(testPort)), patience)
		if err == nil {
			_ = conn.Close()
		}
		if !errors.Is(err, want) {
			t.Errorf("a new flow to %s: %v, want %v", aa, err, want)
		}
	}
	refuses(testAA6, syscall.EHOSTUNREACH) // no member is where one may be
	good.Limits.Flows, good.MemberPrefixes = 2, nil
	if s = d.hangUp(t, r, good, nil); s.Config.Error != "" {
		t.Error(s.Config.Error)
	}
	refuses(testAA6, syscall.ECONNREFUSED)
	flows("over the limit")
	if s = d.hangUp(t, r, cfg, nil); s.Config.Error != "" || len(s.Prefixes) != 2 {
		t.Errorf("back to the first: %+v", s)
	}
	r.status(t, func(s admin.Status) bool { return len(s.Config.Passing) == 0 })
	if now := routes(t); now != before {
		t.Errorf("back to the first, and the routes are not:\n%s", now)
	}
	flows("after all")
	exchange(t, dial(t, "tcp", testAA6), "a new one")
	for _, want := range []string{`err="/etc/test.toml:7:1: unknown key"`, "nothing has changed", "was reloaded"} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, r.log)
		}
	}
}

// A prefix that is not carried any more is let go when its last flow has ended.
func TestPrefixIsLetGoAfterItsFlows(t *testing.T) {
	cfg := onHost(t)
	d := &desk{}
	r := startReloading(t, cfg, d.reload())
	old := dial(t, "tcp", testAA6)
	exchange(t, old, "before")
	fewer := cfg
	fewer.Prefixes = cfg.Prefixes[:1]
	six := netip.MustParsePrefix(testPrefix6)
	s := d.hangUp(t, r, fewer, nil)
	if s.Config.Error != "" || !slices.Equal(s.Config.Passing, []netip.Prefix{six}) || !slices.Equal(s.Prefixes, fewer.Prefixes) {
		t.Fatalf("%+v, %v", s.Config, s.Prefixes)
	}
	exchange(t, old, "after")
	if now := routes(t); !strings.Contains(now, testPrefix6+" dev aarptun0") {
		t.Errorf("it has a flow, and no route:\n%s", now)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	r.status(t, func(s admin.Status) bool { return len(s.Config.Passing) == 0 })
	if now := routes(t); strings.Contains(now, testPrefix6+" dev aarptun0") || strings.Count(now, "lookup 170") != 1 {
		t.Errorf("it has no flow, and a route:\n%s", now)
	}

	// And it comes again.
	if s = d.hangUp(t, r, cfg, nil); s.Config.Error != "" {
		t.Fatal(s.Config.Error)
	}
	again := dial(t, "tcp", testAA6)
	exchange(t, again, "once more")
	if s = d.hangUp(t, r, fewer, nil); len(s.Config.Passing) != 1 {
		t.Errorf("%+v", s.Config)
	}
	if s = d.hangUp(t, r, cfg, nil); len(s.Config.Passing) != 0 || len(s.Prefixes) != 2 {
		t.Errorf("taken away and back: %+v", s.Config)
	}
	exchange(t, again, "still")
	r.stop(t)
}

// While a prefix that is not carried any more is led here, new flows go to the
// address itself, as they would without us, and nobody is asked.
func TestNewFlowsOfAPassingPrefixAreNotPinned(t *testing.T) {
	cfg := onHost(t)
	d := &desk{}
	r := startReloading(t, cfg, d.reload())
	old := dial(t, "tcp", testAA6)
	exchange(t, old, "before")
	fewer := cfg
	fewer.Prefixes = cfg.Prefixes[:1]
	before := d.hangUp(t, r, fewer, nil)
	if _, err := dial(t, "udp", testAA6).Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	r.waits(t, func(flows []nat.FlowInfo) bool {
		return slices.ContainsFunc(flows, func(f nat.FlowInfo) bool {
			return f.Proto == nat.UDP && f.Member == netip.MustParseAddr(testAA6) && f.Sent == 5
		})
	})
	after := r.status(t, func(s admin.Status) bool { return true })
	if after.Resolver.Probes != before.Resolver.Probes || after.Resolver.Pins != before.Resolver.Pins || len(after.Config.Passing) != 1 {
		t.Errorf("it was probed or pinned: %+v, %+v", after.Resolver, after.Config)
	}
	exchange(t, old, "after")
	r.stop(t)
}

// Where the kernel does not take the routes, the other rooms go back too.
func TestReloadThatTheKernelRefuses(t *testing.T) {
	cfg := onHost(t)
	cfg.Prefixes = cfg.Prefixes[:1]
	d := &desk{}
	r := startReloading(t, cfg, d.reload())
	udp := dial(t, "udp", testAA)
	exchange(t, udp, "before")
	// For the kernel this is our rule, for it does not compare the inversion.
	twin := []string{"fwmark", "0xaa", "lookup", "170", "priority", "17000", "protocol", "170"}
	ip(t, append([]string{"-6", "rule", "add"}, twin...)...)
	t.Cleanup(func() { ip(t, append([]string{"-6", "rule", "del"}, twin...)...) })
	before := routes(t)
	more := cfg
	more.Prefixes = append(slices.Clone(cfg.Prefixes), netip.MustParsePrefix(testPrefix6), netip.MustParsePrefix("198.51.101.0/24"))
	more.Static, more.LogLevel = nil, slog.LevelError
	s := d.hangUp(t, r, more, nil)
	if !strings.Contains(s.Config.Error, "cannot be set beside a rule of somebody else's") || len(s.Prefixes) != 1 || len(s.Config.Passing) > 0 {
		t.Errorf("%+v, %v", s.Config, s.Prefixes)
	}
	if now := routes(t); now != before || d.level.Level() != slog.LevelInfo {
		t.Errorf("something has changed: %v\n%s", d.level.Level(), now)
	}
	exchange(t, udp, "after")
	exchange(t, dial(t, "udp", testAA), "a new one, with its static member")
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"aarptun/internal/admin"
	"aarptun/nat"
	"aarptun/resolver"
)

var topAt = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// topSample is what a daemon could show.
func topSample() sample {
	flow := func(id uint64, proto nat.Proto, client, member string, state nat.State, age time.Duration, out, in rate) topFlow {
		f := topFlow{FlowInfo: nat.FlowInfo{
			ID: id, Proto: proto, Client: netip.MustParseAddrPort(client), Anycast: netip.MustParseAddrPort("[2001:db8:aa::1]:443"),
			State: state, Started: topAt.Add(-age),
		}, out: out, in: in}
		if member != "" {
			f.Member = netip.MustParseAddr(member)
		}
		return f
	}
	aa := netip.MustParseAddr("2001:db8:aa::1")
	return sample{
		at: topAt, out: 2101, in: 1.5e9, total: 4, matched: 4,
		status: admin.Status{
			Version: "0.1.0", Started: topAt.Add(-90 * time.Minute), Device: "aarptun0",
			NAT:      nat.Stats{Flows: 4, Opening: 1, Rejected: 3, Limited: map[string]uint64{"flows": 1, "udp_flows": 1}, Reset: 7},
			Resolver: resolver.Stats{Pins: 2},
		},
		flows: []topFlow{
			flow(1, nat.TCP, "[2001:db8:ffff:1234:5678:9abc:def0:1]:65535", "2001:db8:ffff:1234:5678:9abc:def0:2", nat.Established, 3*time.Second, 1, 1.5e9),
			flow(2, nat.UDP, "192.0.2.1:40000", "2001:db8:11::2", nat.Established, 200*time.Second, 2100, 0),
			flow(3, nat.TCP, "[2001:db8:1::2]:40001", "", nat.Resolving, 0, -1, -1),
			flow(4, nat.Echo, "[2001:db8:1::2]:7", "2001:db8:12::2", nat.Established, 100*24*time.Hour, 0, 0),
		},
		pins: []admin.Pin{
			{Anycast: aa, Member: netip.MustParseAddr("2001:db8:11::2"), Method: "icmp", Trust: "nonce", RTT: 166, TTL: 29600},
			{Anycast: netip.MustParseAddr("198.51.100.1"), Member: netip.MustParseAddr("198.51.100.1"), Method: "icmp", Trust: "nonce", SelfAnswer: true, Stale: true},
		},
		members: []admin.Member{
			{Member: netip.MustParseAddr("2001:db8:11::2"), Flows: 2, Pins: 1, Method: "icmp", RTT: 166, Sent: 1234567, Got: 9},
			{Member: netip.MustParseAddr("2001:db8:12::2"), Flows: 1},
		},
	}
}

// press types keys, and returns the screen.
func press(m *topModel, keys ...string) string {
	for _, key := range keys {
		msg := tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(key)}
		if special, ok := map[string]tea.KeyType{"tab": tea.KeyTab, "esc": tea.KeyEsc, "enter": tea.KeyEnter, "down": tea.KeyDown, "back": tea.KeyBackspace}[key]; ok {
			msg = tea.KeyMsg{Type: special}
		}
		if key == " " {
			msg = tea.KeyMsg{Type: tea.KeySpace, Runes: []rune(" ")}
		}
		m.Update(msg)
	}
	return m.View()
}

// shown is a screen that shows s.
func shown(s sample) *topModel {
	m := newTopModel(context.Background(), newSampler(admin.NewClient("/nowhere"), time.Hour), false)
	m.looking = true
	m.Update(sampled(s))
	m.looking = true // so that no key has it look at what is not there
	return m
}

// fits wants the screen to have no more than so many lines and columns.
func fits(t *testing.T, screen string, width, height int) {
	t.Helper()
	lines := strings.Split(screen, "\n")
	if len(lines) != height {
		t.Errorf("%d lines, want %d\n%s", len(lines), height, screen)
	}
	for _, line := range lines {
		if n := len([]rune(line)); n > width {
			t.Errorf("%d columns, want %d: %q", n, width, line)
		}
	}
}

// The screens are kept in testdata/top; UPDATE=1 writes them.
func TestTopScreens(t *testing.T) {
	gone := sample{at: topAt, err: fmt.Errorf("%w at /run/aarptun/admin.sock: start it with 'aarptun run', or name its socket with --admin-socket", admin.ErrNotRunning)}
	for name, screen := range map[string]string{
		"flows":   press(shown(topSample())),
		"pins":    press(shown(topSample()), "2"),
		"members": press(shown(topSample()), "tab", "tab"),
		"filter":  press(shown(topSample()), "/", "1", "2"),
		"gone":    press(shown(gone)),
	} {
		fits(t, screen, 80, 24)
		path := filepath.Join("testdata", "top", name+".txt")
		var lines []string
		for _, line := range strings.Split(screen, "\n") {
			lines = append(lines, strings.TrimRight(line, " "))
		}
		screen = strings.Join(lines, "\n") + "\n"
		if os.Getenv("UPDATE") != "" {
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(screen), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if screen != string(want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, screen, want)
		}
	}
}

func TestTopCountsWhatTheKernelCarries(t *testing.T) {
	s := topSample()
	s.status.Rooms = map[string]any{"nft": map[string]any{"flows": 100000.0}}
	if screen := press(shown(s)); !strings.Contains(screen, "4 flows, 1 opening, 100000 in the kernel   2 pins") {
		t.Errorf("it is not in the head:\n%s", screen)
	}
}

func TestTopKeys(t *testing.T) {
	m := shown(topSample())
	if screen := press(m, "s"); !strings.Contains(screen, "by out") {
		t.Errorf("s:\n%s", screen)
	}
	if screen := press(m, "r"); !strings.Contains(screen, "by out reversed") {
		t.Errorf("r:\n%s", screen)
	}
	if screen := press(m, "/", "1", "x", "back", "2", "enter"); !strings.Contains(screen, "filter: 12 ") || m.typing {
		t.Errorf("a filter:\n%s", screen)
	}
	if screen := press(m, "esc"); strings.Contains(screen, "filter:") {
		t.Errorf("esc:\n%s", screen)
	}
	if screen := press(m, " "); !strings.Contains(screen, "HELD") {
		t.Errorf("space:\n%s", screen)
	}
	m.Update(sampled(sample{err: admin.ErrNotRunning}))
	if screen := m.View(); !strings.Contains(screen, "HELD") {
		t.Errorf("it was held, and changed:\n%s", screen)
	}
	if screen := press(shown(topSample()), "2r1s/12"); !strings.Contains(screen, "[1 flows]  2 pins  3 members  by out reversed  filter: 12_") {
		t.Errorf("keys that came as one:\n%s", screen)
	}
	for _, key := range []tea.KeyMsg{{Type: tea.KeyRunes, Runes: []rune("q")}, {Type: tea.KeyCtrlC}} {
		if cmd := m.key(key); cmd == nil || cmd() != (tea.QuitMsg{}) {
			t.Errorf("%v does not end it", key)
		}
	}
}

// Whatever the size, the screen fits, and all rows can be come to.
func TestTopFitsAndScrolls(t *testing.T) {
	s := topSample()
	for i := range 100 {
		f := s.flows[1]
		f.Client = netip.AddrPortFrom(f.Client.Addr(), uint16(i+1))
		s.flows = append(s.flows, f)
	}
	for _, size := range [][2]int{{80, 24}, {20, 6}, {40, 10}, {200, 50}} {
		m := shown(s)
		m.Update(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
		for _, key := range []string{"1", "2", "3"} {
			fits(t, press(m, key), size[0], size[1])
		}
	}
	m := shown(s)
	for range 200 {
		m.Update(tea.KeyMsg{Type: tea.KeyDown})
	}
	if screen := m.View(); !strings.Contains(screen, "192.0.2.1:100 ") {
		t.Errorf("the last row is not shown:\n%s", screen)
	}
	if screen := press(m, "g"); !strings.Contains(screen, "1.5G") {
		t.Errorf("the first row is not shown:\n%s", screen)
	}
}

func TestTopIsPlainWithoutColour(t *testing.T) {
	m := shown(topSample())
	if strings.Contains(m.View(), "\x1b") {
		t.Error("there are colours")
	}
	m.colour = true
	if !strings.Contains(m.View(), "\x1b[7m") {
		t.Error("there are none")
	}
	t.Setenv("TERM", "xterm")
	for _, value := range []string{"", "1"} {
		t.Setenv("NO_COLOR", value)
		if hasColour() != (value == "") {
			t.Errorf("NO_COLOR=%q: %v", value, hasColour())
		}
	}
}

func TestRates(t *testing.T) {
	s := newSampler(nil, time.Second)
	look := func(after time.Duration, started time.Time, out uint64, flows ...nat.FlowInfo) sample {
		seen := sample{at: topAt.Add(after), status: admin.Status{Started: started, NAT: nat.Stats{BytesOut: out}}}
		s.measure(&seen, flows)
		return seen
	}
	old := nat.FlowInfo{ID: 1, Started: topAt.Add(-time.Hour), Sent: 1000, Got: 50}
	if seen := look(0, topAt, 1000, old); seen.out >= 0 || seen.flows[0].out >= 0 {
		t.Errorf("at first: %+v", seen)
	}
	old.Sent = 3000
	begun := nat.FlowInfo{ID: 2, Started: topAt.Add(time.Second), Sent: 10, Got: 20}
	unseen := nat.FlowInfo{ID: 3, Started: topAt.Add(-time.Second), Sent: 1e6}
	seen := look(2*time.Second, topAt, 5000, old, begun, unseen)
	if seen.out != 2000 || seen.in != 0 || seen.flows[0].out != 1000 || seen.flows[0].in != 0 || seen.flows[1].out != 5 || seen.flows[1].in != 10 || seen.flows[2].out >= 0 {
		t.Errorf("then: %+v", seen)
	}
	flowSorts[0].order(seen.flows, false)
	if order := []uint64{seen.flows[0].ID, seen.flows[1].ID, seen.flows[2].ID}; !slices.Equal(order, []uint64{1, 2, 3}) {
		t.Errorf("by rate: %v", order)
	}
	if again := look(3*time.Second, topAt.Add(time.Minute), 10, nat.FlowInfo{ID: 1, Started: topAt}); again.out >= 0 || again.flows[0].out >= 0 {
		t.Errorf("another daemon: %+v", again)
	}
}

func TestCut(t *testing.T) {
	for _, c := range []struct {
		in    string
		width int
		want  string
	}{{"abc", 3, "abc"}, {"abcdefghij", 7, "ab…ghij"}, {"abcdef", 2, "ab"}, {"abc", 0, ""}, {"[2001:db8:aa::1]:443", 12, "[200…1]:443"}} {
		got := cut(c.in, c.width)
		if n := len([]rune(got)); n > c.width || c.want != got && c.width != 12 {
			t.Errorf("%q to %d: %q, want %q", c.in, c.width, got, c.want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", -time.Second: "0s", 99 * time.Second: "99s", 100 * time.Second: "1m", 100 * time.Minute: "1h", 100 * time.Hour: "4d"} {
		if got := shortTime(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

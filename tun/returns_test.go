package tun

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// returnsConfig is testConfig with what --preserve-source asks for.
func returnsConfig(dir string) Config {
	c := testConfig(dir)
	c.Returns = true
	return c
}

// isolateFilter is isolateTUN for a test that filters packets.
func isolateFilter(t *testing.T) {
	t.Helper()
	isolateTUN(t)
	r, err := openReturns(*returnsOf(testDevice, ruleSpec{Table: 300, Priority: 300, Mark: 300}), nil)
	must(t, err)
	defer func() { must(t, r.close()) }()
	err = r.setFilter()
	if errors.Is(err, ErrConfig) {
		skip(t, err.Error())
	}
	must(t, err)
	r.nft.FlushRuleset()
	must(t, r.nft.Flush())
}

// ruleset is nft(8)'s list, or "" where there is no nft(8).
func ruleset(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return ""
	}
	if err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	return string(out)
}

const testReturns = "return packets: nft table inet aarptun-aarptun0, rules fwmark 0xab lookup 171 priority 17001 protocol 170"

// wantReturns looks for what leads return packets.
func wantReturns(t *testing.T) {
	t.Helper()
	state := networkState(t)
	for _, want := range []string{"17001:	from all fwmark 0xab lookup 171 proto 170", "local default dev lo table 171 proto 170"} {
		if n := strings.Count(state, want); n != 2 {
			t.Errorf("%q is there %d times, want one for each family:\n%s", want, n, state)
		}
	}
	if got := ruleset(t); got != "" && (!strings.Contains(got, "socket transparent 1 socket mark 0x000000aa meta mark set 0x000000ab") || strings.Count(got, "tproxy") != 2) {
		t.Errorf("nft list ruleset:\n%s", got)
	}
}

func TestReturnsAreSetAndTakenBack(t *testing.T) {
	isolateFilter(t)
	before, rules := networkState(t), ruleset(t)
	h := mustOpen(t, returnsConfig(t.TempDir()))
	must(t, h.AddRoutes())
	wantReturns(t)
	must(t, h.AddRoutes()) // sets what is missing
	wantReturns(t)
	must(t, h.RemoveRoutes())
	must(t, h.RemoveRoutes())
	must(t, h.AddRoutes())
	wantReturns(t)
	must(t, h.Close())
	unchanged(t, before)
	if got := ruleset(t); got != rules {
		t.Errorf("nft list ruleset:\n%s", got)
	}
}

// The journal has what a killed run has set, from before it is set.
func TestReturnsOfADeadRun(t *testing.T) {
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			isolateFilter(t)
			dir := t.TempDir()
			before, rules := networkState(t), ruleset(t)
			t.Setenv(childReturns, "1")
			run := startChild(t, s, dir, testDevice)
			if !s.locksDirectory() {
				check(t, "removed from a living run", mustCleanUp(t, dir, false).Removed)
			}
			run.kill(t)
			set := s.name == "second rule"
			if set {
				wantReturns(t)
			}
			var want []string
			for _, line := range wantLeft(t, s, dir) {
				if set && strings.HasPrefix(line, "journal") {
					want = append(want, testReturns)
				}
				want = append(want, line)
			}
			check(t, "would remove", mustCleanUp(t, dir, true).Removed, want...)
			check(t, "removed", mustCleanUp(t, dir, false).Removed, want...)
			unchanged(t, before)
			if got := ruleset(t); got != rules {
				t.Errorf("nft list ruleset:\n%s", got)
			}
		})
	}
}

// Without its journal, it is known by what it is.
func TestReturnsWithoutAJournal(t *testing.T) {
	for name, mend := range map[string]func(t *testing.T, dir string){
		"cleanup": func(t *testing.T, dir string) {
			check(t, "would remove", mustCleanUp(t, dir, true).Removed, rule6, rule4, testReturns)
			check(t, "removed", mustCleanUp(t, dir, false).Removed, rule6, rule4, testReturns)
		},
		"run": func(t *testing.T, dir string) {
			h := mustOpen(t, returnsConfig(dir))
			must(t, h.AddRoutes())
			wantReturns(t)
			must(t, h.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			isolateFilter(t)
			dir := t.TempDir()
			before, rules := networkState(t), ruleset(t)
			t.Setenv(childReturns, "1")
			startChild(t, step{"second rule", 2, nil}, dir, testDevice).kill(t)
			must(t, os.Remove(testJournal(t, dir, testDevice)))
			mend(t, dir)
			unchanged(t, before)
			if got := ruleset(t); got != rules {
				t.Errorf("nft list ruleset:\n%s", got)
			}
		})
	}
}

// A run takes a dead run's place, and one that lives keeps what it has.
func TestReturnsOfAnotherRun(t *testing.T) {
	isolateFilter(t)
	dir := t.TempDir()
	before := networkState(t)
	t.Setenv(childReturns, "1")
	startChild(t, step{"second rule", 2, openAnd((*Host).AddRoutes)}, dir, testDevice).kill(t)
	h := mustOpen(t, returnsConfig(dir))
	must(t, h.AddRoutes())
	wantReturns(t)
	c := testConfig(dir)
	c.Name, c.Table = "aarptun1", 171
	if _, err := Open(c); !errors.Is(err, ErrTableTaken) {
		t.Errorf("a run with the table of return packets: %v, want %v", err, ErrTableTaken)
	}
	c.Table, c.Mark = 180, 0xab
	if _, err := Open(c); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "0xab") {
		t.Errorf("a run whose sockets have the mark of return packets: %v", err)
	}
	c.Mark, c.Returns = 0xa9, true
	if _, err := Open(c); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "0xaa") {
		t.Errorf("a run whose return packets have the mark of sockets: %v", err)
	}
	check(t, "removed from a living run", mustCleanUp(t, dir, false).Removed)
	must(t, h.Close())
	unchanged(t, before)
}

// They are of both families whatever the prefixes are, but not of one that the
// host has not.
func TestReturnsOfOneFamily(t *testing.T) {
	t.Run("IPv6 prefixes", func(t *testing.T) {
		isolateFilter(t)
		sysctl(t, "net.ipv4.conf.all.src_valid_mark", "1") // which only keeps IPv4 from being carried
		before := networkState(t)
		c := returnsConfig(t.TempDir())
		c.Prefixes = c.Prefixes[:1]
		h := mustOpen(t, c)
		must(t, h.AddRoutes())
		wantReturns(t)
		must(t, h.Close())
		unchanged(t, before)
	})
	t.Run("no IPv6", func(t *testing.T) {
		isolateFilter(t)
		sysctl(t, "net.ipv6.conf.all.disable_ipv6", "1")
		before := networkState(t)
		c := returnsConfig(t.TempDir())
		c.Prefixes = c.Prefixes[1:]
		h := mustOpen(t, c)
		must(t, h.AddRoutes())
		if n := strings.Count(networkState(t), "lookup 171"); n != 1 {
			t.Errorf("%d rules lead return packets, want that of IPv4 alone", n)
		}
		must(t, h.Close())
		unchanged(t, before)
	})
}

func TestReturnsAreRefused(t *testing.T) {
	t.Run("src_valid_mark", func(t *testing.T) {
		isolateFilter(t)
		sysctl(t, "net.ipv4.conf.all.src_valid_mark", "1")
		refused(t, returnsConfig(t.TempDir()), ErrConfig, "net.ipv4.conf.all.src_valid_mark is 1")
	})
	t.Run("a route in the next table", func(t *testing.T) {
		isolateFilter(t)
		ip(t, "-6", "route", "add", "2001:db8:5::/48", "dev", "lo", "table", "171")
		refused(t, returnsConfig(t.TempDir()), ErrTableTaken, "table 171 holds 2001:db8:5::/48")
	})
}

func TestFilterNames(t *testing.T) {
	for device, want := range map[string]string{"aarptun0": "aarptun-aarptun0", "tun.1_x-Y": "aarptun-tun.1_x-Y", "a{b}\"ü": "aarptun-a_b___"} {
		if got := filterName(device); got != want {
			t.Errorf("%q: %q, want %q", device, got, want)
		}
	}
}

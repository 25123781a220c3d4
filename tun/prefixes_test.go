package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestPrefixesComeAndGo(t *testing.T) {
	isolateTUN(t)
	before := networkState(t)
	dir := t.TempDir()
	h, err := Open(Config{Name: testDevice, Prefixes: []netip.Prefix{testPrefix6}, Dir: dir})
	must(t, err)
	must(t, h.AddPrefixes([]netip.Prefix{testPrefix6}))
	must(t, h.AddRoutes())
	alone := networkState(t)
	if strings.Contains(ip(t, "-4", "rule"), "17000:") {
		t.Error("there is a rule for no prefix")
	}

	// One of the other family brings its rule, and the journal knows it.
	must(t, h.AddPrefixes([]netip.Prefix{testPrefix4, testPrefix6}))
	golden(t, "both.txt", changed(t))
	if got := len(recordIn(t, dir).Rules); got != 2 {
		t.Errorf("the journal has %d rules", got)
	}
	must(t, h.RemovePrefixes([]netip.Prefix{testPrefix4}))
	unchanged(t, alone)
	if got := len(recordIn(t, dir).Rules); got != 1 {
		t.Errorf("the journal has %d rules", got)
	}
	must(t, h.RemovePrefixes([]netip.Prefix{testPrefix4}))
	unchanged(t, alone)

	// What is led at the end is what is taken back.
	must(t, h.AddPrefixes([]netip.Prefix{testPrefix4}))
	must(t, h.RemovePrefixes([]netip.Prefix{testPrefix6}))
	if rules, routes := ip(t, "-6", "rule"), ip(t, "-4", "route", "show", "table", "170"); strings.Contains(rules, "17000:") || !strings.Contains(routes, testPrefix4.String()) {
		t.Errorf("rules of IPv6:\n%sroutes of IPv4:\n%s", rules, routes)
	}
	must(t, h.RemoveRoutes())
	must(t, h.AddPrefixes([]netip.Prefix{testPrefix6}))
	if strings.Contains(ip(t, "-6", "rule"), "17000:") {
		t.Error("a prefix is led into the device before AddRoutes")
	}
	must(t, h.Close())
	unchanged(t, before)
	if err := h.AddPrefixes([]netip.Prefix{testPrefix6}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	must(t, h.RemovePrefixes([]netip.Prefix{testPrefix6}))
}

// The kernel that does not take one leaves all as it was, the journal too.
func TestPrefixesThatCannotBeAddedChangeNothing(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T){
		"is IPv6 disabled": func(t *testing.T) { sysctl(t, "net.ipv6.conf."+testDevice+".disable_ipv6", "1") },
		"ip -6 rule": func(t *testing.T) {
			ip(t, "-6", "rule", "add", "fwmark", "0xaa", "lookup", "170", "priority", "17000", "protocol", "170")
		},
	} {
		t.Run(name, func(t *testing.T) {
			isolateTUN(t)
			dir := t.TempDir()
			h := mustOpen(t, Config{Name: testDevice, Prefixes: []netip.Prefix{testPrefix4}, Dir: dir})
			must(t, h.AddRoutes())
			spoil(t)
			before, journal := networkState(t), fmt.Sprint(recordIn(t, dir))
			err := h.AddPrefixes([]netip.Prefix{netip.MustParsePrefix("192.0.2.9/32"), testPrefix6})
			if !errors.Is(err, ErrConfig) || !strings.Contains(fmt.Sprint(err), name) || strings.Contains(fmt.Sprint(err), "\n") {
				t.Errorf("%v, want one line that says %q", err, name)
			}
			unchanged(t, before)
			if now := fmt.Sprint(recordIn(t, dir)); now != journal {
				t.Errorf("the journal has %s, had %s", now, journal)
			}
		})
	}
}

// recordIn is what the journal of the test's device says.
func recordIn(t *testing.T, dir string) record {
	t.Helper()
	text, err := os.ReadFile(testJournal(t, dir, testDevice))
	must(t, err)
	r, err := parseRecord(text)
	must(t, err)
	return r
}

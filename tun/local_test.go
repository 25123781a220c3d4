package tun

import (
	"net/netip"
	"testing"
	"time"
)

func TestLocalsAreTheHostsOwnAddresses(t *testing.T) {
	isolateTUN(t)
	uplink(t, "u0", 1500)
	for _, addr := range []string{"2001:db8:1::2/64", "192.0.2.2/24"} {
		ip(t, "addr", "add", addr, "dev", "u0")
	}
	ip(t, "addr", "add", "192.0.3.2", "peer", "192.0.3.3", "dev", "u0")
	ip(t, "addr", "add", "fe80::5/64", "dev", "u0", "nodad")
	locals := mustOpen(t, testConfig(t.TempDir())).Locals()
	for addr, want := range map[string]bool{
		"::1": true, "127.0.0.1": true, "2001:db8:1::2": true, "192.0.2.2": true, "192.0.3.2": true,
		"::ffff:192.0.2.2": true, "fe80::5": true, "fe80::5%u0": true,
		"2001:db8:1::3": false, "192.0.2.3": false, "192.0.3.3": false, "2001:db8:aa::1": false, "::": false,
	} {
		if got := locals.Contains(netip.MustParseAddr(addr)); got != want {
			t.Errorf("Contains(%s) is %v", addr, got)
		}
	}
	if locals.Contains(netip.Addr{}) {
		t.Error("no address is one of the host's")
	}
}

func TestLocalsKeepThemselvesFresh(t *testing.T) {
	isolateTUN(t)
	h := mustOpen(t, testConfig(t.TempDir()))
	locals := h.Locals()
	addr := netip.MustParseAddr("2001:db8:1::2")
	for _, change := range []struct {
		do   string
		want bool
	}{{"add", true}, {"del", false}} {
		before := locals.Contains(addr)
		until := locals.until
		ip(t, "addr", change.do, addr.String()+"/64", "dev", "lo")
		if locals.Contains(addr) != before && time.Now().Before(until) {
			t.Error("the kernel was asked twice in one second")
		}
		locals.until = time.Time{} // the second is over
		// Asked from another namespace, it is still that of the Host.
		from(t, func() error {
			if got := locals.Contains(addr); got != change.want {
				t.Errorf("after %s, Contains is %v", change.do, got)
			}
			return nil
		})
	}
}

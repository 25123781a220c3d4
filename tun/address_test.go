package tun

import (
	"strings"
	"testing"
)

func TestAddressIsLentWhereThereIsNone(t *testing.T) {
	for _, c := range []struct {
		name     string
		have     []string // addresses of the namespace
		lend     bool
		want     []string
		unwanted []string
	}{
		{"none, not asked to", nil, false, nil, []string{"192.0.0.1", "100::1"}},
		{"none", nil, true, []string{"192.0.0.1/32", "100::1/128"}, nil},
		{"IPv4 only", []string{"198.18.7.7/24"}, true, []string{"100::1/128"}, []string{"192.0.0.1"}},
		{"IPv6 only", []string{"2001:db8:77::7/64"}, true, []string{"192.0.0.1/32"}, []string{"100::1"}},
		{"both", []string{"198.18.7.7/24", "fd00::7/64"}, true, nil, []string{"192.0.0.1", "100::1"}},
		{"link-local only", []string{"fe80::7/64"}, true, []string{"192.0.0.1/32", "100::1/128"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			isolateTUN(t)
			for _, a := range c.have {
				args := []string{"addr", "add", a, "dev", "lo"}
				if strings.Contains(a, ":") {
					args = append(args, "nodad")
				}
				ip(t, args...)
			}
			config := testConfig(t.TempDir())
			config.Address = c.lend
			h := mustOpen(t, config)
			must(t, h.AddRoutes())
			got := ip(t, "addr", "show", "dev", testDevice)
			for _, want := range c.want {
				if !strings.Contains(got, want) || strings.Contains(got, "tentative") {
					t.Errorf("%s is not there:\n%s", want, got)
				}
			}
			for _, unwanted := range c.unwanted {
				if strings.Contains(got, unwanted) {
					t.Errorf("%s is there:\n%s", unwanted, got)
				}
			}
			if len(c.want) == 2 {
				if way := ip(t, "route", "get", testAA.String()); !strings.Contains(way, "src 100::1") {
					t.Errorf("a client's source is another: %s", way)
				}
			}
		})
	}
}

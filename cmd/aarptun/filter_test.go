package main

import (
	"net/netip"
	"testing"

	"aarptun/internal/config"
	"aarptun/nat"
)

func TestFilter(t *testing.T) {
	at := func(client, aa string) nat.FlowInfo {
		return nat.FlowInfo{Client: netip.MustParseAddrPort(client), Anycast: netip.MustParseAddrPort(aa)}
	}
	flows := []nat.FlowInfo{
		at("[2001:db8::1]:1", "[2001:db8:aa::1]:80"), at("[2001:db8::2]:1", "[2001:db8:aa::2]:80"),
		at("192.0.2.1:1", "198.51.100.1:80"), at("192.0.2.2:1", "198.51.100.1:0"), at("[fe80::1%eth0]:1", "[2001:db8:aa::1]:80"),
	}
	for _, tc := range []struct {
		clients, anycasts string
		want              []int
	}{
		{"", "", []int{0, 1, 2, 3, 4}},
		{"2001:db8::1", "", []int{0}},
		{"2001:db8::1,192.0.2.0/24", "", []int{0, 2, 3}},
		{"fe80::/10", "", []int{4}},
		{"", "2001:db8:aa::1", []int{0, 4}},
		{"2001:db8::/32", "2001:db8:aa::2,198.51.100.0/24", []int{1}},
		{"::/0", "", []int{0, 1, 4}},
		{"203.0.113.1", "", nil},
	} {
		var f filter
		for list, text := range map[*[]netip.Prefix]string{&f.clients: tc.clients, &f.anycasts: tc.anycasts} {
			if text == "" {
				continue
			}
			if err := config.Prefixes(list).Set(text); err != nil {
				t.Fatal(err)
			}
		}
		got := f.of(append([]nat.FlowInfo{}, flows...))
		same := len(got) == len(tc.want)
		for i := range got {
			same = same && got[i] == flows[tc.want[i]]
		}
		if !same {
			t.Errorf("--client %q --anycast %q: %v, want those of %v", tc.clients, tc.anycasts, got, tc.want)
		}
	}
}

package ping

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"aarptun/resolver/member"
)

// anybody is believed.
func anybody(Reply) bool { return true }

// A router with two equal paths hashes the flow label (RFC 6438): the numbers
// of paths lead to both members.
func TestPathsLeadToBothMembers(t *testing.T) {
	aa := netip.MustParseAddr("2001:db8:aa::1")
	p := newPath(t)
	other := newHost(t)
	p.router.connect("m1", []string{"2001:db8:3::1/64"}, other, "eth0", []string{"2001:db8:3::2/64"})
	other.ip("-6 route add default via 2001:db8:3::1")
	for _, m := range []*host{p.member, other} {
		m.sysctl("ipv6.conf.all.forwarding", "1")
		m.on(func() {
			joined, err := member.Join(aa, "eth0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = joined.Close() })
		})
	}
	p.router.ip("-6 route add 2001:db8:aa::1 nexthop via 2001:db8:2::2 nexthop via 2001:db8:3::2")
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			s := p.client.socket(v, 0)
			ask := func(path int) netip.Addr {
				r, err := s.ProbePath(within(t), aa, path, anybody)
				if err != nil {
					t.Fatal(err)
				}
				return r.From
			}
			for path := range 16 {
				ask(path) // the router learns its neighbours; until then probes are sent again, on the next path
			}
			seen := map[netip.Addr]int{}
			for path := range 16 {
				first := ask(path)
				seen[first]++
				if again := ask(path); again != first {
					t.Errorf("path %d led to %v, and then to %v", path, first, again)
				}
			}
			if len(seen) != 2 {
				t.Errorf("16 paths led to %v", seen)
			}
		})
	}
}

// What differs between paths, as the member sees it: the flow label, and on a
// raw socket the identifier.
func TestPathsDifferOnTheWire(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			p := newPath(t)
			w := p.member.listen()
			s := p.client.socket(v, 0)
			labels, ids4, ids6 := map[uint32]bool{}, map[uint16]bool{}, map[uint16]bool{}
			for path := range 16 {
				for _, to := range []netip.Addr{memberV6, memberV4} {
					if _, err := s.ProbePath(within(t), to, path, anybody); err != nil {
						t.Fatal(err)
					}
				}
				packet, _ := w.next(t, echoRequestV6)
				labels[binary.BigEndian.Uint32(packet)&0xfffff] = true
				ids6[binary.BigEndian.Uint16(packet[44:])] = true
				packet, _ = w.next(t, echoRequestV4)
				ids4[binary.BigEndian.Uint16(packet[24:])] = true
			}
			ids := 1
			if v.raw {
				ids = 16
			}
			if len(labels) != 16 || len(ids4) != ids || len(ids6) != ids {
				t.Errorf("16 paths have %d labels, %d identifiers in IPv4 and %d in IPv6; want 16, %d, %[4]d", len(labels), len(ids4), len(ids6), ids)
			}
		})
	}
}

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// path is how the network treats a situation's UA.
type path struct {
	kind        pathKind
	kind8, code uint8 // of the ICMP error that answers each packet, for crafted
}

type pathKind int

const (
	plain       pathKind = iota // to a member, over wires of 1,500 bytes
	probed                      // the same, and AA is found by probe
	small                       // the wire behind the router takes 1,300 bytes
	distant                     // plain, over the wire that takes time
	blackhole                   // the router drops in silence
	unreachable                 // the router has a route of type unreachable
	prohibited                  // ... of type prohibit
	noRoute                     // ... none at all
	neighbour                   // the last wire has nobody of that address
	crafted                     // the router answers each packet with an ICMP error
	dying                       // a member in a namespace of its own, whose link will go down
	nobody                      // no member behind AA; UA as neighbour
)

// smallMTU is that of path small.
const smallMTU = 1300

func craft(kind, code uint8) path { return path{crafted, kind, code} }

// situation is one thing that a client may meet.
type situation struct {
	name string
	v6   bool
	path path
	run  func(*scene)

	number int // among all, from 1
	family int // among those of its family, from 1
	grave  int // among the dying, from 1; 0 is none
}

// mode is one of the two runs.
type mode int

const (
	direct mode = iota
	through
)

// letter tells the runs apart in addresses and names.
func (m mode) letter() string { return []string{"d", "e"}[m] }

func must(text string, args ...any) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf(text, args...))
}

// aa is the situation's anycast address.
func (s *situation) aa() netip.Addr {
	switch {
	case s.path.kind == probed:
		return netip.MustParseAddr("2001:db8:aa::1")
	case s.path.kind == nobody && s.v6:
		return must("2001:db8:aa::dead:%x", s.number)
	case s.v6:
		return must("2001:db8:aa::a:%x", s.number)
	}
	return must("198.51.100.%d", 10+s.family)
}

// ua is the member's address in one of the runs.
func (s *situation) ua(m mode) netip.Addr {
	if s.v6 {
		switch s.path.kind {
		case probed:
			return netip.MustParseAddr("2001:db8:11::2")
		case neighbour, nobody:
			return must("2001:db8:11::dead:%s:%x", m.letter(), s.number)
		case crafted:
			return must("2001:db8:ee::%x:%x", s.path.kind8, s.path.code)
		case unreachable, prohibited, noRoute, distant:
			return must("2001:db8:f:%s::%x", m.letter(), s.number) // over the slow wire
		case dying:
			return must("2001:db8:%s0%d::2", m.letter(), s.grave)
		}
		return must("2001:db8:%s::%x", m.letter(), s.number)
	}
	switch s.path.kind {
	case neighbour, nobody:
		return must("198.18.%d.%d", 200+int(m), 10+s.family)
	case crafted:
		return must("198.19.%d.%d", s.path.kind8, s.path.code)
	case distant:
		return must("198.18.%d.%d", 3+int(m), 10+s.family) // over the slow wire
	case dying:
		return must("198.18.%d.2", 100+2*s.grave+int(m))
	}
	return must("198.18.%d.%d", 1+int(m), 10+s.family)
}

// netns is where the member of the situation lives.
func (s *situation) netns(m mode) string {
	if s.path.kind == dying {
		return fmt.Sprintf("grave%d%s", s.grave, m.letter())
	}
	return "m1"
}

// plan prints what the lab must have for the situations.
func plan(args []string) (int, error) {
	if len(args) != 1 || !slices.Contains([]string{"routes", "statics", "graves"}, args[0]) {
		return 64, errors.New("usage: fidelity plan routes|statics|graves")
	}
	for _, s := range situations() {
		switch args[0] {
		case "routes": // for ip -batch, on the router
			for _, m := range []mode{direct, through} {
				if r := s.route(m); r != "" {
					fmt.Println("route add", r)
				}
			}
		case "statics": // flags of aarptun
			if s.path.kind != probed && s.path.kind != nobody {
				fmt.Printf("--static %v=%v\n", s.aa(), s.ua(through))
			}
		case "graves": // NETNS ADDR6 ADDR4 GATEWAY6 GATEWAY4, a family of each only
			if s.grave == 0 {
				continue
			}
			for _, m := range []mode{direct, through} {
				four := 100 + 2*s.grave + int(m)
				fmt.Printf("%s 2001:db8:%s0%d::2 198.18.%d.2 2001:db8:%[2]s0%[3]d::1 198.18.%[4]d.1\n",
					s.netns(m), m.letter(), s.grave, four)
			}
		}
	}
	return 0, nil
}

// route is the router's for the UA, unless that of its prefix does.
func (s *situation) route(m mode) string {
	ua := netip.PrefixFrom(s.ua(m), s.ua(m).BitLen())
	switch s.path.kind {
	case blackhole:
		return fmt.Sprintf("blackhole %v", ua)
	case unreachable:
		return fmt.Sprintf("unreachable %v", ua)
	case prohibited:
		return fmt.Sprintf("prohibit %v", ua)
	case noRoute:
		return fmt.Sprintf("throw %v", ua)
	case distant:
		if s.v6 {
			return fmt.Sprintf("%v via 2001:db8:11::2", ua)
		}
		return fmt.Sprintf("%v via 192.0.2.2", ua)
	case small:
		if s.v6 {
			return fmt.Sprintf("%v via 2001:db8:13::2", ua)
		}
		return fmt.Sprintf("%v via 198.18.230.2", ua)
	}
	return ""
}

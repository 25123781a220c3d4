package main

import (
	"fmt"
	"strings"
	"sync"
)

// situations are all there are, numbered.
var situations = sync.OnceValue(func() []*situation {
	var all []*situation
	for _, group := range [][]*situation{tcpSituations(), closeSituations(), tcpErrorSituations(), udpSituations(), udpErrorSituations(), mtuSituations(), pingSituations(), otherSituations()} {
		all = append(all, group...)
	}
	families, graves := map[bool]int{}, 0
	names := map[string]bool{}
	for i, s := range all {
		if names[s.name] {
			panic("two situations are called " + s.name)
		}
		names[s.name] = true
		s.number = i + 1
		families[s.v6]++
		s.family = families[s.v6]
		if s.path.kind == dying {
			graves++
			s.grave = graves
		}
	}
	return all
})

// six is a situation of IPv6: "tcp-refused" becomes "tcp6-refused".
func six(name string, p path, run func(*scene)) []*situation { return of(true, name, p, run) }

// four is a situation of IPv4.
func four(name string, p path, run func(*scene)) []*situation { return of(false, name, p, run) }

// both is a situation of either family.
func both(name string, p path, run func(*scene)) []*situation {
	return append(six(name, p, run), four(name, p, run)...)
}

func of(v6 bool, name string, p path, run func(*scene)) []*situation {
	proto, rest, _ := strings.Cut(name, "-")
	digit := "4"
	if v6 {
		digit = "6"
	}
	return []*situation{{name: fmt.Sprintf("%s%s-%s", proto, digit, rest), v6: v6, path: p, run: run}}
}

// join puts lists of situations together.
func join(lists ...[]*situation) (all []*situation) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// codes are the ICMP errors that the router makes for a group of situations:
// those of destination unreachable (RFC 4443 section 3.1, RFC 792, RFC 1122
// section 3.2.2.1, RFC 1812 section 5.2.7.1), time exceeded and parameter
// problem.
func codes(name string, run func(*scene)) (all []*situation) {
	for code := range uint8(7) {
		all = append(all, six(fmt.Sprintf("%s-icmp-1-%d", name, code), craft(1, code), run)...)
	}
	for _, c := range [][2]uint8{{3, 0}, {4, 1}} {
		all = append(all, six(fmt.Sprintf("%s-icmp-%d-%d", name, c[0], c[1]), craft(c[0], c[1]), run)...)
	}
	for _, c := range [][2]uint8{{3, 0}, {3, 1}, {3, 2}, {3, 3}, {3, 5}, {3, 9}, {3, 10}, {3, 13}, {11, 0}, {12, 0}} {
		all = append(all, four(fmt.Sprintf("%s-icmp-%d-%d", name, c[0], c[1]), craft(c[0], c[1]), run)...)
	}
	return all
}

// roads are the ways in which a real router and a real last hop say no.
//
// An IPv4 router of Linux tells each client of one such route a second, and no
// namespace can change that: IPv4 has the routes in one situation each, of one
// packet, and the rest in codes.
func roads(name string, run func(*scene)) []*situation {
	routes := six
	if name == "ping" {
		routes = both
	}
	return join(
		routes(name+"-unreachable", path{kind: unreachable}, run),
		routes(name+"-prohibited", path{kind: prohibited}, run),
		routes(name+"-no-route", path{kind: noRoute}, run),
		both(name+"-neighbour-gone", path{kind: neighbour}, run),
		both(name+"-nobody", path{kind: nobody}, run),
	)
}

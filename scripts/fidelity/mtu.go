package main

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// The path to the member takes smallMTU from the router on; the client's own
// wire takes 1,500.

func mtuSituations() []*situation {
	narrow := path{kind: small}
	return join(
		both("udp-mtu-do", narrow, udpMTUDo),
		both("udp-mtu-probe", narrow, udpMTUProbe),
		both("udp-mtu-want", narrow, func(s *scene) { udpMTUFragments(s, unix.IPV6_PMTUDISC_WANT) }),
		both("udp-mtu-dont", narrow, func(s *scene) { udpMTUFragments(s, unix.IPV6_PMTUDISC_DONT) }),
		both("udp-mtu-do-own-wire", path{}, udpMTUOwnWire),
		both("udp-mtu-changes", path{}, udpMTUChanges),
		both("udp-mtu-large", narrow, udpMTULarge),
		both("tcp-mtu", narrow, tcpMTU),
		both("tcp-mtu-learned", narrow, tcpMTULearned),
		both("ping-mtu", narrow, pingMTU),
	)
}

// full is the payload of a UDP datagram that fills a packet of mtu bytes.
func (s *scene) full(mtu int) int {
	if s.v6 {
		return mtu - 40 - 8
	}
	return mtu - 20 - 8
}

// udpMTUDo is path MTU discovery by the program (RFC 8201): too large a datagram
// is an error, never fragments.
func udpMTUDo(s *scene) {
	c, m := s.udpPair()
	s.demand(c.set(optDiscover, unix.IPV6_PMTUDISC_DO), "discover")
	s.demand(c.set(optRecvErr, 1), "receive errors")
	s.ask(c, m, 100)
	s.note("large sent %s", c.datagram(s.full(1500), netip.AddrPort{}).how())
	s.note("queue %s", s.queue(c.errors(patience)))
	s.note("client gets %s, member gets %s", c.receive(noWait).datagram(), m.receive(noWait).datagram())
	s.note("MTU %d", c.get(optMTU).N)
	s.note("one byte more than fits sent %s", c.datagram(s.full(smallMTU)+1, netip.AddrPort{}).how())
	s.note("queue %s", s.queue(c.errors(noWait)))
	c.receive(noWait)
	s.ask(c, m, s.full(smallMTU))
}

// udpMTUProbe is RFC 8899: the program sends probes as large as it likes and
// ignores what the kernel has learned.
func udpMTUProbe(s *scene) {
	c, m := s.udpPair()
	s.demand(c.set(optDiscover, unix.IPV6_PMTUDISC_PROBE), "discover")
	s.demand(c.set(optRecvErr, 1), "receive errors")
	s.ask(c, m, 100)
	for range 2 {
		s.note("probe sent %s", c.datagram(s.full(1500), netip.AddrPort{}).how())
		s.note("queue %s", s.queue(c.errors(patience)))
		s.note("member gets %s", m.receive(noWait).datagram())
		c.receive(noWait)
	}
	s.ask(c, m, s.full(smallMTU))
}

// udpMTUFragments leaves it to the kernel; the first datagram may be lost.
func udpMTUFragments(s *scene, discover int) {
	c, m := s.udpPair()
	s.demand(c.set(optDiscover, discover), "discover")
	for range 3 {
		s.note("sent %s", c.datagram(s.full(1500), netip.AddrPort{}).how())
		s.note("member gets %s", m.receive(silence).datagram())
	}
	s.ask(c, m, 100)
}

// udpMTUOwnWire is larger than the client's own wire takes.
func udpMTUOwnWire(s *scene) {
	c, m := s.udpPair()
	s.demand(c.set(optDiscover, unix.IPV6_PMTUDISC_DO), "discover")
	s.demand(c.set(optRecvErr, 1), "receive errors")
	s.note("sent %s", c.datagram(s.full(1500)+1, netip.AddrPort{}).how())
	s.note("queue %s", s.queue(c.errors(noWait)))
	c.receive(noWait)
	s.ask(c, m, s.full(1500))
}

// udpMTUChanges narrows the path of a flow that is going on.
func udpMTUChanges(s *scene) {
	c, m := s.udpPair()
	s.demand(c.set(optDiscover, unix.IPV6_PMTUDISC_DO), "discover")
	s.demand(c.set(optRecvErr, 1), "receive errors")
	s.ask(c, m, s.full(1500))
	s.narrow()
	s.note("sent %s", c.datagram(s.full(1500), netip.AddrPort{}).how())
	s.note("queue %s", s.queue(c.errors(patience)))
	c.receive(noWait)
	s.ask(c, m, s.full(smallMTU))
}

// narrow moves the way to UA onto the small wire.
func (s *scene) narrow() {
	ua := netip.PrefixFrom(s.ua(s.mode), s.ua(s.mode).BitLen()).String()
	if s.v6 {
		s.ip("-n", "router", "-6", "route", "add", ua, "via", "2001:db8:13::2")
		return
	}
	s.ip("-n", "router", "route", "add", ua, "via", "198.18.230.2")
}

// udpMTULarge sends fragments that are themselves too large for the path.
func udpMTULarge(s *scene) {
	c, m := s.udpPair()
	for range 2 {
		s.note("sent %s", c.datagram(8000, netip.AddrPort{}).how())
		s.note("member gets %s", m.receive(silence).datagram())
	}
	s.ask(c, m, 100)
}

func tcpMTU(s *scene) {
	c, m := s.pair()
	s.exchangeBytes(c, m, megabytes)
	s.exchangeBytes(m, c, megabytes)
	s.goodbye(c, m)
}

// tcpMTULearned asks what the client's kernel knows of the path after that.
func tcpMTULearned(s *scene) {
	c, m := s.pair()
	s.exchangeBytes(c, m, megabytes)
	s.note("MTU %d", c.get(optMTU).N)
}

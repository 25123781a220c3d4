package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

func udpSituations() []*situation {
	here := path{}
	all := join(
		both("udp-names", here, udpNames),
		six("udp-names-probed", path{kind: probed}, udpNames),
		both("udp-burst", here, udpBurst),
		six("udp-burst-probed", path{kind: probed}, udpBurst),
		both("udp-unsolicited", here, udpUnsolicited),
		both("udp-two-sockets", here, udpTwoSockets),
		both("udp-port-again", here, udpPortAgain),
		both("udp-stranger-connected", here, func(s *scene) { udpStranger(s, true) }),
		both("udp-stranger-unconnected", here, func(s *scene) { udpStranger(s, false) }),
		both("udp-other-port-of-member", here, udpOtherPort),
		both("udp-second-source", here, udpSecondSource),
		both("udp-source-port", here, udpSourcePort),
		both("udp-class-out", here, udpClassOut),
		both("udp-class-in", here, udpClassIn),
		both("udp-hop-limit-in", here, udpHopsIn),
		both("udp-segmentation", here, udpSegmentation),
		six("udp-destination-options", here, func(s *scene) { udpExtension(s, unix.IPV6_DSTOPTS) }),
		six("udp-hop-by-hop-options", here, func(s *scene) { udpExtension(s, unix.IPV6_HOPOPTS) }),
	)
	for _, n := range []int{0, 1, 1200, 1400, 1452, 1453, 1472, 1473, 8000, 65507} {
		all = append(all, both(fmt.Sprintf("udp-size-%d", n), here, udpSize(n))...)
	}
	return append(all, six("udp-size-65527", here, udpSize(65527))...)
}

// udpPair is a member's socket and a client's that is connected to it.
func (s *scene) udpPair() (client, member *end) {
	member, at := s.serve("udp", 0)
	client = s.client("udp")
	s.demand(client.connect(at), "connect")
	return client, member
}

// ask sends one datagram to the member, which returns it.
func (s *scene) ask(c, m *end, n int) {
	if r := c.datagram(n, netip.AddrPort{}); r.how() != "ok" {
		s.give("client sends %s", r.how())
	}
	got := m.receive(patience)
	if got.how() != "ok" {
		s.give("member gets %s", got.how())
	}
	m.do(Call{Op: "sendmsg", Data: notNil(got.Data), Addr: got.Addr})
	s.note("member gets %s, client gets %s", got.datagram(), c.receive(patience).datagram())
}

// notNil keeps an empty datagram one of no bytes: gob makes nil of it.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func udpNames(s *scene) {
	member, at := s.serve("udp", 0)
	c := s.client("udp")
	s.note("sent %s", c.datagram(100, at).how())
	got := member.receive(patience)
	s.note("member gets %s from %s", got.datagram(), s.whose(got.Addr.Addr()))
	if got.how() != "ok" {
		s.give("no answer")
	}
	s.demand(member.datagram(200, got.Addr), "answer")
	reply := c.receive(patience)
	s.note("client gets %s from %s, port as asked %t", reply.datagram(), s.whose(reply.Addr.Addr()), reply.Addr.Port() == at.Port())
}

func udpSize(n int) func(*scene) {
	return func(s *scene) {
		c, m := s.udpPair()
		for _, e := range []*end{c, m} {
			s.demand(e.setSocket(unix.SO_SNDBUF, megabytes), "send buffer")
			s.demand(e.setSocket(unix.SO_RCVBUF, megabytes), "receive buffer")
		}
		s.ask(c, m, n)
		s.ask(c, m, n)
	}
}

// udpBurst sends 50 datagrams before anything is known of the member.
func udpBurst(s *scene) {
	c, m := s.udpPair()
	s.demand(m.setSocket(unix.SO_RCVBUF, megabytes), "receive buffer")
	for n := range 50 {
		if r := c.datagram(500+n, netip.AddrPort{}); r.how() != "ok" {
			s.give("client sends %s", r.how())
		}
	}
	for n := range 50 {
		if got := m.receive(patience); got.N != 500+n || got.how() != "ok" {
			s.give("member's datagram %d is %s", n, got.datagram())
		}
	}
	s.note("member gets 50 in order")
}

// udpUnsolicited has the member send on its own, a second later.
func udpUnsolicited(s *scene) {
	c, m := s.udpPair()
	s.ask(c, m, 10)
	s.demand(c.datagram(20, netip.AddrPort{}), "send")
	peer := m.receive(patience).Addr
	time.Sleep(time.Second) // the situation is that time goes by
	for n := range 3 {
		m.datagram(100+n, peer)
		s.note("client gets %s", c.receive(patience).datagram())
	}
}

// udpTwoSockets asks from two at once; each gets its own answer.
func udpTwoSockets(s *scene) {
	m, at := s.serve("udp", 0)
	a, b := s.client("udp"), s.client("udp")
	s.demand(a.connect(at), "connect")
	s.demand(b.connect(at), "connect")
	together(func() { a.datagram(100, netip.AddrPort{}) }, func() { b.datagram(200, netip.AddrPort{}) })
	for range 2 {
		got := m.receive(patience)
		if got.how() != "ok" {
			s.give("member gets %s", got.how())
		}
		m.datagram(got.N+1, got.Addr)
	}
	s.note("first gets %s", a.receive(patience).datagram())
	s.note("second gets %s", b.receive(patience).datagram())
	s.note("first gets %s more, second %s", a.receive(silence/2).how(), b.receive(silence/2).how())
}

// udpPortAgain uses a port, closes, and uses it again.
func udpPortAgain(s *scene) {
	m, at := s.serve("udp", 0)
	for range 2 {
		c := s.client("udp")
		s.demand(c.bind(withPort(s.self[0], 22000)), "bind")
		s.demand(c.connect(at), "connect")
		s.ask(c, m, 30)
		s.demand(c.close(), "close")
	}
}

// udpStranger has somebody who is not the member answer.
func udpStranger(s *scene, connected bool) {
	m, at := s.serve("udp", 0)
	stranger := s.socket("stranger", s.member(), "udp")
	c := s.client("udp")
	to := at
	if connected {
		s.demand(c.connect(at), "connect")
		to = netip.AddrPort{}
	}
	s.demand(c.datagram(100, to), "send")
	got := m.receive(patience)
	if got.how() != "ok" {
		s.give("member gets %s", got.how())
	}
	s.note("stranger sends %s", stranger.datagram(50, got.Addr).how())
	wait := patience
	if connected {
		wait = silence
	}
	r := c.receive(wait)
	s.note("client gets %s", r.datagram())
	m.datagram(60, got.Addr)
	s.note("then %s", c.receive(patience).datagram())
}

// udpOtherPort has the member answer from another port, as TFTP does (RFC 1350
// section 4).
func udpOtherPort(s *scene) {
	m, at := s.serve("udp", 0)
	other, _ := s.serve("udp", 0)
	c := s.client("udp")
	s.demand(c.datagram(100, at), "send")
	got := m.receive(patience)
	if got.how() != "ok" {
		s.give("member gets %s", got.how())
	}
	s.note("other port sends %s", other.datagram(50, got.Addr).how())
	r := c.receive(patience)
	s.note("client gets %s from %s", r.datagram(), s.whose(r.Addr.Addr()))
}

func udpSecondSource(s *scene) {
	m, at := s.serve("udp", 0)
	c := s.client("udp")
	s.demand(c.bind(addrPortOf(s.self[1])), "bind")
	s.demand(c.connect(at), "connect")
	s.note("sent %s", c.datagram(100, netip.AddrPort{}).how())
	got := m.receive(patience)
	s.note("member gets %s from %s", got.datagram(), s.whose(got.Addr.Addr()))
	m.datagram(60, got.Addr)
	s.note("client gets %s", c.receive(patience).datagram())
}

func udpSourcePort(s *scene) {
	c, m := s.udpPair()
	s.demand(c.datagram(100, netip.AddrPort{}), "send")
	s.note("member sees the client's port: %t", m.receive(patience).Addr.Port() == c.names().Local.Port())
}

// classes are traffic classes: no ECN, ECT(1), ECT(0), CE (RFC 3168 section 5),
// then DSCP EF, AF41 and CS1 with ECN.
var classes = []int{0, 1, 2, 3, 0xb8, 0x88 | 2, 0x20 | 3}

// udpClassOut asks which class the member sees on each datagram.
func udpClassOut(s *scene) {
	c, m := s.udpPair()
	s.demand(m.set(optRecvClass, 1), "receive class")
	for i, class := range classes {
		c.do(Call{Op: "sendmsg", N: 100 + i, Seed: "class", Class: class})
		got := m.receive(patience)
		s.note("%#x arrives as %#x", class, got.Class)
	}
}

// udpClassIn asks which class the client sees on each answer.
func udpClassIn(s *scene) {
	c, m := s.udpPair()
	s.demand(c.set(optRecvClass, 1), "receive class")
	s.demand(c.datagram(100, netip.AddrPort{}), "send")
	peer := m.receive(patience).Addr
	if !peer.IsValid() {
		s.give("member gets nothing")
	}
	for i, class := range classes {
		m.do(Call{Op: "sendmsg", N: 100 + i, Seed: "class", Class: class, Addr: peer})
		got := c.receive(patience)
		s.note("%#x arrives as %#x", class, got.Class)
	}
}

// udpHopsIn asks which hop limit an answer has left.
func udpHopsIn(s *scene) {
	c, m := s.udpPair()
	s.demand(c.set(optRecvHops, 1), "receive hops")
	s.demand(c.datagram(100, netip.AddrPort{}), "send")
	m.datagram(100, m.receive(patience).Addr)
	s.note("hop limit %d", c.receive(patience).Hops)
}

// udpSegmentation sends ten datagrams as one, as QUIC does (udp(7),
// UDP_SEGMENT).
func udpSegmentation(s *scene) {
	c, m := s.udpPair()
	s.demand(c.do(Call{Op: "setopt", Level: unix.SOL_UDP, Option: unix.UDP_SEGMENT, N: 1200}), "segment size")
	s.note("sent %s", c.datagram(10*1200-1, netip.AddrPort{}).how())
	var sizes []int
	for range 10 {
		got := m.receive(patience)
		if got.how() != "ok" {
			break
		}
		sizes = append(sizes, got.N)
	}
	s.note("member gets %v", sizes)
}

// udpExtension sends with an IPv6 extension header that holds only padding (RFC
// 8200 section 4.2).
func udpExtension(s *scene, option int) {
	c, m := s.udpPair()
	padding := append([]byte{0, 0, 1, 4}, bytes.Repeat([]byte{0}, 4)...)
	s.demand(c.do(Call{Op: "setbytes", Level: unix.SOL_IPV6, Option: option, Data: padding}), "extension header")
	s.ask(c, m, 100)
}

package main

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// What a client is told about a connection that cannot be had, and about one
// that no longer works.

func addrPortOf(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 0) }

func withPort(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// somePort is where nothing needs to listen.
const somePort = 7777

func tcpErrorSituations() []*situation {
	syn := func(s *scene) { tcpFails(s, somePort) }
	return join(
		codes("tcp", syn),
		roads("tcp", syn),
		both("tcp-filtered", path{kind: blackhole}, syn),
		both("tcp-filtered-user-timeout", path{kind: blackhole}, tcpUserTimeout),
		both("tcp-filtered-then-open", path{}, tcpFilteredThenOpen),
		both("tcp-hop-limit-1", path{kind: distant}, tcpHopLimit),
		both("tcp-unreachable-midflow", path{}, tcpUnreachableMidflow),
		both("tcp-unreachable-and-back", path{}, tcpUnreachableAndBack),
		both("tcp-member-host-dies-writing", path{kind: dying}, tcpHostDies),
		both("tcp-member-host-dies-keepalive", path{kind: dying}, tcpHostDiesKeepalive),
	)
}

// tcpFails connects to what does not answer as it should, once with and once
// without IP_RECVERR, and notes what the program hears.
func tcpFails(s *scene, port uint16) {
	plainly, queueing := s.client("tcp"), s.client("tcp")
	for _, c := range []*end{plainly, queueing} {
		s.demand(c.setTCP(unix.TCP_SYNCNT, 1), "SYN count")
	}
	s.demand(queueing.set(optRecvErr, 1), "receive errors")
	to := withPort(s.target, port)
	var first, second Result
	together(func() { first = plainly.connect(to) }, func() { second = queueing.connect(to) })
	s.note("connect %s %s", first.how(), first.when())
	s.note("with error queue %s (%s)", second.how(), s.queue(queueing.errors(noWait)))
}

// tcpUserTimeout gives up by TCP_USER_TIMEOUT (RFC 5482).
func tcpUserTimeout(s *scene) {
	c := s.client("tcp")
	s.demand(c.setTCP(unix.TCP_USER_TIMEOUT, 1500), "user time-out")
	r := c.connect(withPort(s.target, somePort))
	s.note("connect %s %s", r.how(), r.when())
}

// tcpFilteredThenOpen drops the first SYN and lets the next through.
func tcpFilteredThenOpen(s *scene) {
	listener, at := s.listen(0, 16)
	s.reroute("blackhole")
	c := s.client("tcp")
	var r Result
	together(
		func() { r = c.connect(at) },
		func() {
			time.Sleep(500 * time.Millisecond) // the first SYN has been sent, the second has not
			s.reroute("")
		},
	)
	s.note("connect %s %s", r.how(), r.when())
	m := s.accept(listener)
	s.exchangeBytes(c, m, 100)
	s.exchangeBytes(m, c, 100)
}

// tcpHopLimit sends a SYN that dies at the router.
func tcpHopLimit(s *scene) {
	_, at := s.listen(0, 16)
	c := s.client("tcp")
	s.demand(c.set(optHops, 1), "hop limit")
	s.demand(c.set(optRecvErr, 1), "receive errors")
	r := c.connect(at)
	s.note("connect %s %s (%s)", r.how(), r.when(), s.queue(c.errors(noWait)))
}

// tcpUnreachableMidflow takes the way to the member from an established
// connection that sends.
func tcpUnreachableMidflow(s *scene) {
	c, m := s.pair()
	s.exchangeBytes(c, m, 100)
	s.demand(c.setTCP(unix.TCP_USER_TIMEOUT, 1500), "user time-out")
	s.reroute("unreachable")
	s.note("client sends %s", c.send(100).how())
	s.note("client polls %s", c.poll(0, 5*time.Second).events())
	s.note("client reads %s", c.do(Call{Op: "recv", N: 1, Wait: time.Millisecond}).how())
	s.reroute("")
}

// tcpUnreachableAndBack is an interruption that TCP bears (RFC 1122 section
// 4.2.3.9).
func tcpUnreachableAndBack(s *scene) {
	c, m := s.pair()
	s.exchangeBytes(c, m, 100)
	s.reroute("unreachable")
	s.note("client sends %s", c.send(100).how())
	s.note("client polls %s", c.poll(unix.POLLIN, 500*time.Millisecond).events())
	s.reroute("")
	s.note("member gets %s", m.recv(100).bytes())
	s.exchangeBytes(m, c, 100)
	s.goodbye(c, m)
}

// die takes down the link of the member's host.
func (s *scene) die() { s.ip("-n", s.netns(s.mode), "link", "set", "eth0", "down") }

// tcpHostDies sends to a host that is no longer there.
func tcpHostDies(s *scene) {
	c, m := s.pair()
	s.exchangeBytes(c, m, 100)
	s.demand(c.setTCP(unix.TCP_USER_TIMEOUT, 2000), "user time-out")
	s.die()
	s.note("client sends %s", c.send(100).how())
	s.note("client polls %s", c.poll(unix.POLLIN, patience).events())
	s.note("client reads %s", c.do(Call{Op: "recv", N: 1, Wait: time.Millisecond}).how())
}

// tcpHostDiesKeepalive only listens.
func tcpHostDiesKeepalive(s *scene) {
	c, m := s.pair()
	s.exchangeBytes(c, m, 100)
	s.keepalive(c)
	s.die()
	s.note("client polls %s", c.poll(unix.POLLIN, patience).events())
	s.note("client reads %s", c.do(Call{Op: "recv", N: 1, Wait: time.Millisecond}).how())
}

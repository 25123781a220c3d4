package main

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

func udpErrorSituations() []*situation {
	nothingThere := func(s *scene) { udpFails(s, somePort) }
	return join(
		both("udp-closed-port", path{}, nothingThere),
		six("udp-closed-port-probed", path{kind: probed}, nothingThere),
		codes("udp", nothingThere),
		roads("udp", nothingThere),
		both("udp-filtered", path{kind: blackhole}, nothingThere),
		six("udp-error-source", craft(1, 1), udpErrorSource),
		four("udp-error-source", craft(3, 13), udpErrorSource),
		both("udp-hop-limit-1", path{}, udpHopLimit),
		both("udp-traceroute", path{}, udpTraceroute),
		both("udp-unreachable-midflow", path{}, udpUnreachableMidflow),
		both("udp-server-closes", path{}, udpServerCloses),
		both("udp-server-back", path{}, udpServerBack),
		both("udp-member-killed", path{}, udpMemberKilled),
		both("udp-member-host-dies", path{kind: dying}, udpHostDies),
	)
}

// udpFails sends from each kind of socket to what does not answer, and notes
// what the program hears.
func udpFails(s *scene, port uint16) {
	to := withPort(s.target, port)
	type try struct {
		name                string
		connected, queueing bool
		heard, queue        Result
	}
	tries := []*try{{name: "connected", connected: true}, {name: "connected with queue", connected: true, queueing: true},
		{name: "unconnected"}, {name: "unconnected with queue", queueing: true}}
	var runs []func()
	for i, t := range tries {
		c := s.client("udp")
		if t.queueing {
			s.demand(c.set(optRecvErr, 1), "receive errors")
		}
		dst := to
		if t.connected {
			s.demand(c.connect(to), "connect")
			dst = netip.AddrPort{}
		}
		runs = append(runs, func() {
			c.datagram(100+i, dst)
			wait := silence
			if t.queueing && s.path.kind != blackhole {
				wait = patience
			}
			t.heard = c.receive(wait)
			if t.queueing {
				t.queue = c.errors(noWait)
			}
		})
	}
	together(runs...)
	for i, t := range tries {
		s.note("%s %s", t.name, t.heard.datagram())
		if t.queueing {
			s.note("queue %s%s", s.queue(t.queue), s.quotes(t.queue, "client", 100+i, to))
		}
	}
}

// quotes checks that each entry of an error queue is about the datagram that
// was sent.
func (s *scene) quotes(r Result, who string, n int, to netip.AddrPort) string {
	for _, q := range r.Queue {
		if q.Origin == "icmp" && (q.To != to || !samePattern(q.Quote, who, n)) {
			return " about something else"
		}
	}
	return ""
}

// udpErrorSource asks whose address an ICMP error comes from.
func udpErrorSource(s *scene) {
	c := s.client("udp")
	s.demand(c.set(optRecvErr, 1), "receive errors")
	s.demand(c.connect(withPort(s.target, somePort)), "connect")
	s.demand(c.datagram(100, netip.AddrPort{}), "send")
	r := c.errors(patience)
	if len(r.Queue) == 0 {
		s.give("queue %s", r.how())
	}
	s.note("error from %s", s.whose(r.Queue[0].Offender))
}

// udpHopLimit sends a datagram that dies at the router, and one that does not.
func udpHopLimit(s *scene) {
	c, m := s.udpPair()
	s.demand(c.set(optRecvErr, 1), "receive errors")
	s.demand(c.set(optHops, 1), "hop limit")
	s.demand(c.datagram(100, netip.AddrPort{}), "send")
	s.note("queue %s", s.queue(c.errors(patience)))
	s.note("client gets %s, member gets %s", c.receive(noWait).datagram(), m.receive(noWait).datagram())
	s.demand(c.set(optHops, 64), "hop limit")
	s.ask(c, m, 100)
}

// udpTraceroute is what traceroute(8) sees: time exceeded from the router, then
// port unreachable from the host.
func udpTraceroute(s *scene) {
	for hops := 1; hops <= 2; hops++ {
		c := s.client("udp")
		s.demand(c.set(optRecvErr, 1), "receive errors")
		s.demand(c.set(optHops, hops), "hop limit")
		s.demand(c.datagram(32, withPort(s.target, uint16(33433+hops))), "send")
		r := c.errors(patience)
		if len(r.Queue) == 0 {
			s.give("hop %d: %s", hops, r.how())
		}
		s.note("hop %d: %s from %s", hops, s.queue(r), s.whose(r.Queue[0].Offender))
	}
}

func udpUnreachableMidflow(s *scene) {
	c, m := s.udpPair()
	s.demand(c.set(optRecvErr, 1), "receive errors")
	s.ask(c, m, 100)
	s.reroute("prohibit")
	s.demand(c.datagram(200, netip.AddrPort{}), "send")
	s.note("queue %s", s.queue(c.errors(patience)))
	s.note("client gets %s", c.receive(noWait).datagram())
	s.reroute("")
	s.ask(c, m, 300)
}

// udpServerCloses has the service end during a flow.
func udpServerCloses(s *scene) {
	c, m := s.udpPair()
	s.ask(c, m, 100)
	s.demand(m.close(), "close")
	s.refusedNow(c)
}

// refusedNow sends to a port that has been closed and notes what is heard.
func (s *scene) refusedNow(c *end) {
	s.demand(c.datagram(100, netip.AddrPort{}), "send")
	s.note("client polls %s", c.poll(unix.POLLIN, patience).events())
	s.note("client gets %s", c.receive(noWait).datagram())
	s.note("sends %s", c.datagram(100, netip.AddrPort{}).how())
	s.note("client polls %s", c.poll(unix.POLLIN, patience).events())
	s.note("sends %s", c.datagram(100, netip.AddrPort{}).how())
}

// udpServerBack has the service end and come back on its port.
func udpServerBack(s *scene) {
	c, m := s.udpPair()
	s.ask(c, m, 100)
	port := m.names().Local.Port()
	s.demand(m.close(), "close")
	s.demand(c.datagram(50, netip.AddrPort{}), "send")
	s.note("client gets %s", c.receive(patience).datagram())
	again, _ := s.serve("udp", port)
	s.ask(c, again, 100)
}

func udpMemberKilled(s *scene) {
	own := s.ownAgent()
	s.remote = s.dialAgent(own)
	c, m := s.udpPair()
	s.ask(c, m, 100)
	own.kill()
	s.refusedNow(c)
}

// udpHostDies sends to a host that is no longer there, until something is
// heard.
func udpHostDies(s *scene) {
	c, m := s.udpPair()
	s.demand(c.set(optRecvErr, 1), "receive errors")
	s.ask(c, m, 100)
	s.die()
	until := time.Now().Add(5 * time.Second)
	for time.Now().Before(until) {
		r := c.datagram(200, netip.AddrPort{})
		if r.how() != "ok" {
			s.note("client's send tells of it")
			return
		}
		if r := c.errors(250 * time.Millisecond); len(r.Queue) > 0 {
			s.note("queue %s", s.queue(Result{Queue: r.Queue[:1]}))
			s.note("client gets %s", c.receive(noWait).datagram())
			return
		}
	}
	s.note("silence")
}

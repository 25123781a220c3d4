package main

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// names that the files without x/sys use.
const (
	unixReuseAddr = unix.SO_REUSEADDR
	errTooBig     = unix.EMSGSIZE
)

const megabytes = 1 << 20

func tcpSituations() []*situation {
	here := path{}
	return join(
		both("tcp-names", here, tcpNames),
		six("tcp-names-probed", path{kind: probed}, tcpNames),
		both("tcp-source-port", here, tcpSourcePort),
		both("tcp-second-source", here, tcpSecondSource),
		both("tcp-refused", here, tcpRefused),
		six("tcp-refused-probed", path{kind: probed}, tcpRefused),
		both("tcp-banner-first", here, tcpBanner),
		both("tcp-one-byte", here, exchange(1)),
		both("tcp-large", here, exchange(16*megabytes)),
		six("tcp-large-probed", path{kind: probed}, exchange(16*megabytes)),
		both("tcp-large-both-at-once", here, tcpBothAtOnce),
		both("tcp-slow-reader-client", here, func(s *scene) { slowReader(s, true) }),
		both("tcp-slow-reader-member", here, func(s *scene) { slowReader(s, false) }),
		both("tcp-small-writes", here, tcpSmallWrites),
		both("tcp-ping-pong", here, tcpPingPong),
		both("tcp-urgent", here, tcpUrgent),
		both("tcp-keepalive", here, tcpKeepalive),
		both("tcp-backlog-full", here, tcpBacklog),
		both("tcp-port-0", here, func(s *scene) { tcpFails(s, 0) }),
		both("tcp-port-1", here, func(s *scene) { edgePort(s, 1) }),
		both("tcp-port-65535", here, func(s *scene) { edgePort(s, 65535) }),
		both("tcp-200-in-a-row", here, tcpInARow),
		both("tcp-source-port-again-member-closed", here, func(s *scene) { portAgain(s, "member") }),
		both("tcp-source-port-again-client-closed", here, func(s *scene) { portAgain(s, "client") }),
		both("tcp-source-port-again-reset", here, func(s *scene) { portAgain(s, "reset") }),
		both("tcp-fast-open", here, tcpFastOpen),
		both("tcp-dscp", here, tcpClass),
		six("tcp-multipath", here, tcpMultipath),
	)
}

// exchangeBytes moves n bytes and notes whether they came as they were sent.
func (s *scene) exchangeBytes(from, to *end, n int) {
	var sent, got Result
	together(func() { sent = from.send(n) }, func() { got = to.recv(n) })
	s.moved(from, to, sent, got)
}

func (s *scene) moved(from, to *end, sent, got Result) {
	switch {
	case sent.how() == "ok" && got.how() == "ok" && sent.N == got.N && sent.Sum == got.Sum:
		s.note("%s to %s %s", from.who, to.who, got.bytes())
	default:
		s.give("%s sends %s, %s gets %s", from.who, sent.bytes(), to.who, got.bytes())
	}
}

// goodbye closes an established connection from both ends and notes what each
// read last.
func (s *scene) goodbye(first, second *end) {
	f := first.fin()
	at := second.drain()
	g := second.fin()
	last := first.drain()
	s.note("%s FIN %s, %s reads %s, FIN %s, %s reads %s", first.who, f.how(), second.who, at.bytes(), g.how(), first.who, last.bytes())
}

func tcpNames(s *scene) {
	c, m := s.pair()
	near, far := c.names(), m.names()
	s.note("client's peer %s, own %s", s.whose(near.Addr.Addr()), s.whose(near.Local.Addr()))
	s.note("member's peer %s, own %s", s.whose(far.Addr.Addr()), s.whose(far.Local.Addr()))
	s.note("port as asked for %t", near.Addr.Port() == far.Local.Port())
	s.goodbye(c, m)
}

// tcpSourcePort asks whether the member sees the client's own port.
func tcpSourcePort(s *scene) {
	c, m := s.pair()
	s.note("member sees the client's port: %t", m.names().Addr.Port() == c.names().Local.Port())
}

// tcpSecondSource binds the client to another of its addresses.
func tcpSecondSource(s *scene) {
	listener, at := s.listen(0, 16)
	c := s.client("tcp")
	s.demand(c.bind(addrPortOf(s.self[1])), "bind")
	s.dial(c, at)
	m := s.accept(listener)
	s.note("client's own %s, member's peer %s", s.whose(c.names().Local.Addr()), s.whose(m.names().Addr.Addr()))
	s.exchangeBytes(c, m, 100)
	s.exchangeBytes(m, c, 100)
}

func tcpRefused(s *scene) {
	closed, at := s.serve("tcp", 0) // bound, so that nobody else takes it, and not listening
	tcpFails(s, at.Port())
	s.demand(closed.close(), "close")
}

func tcpBanner(s *scene) {
	c, m := s.pair()
	s.exchangeBytes(m, c, 40)
	s.exchangeBytes(c, m, 10)
	s.goodbye(c, m)
}

func exchange(n int) func(*scene) {
	return func(s *scene) {
		c, m := s.pair()
		s.exchangeBytes(c, m, n)
		s.exchangeBytes(m, c, n)
		s.goodbye(c, m)
	}
}

func tcpBothAtOnce(s *scene) {
	c, m := s.pair()
	var out, in, outGot, inGot Result
	together(
		func() { out = c.send(8 * megabytes) }, func() { outGot = m.recv(8 * megabytes) },
		func() { in = m.send(8 * megabytes) }, func() { inGot = c.recv(8 * megabytes) },
	)
	s.moved(c, m, out, outGot)
	s.moved(m, c, in, inGot)
	s.goodbye(m, c)
}

// slowReader stalls one end while the other direction flows, then lets it read
// everything.
func slowReader(s *scene, client bool) {
	c, m := s.pair()
	slow, fast := m, c
	if client {
		slow, fast = c, m
	}
	stuffed := fast.fill()
	s.note("%s is stopped after some time: %t", fast.who, stuffed.Late && stuffed.N > 0)
	s.exchangeBytes(slow, fast, 4*megabytes)
	s.demand(fast.fin(), "shutdown")
	got := slow.do(Call{Op: "recv", N: 1 << 30, Slow: time.Millisecond})
	s.note("%s gets all of it: %t, then %s", slow.who, got.N == stuffed.N && got.Sum == stuffed.Sum, got.how())
}

func tcpSmallWrites(s *scene) {
	c, m := s.pair()
	s.demand(c.setTCP(unix.TCP_NODELAY, 1), "nodelay")
	for i := range 1000 {
		r := c.do(Call{Op: "send", N: 17, Seed: fmt.Sprint(i), Wait: patience})
		if r.how() != "ok" {
			s.give("write %d: %s", i, r.how())
		}
	}
	s.note("member gets %s", m.recv(17*1000).bytes())
	s.goodbye(c, m)
}

func tcpPingPong(s *scene) {
	c, m := s.pair()
	for _, e := range []*end{c, m} {
		s.demand(e.setTCP(unix.TCP_NODELAY, 1), "nodelay")
	}
	for i := range 200 {
		if r := c.send(1); r.how() != "ok" {
			s.give("round %d: client sends %s", i, r.how())
		}
		if r := m.recv(1); r.how() != "ok" {
			s.give("round %d: member gets %s", i, r.bytes())
		}
		if r := m.send(1); r.how() != "ok" {
			s.give("round %d: member sends %s", i, r.how())
		}
		if r := c.recv(1); r.how() != "ok" {
			s.give("round %d: client gets %s", i, r.bytes())
		}
	}
	s.note("200 rounds")
	s.goodbye(c, m)
}

// tcpUrgent sends an urgent byte among others (RFC 9293 section 3.8.5).
func tcpUrgent(s *scene) {
	c, m := s.pair()
	s.exchangeBytes(c, m, 5)
	r := c.do(Call{Op: "sendmsg", N: 1, Seed: "urgent", Flags: unix.MSG_OOB})
	s.note("urgent byte sent %s", r.how())
	s.note("member polls %s", m.poll(unix.POLLPRI, patience).events())
	urgent := m.do(Call{Op: "recvmsg", Flags: unix.MSG_OOB, Wait: silence})
	s.note("member's out of band read %s", urgent.datagram())
	s.note("member's stream: %s", m.do(Call{Op: "recv", N: 1, Wait: silence}).bytes())
}

// tcpKeepalive lets a connection be idle for three of the client's keepalive
// probes, then uses it.
func tcpKeepalive(s *scene) {
	c, m := s.pair()
	s.keepalive(c)
	s.note("idle: %s", c.poll(unix.POLLIN, 3500*time.Millisecond).events())
	s.exchangeBytes(c, m, 10)
	s.exchangeBytes(m, c, 10)
	s.goodbye(c, m)
}

// keepalive makes a socket ask after a second of silence, and give up 2 s later.
func (s *scene) keepalive(e *end) {
	s.demand(e.setSocket(unix.SO_KEEPALIVE, 1), "keepalive")
	s.demand(e.setTCP(unix.TCP_KEEPIDLE, 1), "keepalive idle")
	s.demand(e.setTCP(unix.TCP_KEEPINTVL, 1), "keepalive interval")
	s.demand(e.setTCP(unix.TCP_KEEPCNT, 2), "keepalive count")
}

// tcpBacklog has a listener that accepts nothing and room for one connection.
func tcpBacklog(s *scene) {
	_, at := s.listen(0, 0)
	for range 3 {
		c := s.client("tcp")
		s.demand(c.setTCP(unix.TCP_SYNCNT, 1), "SYN count")
		r := c.connect(at)
		s.note("connect %s %s", r.how(), r.when())
	}
}

func edgePort(s *scene, port uint16) {
	listener, at := s.listen(port, 16)
	c := s.client("tcp")
	s.dial(c, at)
	m := s.accept(listener)
	s.note("member's port %d, client's peer port %d", m.names().Local.Port(), c.names().Addr.Port())
	s.exchangeBytes(c, m, 10)
	s.exchangeBytes(m, c, 10)
	s.goodbye(c, m)
}

// tcpInARow opens connections one after another from a range of ports that is
// smaller, each closed by the member first, as servers do.
func tcpInARow(s *scene) {
	listener, at := s.listen(0, 16)
	for i := range 200 {
		s.oneMore(listener, at, 20000+uint16(i%40), fmt.Sprintf("connection %d", i), "member")
	}
	s.note("200 connections")
}

// oneMore opens, uses and closes one connection from the port.
func (s *scene) oneMore(listener *end, at netip.AddrPort, port uint16, what, closer string) {
	c := s.client("tcp")
	s.demand(c.setSocket(unix.SO_REUSEADDR, 1), "reuse address")
	if r := c.bind(withPort(s.self[0], port)); r.how() != "ok" {
		s.give("%s: bind %s", what, r.how())
	}
	if r := c.connectAgain(at); r.how() != "ok" {
		s.give("%s: connect %s", what, r.how())
	}
	m := s.accept(listener)
	if r := c.send(10); r.how() != "ok" {
		s.give("%s: client sends %s", what, r.how())
	}
	if r := m.recv(10); r.how() != "ok" {
		s.give("%s: member gets %s", what, r.bytes())
	}
	first, second := m, c
	if closer == "client" {
		first, second = c, m
	}
	if closer == "reset" {
		s.demand(c.reset(), "reset")
		if r := m.drain(); r.how() != "ECONNRESET" {
			s.give("%s: member reads %s", what, r.bytes())
		}
		s.demand(m.close(), "close")
		return
	}
	s.demand(first.close(), "close")
	if r := second.drain(); r.how() != "EOF" {
		s.give("%s: %s reads %s", what, second.who, r.bytes())
	}
	s.demand(second.close(), "close")
}

// connectAgain connects from a port that was just used: the client's own kernel
// may hold it until the last acknowledgement has come.
func (e *end) connectAgain(to netip.AddrPort) Result {
	until := time.Now().Add(patience)
	for {
		r := e.connect(to)
		if r.Errno != unix.EADDRNOTAVAIL || time.Now().After(until) {
			return r
		}
		time.Sleep(5 * time.Millisecond) // no event tells of it
	}
}

// portAgain uses one source port for one connection after another; who
// closed the one before decides which end keeps it in TIME-WAIT.
func portAgain(s *scene, closer string) {
	listener, at := s.listen(0, 16)
	for i := range 20 {
		s.oneMore(listener, at, 21000, fmt.Sprintf("connection %d", i+1), closer)
	}
	s.note("20 connections")
}

// tcpFastOpen sends data with the SYN, if a cookie is there (RFC 7413).
func tcpFastOpen(s *scene) {
	listener, at := s.listen(0, 16)
	s.demand(listener.setTCP(unix.TCP_FASTOPEN, 8), "fast open")
	for range 2 {
		c := s.client("tcp")
		r := c.do(Call{Op: "sendmsg", N: 100, Seed: "fast", Addr: at, Flags: unix.MSG_FASTOPEN})
		if r.Errno == unix.EINPROGRESS { // no cookie yet, so it only connects
			ready := c.poll(unix.POLLOUT, patience)
			r = c.do(Call{Op: "sendmsg", N: 100, Seed: "fast"})
			s.note("connected %s, sent %s", ready.events(), r.how())
		} else {
			s.note("sent %s", r.how())
		}
		m := s.accept(listener)
		s.note("member gets %s", m.recv(100).bytes())
		s.goodbye(c, m)
	}
}

// tcpClass asks which DSCP the member sees on a flow that asked for one.
func tcpClass(s *scene) {
	listener, at := s.listen(0, 16)
	s.demand(listener.set(optRecvClass, 1), "receive class")
	c := s.client("tcp")
	s.demand(c.set(optClass, 0xb8), "class")
	s.dial(c, at)
	m := s.accept(listener)
	s.demand(m.set(optRecvClass, 1), "receive class")
	s.exchangeBytes(c, m, 10)
	s.note("member sees class %#x", m.do(Call{Op: "class"}).Class)
	s.exchangeBytes(m, c, 10)
}

// tcpMultipath connects a client that would use MPTCP with a server that
// would too (RFC 8684).
func tcpMultipath(s *scene) {
	listener, at := s.serve("mptcp", 0)
	s.demand(listener.listen(16), "listen")
	c := s.client("mptcp")
	s.dial(c, at)
	m := s.accept(listener)
	s.exchangeBytes(c, m, 1000)
	s.exchangeBytes(m, c, 1000)
	info := c.do(Call{Op: "getopt", Level: solMPTCP, Option: 1})
	s.note("client fell back to TCP: %t", info.Errno != 0)
	s.goodbye(c, m)
}

// solMPTCP is SOL_MPTCP; its option 1 is MPTCP_INFO, which a connection that
// fell back to TCP has not.
const solMPTCP = 284

package main

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// What is neither TCP, UDP nor echo.

func otherSituations() []*situation {
	here := path{}
	return join(
		both("other-sctp", here, otherProtocol("132", patience)),
		both("other-gre", here, otherProtocol("47", patience)),
		both("other-experimental", here, otherProtocol("253", patience)),
		both("other-protocol-served", here, otherServed),
		six("other-no-next-header", here, otherProtocol("59", silence)),
		four("other-timestamp-request", here, otherTimestamp),
	)
}

// raw is a connected raw socket of a protocol.
func (s *scene) raw(protocol string) *end {
	c := s.client(protocol)
	s.demand(c.connect(addrPortOf(s.target)), "connect")
	c.empty()
	s.demand(c.set(optRecvErr, 1), "receive errors")
	return c
}

func otherProtocol(protocol string, wait time.Duration) func(*scene) {
	return func(s *scene) {
		c := s.raw(protocol)
		s.note("sent %s", c.do(Call{Op: "sendmsg", N: 32, Seed: "raw"}).how())
		s.note("queue %s", s.queue(c.errors(wait)))
		s.note("client gets %s", c.receive(noWait).how())
	}
}

// otherServed is a protocol that the member speaks.
func otherServed(s *scene) {
	m, _ := s.serve("254", 0)
	c := s.raw("254")
	s.note("sent %s", c.do(Call{Op: "sendmsg", N: 32, Seed: "raw"}).how())
	got := m.receive(silence)
	s.note("member gets %s", got.how())
	if got.how() == "ok" {
		s.note("answers %s", m.do(Call{Op: "sendmsg", N: 64, Seed: "answer", Addr: addrPortOf(got.Addr.Addr())}).how())
		s.note("client gets %s", c.receive(patience).how())
	}
	s.note("queue %s", s.queue(c.errors(noWait)))
}

// otherTimestamp is a kind of ICMP that is not an echo (RFC 792, timestamp).
func otherTimestamp(s *scene) {
	c := s.raw("1")
	filter := binary.NativeEndian.AppendUint32(nil, ^uint32(1<<14)) // ICMP_FILTER: only timestamp replies
	s.demand(c.do(Call{Op: "setbytes", Level: unix.SOL_RAW, Option: 1, Data: filter}), "filter")
	c.empty()
	request := make([]byte, 20)
	request[0] = 13
	binary.BigEndian.PutUint16(request[4:], uint16(0x4000+s.number))
	binary.BigEndian.PutUint16(request[2:], onesComplement(request))
	s.note("sent %s", c.do(Call{Op: "sendmsg", Data: request}).how())
	s.note("reply %s (queue %s)", c.receive(patience).how(), s.queue(c.errors(noWait)))
}

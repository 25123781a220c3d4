package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

func pingSituations() []*situation {
	here := path{}
	one := func(s *scene) { s.ping(s.pinger(), 1, 56) }
	all := join(
		six("ping-probed", path{kind: probed}, one),
		both("ping-sequence", here, pingSequence),
		both("ping-unprivileged", here, pingUnprivileged),
		both("ping-filtered", path{kind: blackhole}, one),
		codes("ping", one),
		roads("ping", one),
		both("ping-hop-limit-1", here, pingHopLimit),
		both("ping-class", here, pingClass),
		both("ping-member-host-dies", path{kind: dying}, pingHostDies),
		both("ping-unreachable-midflow", here, pingUnreachableMidflow),
	)
	for _, n := range []int{0, 1, 56, 1452, 1453, 1472, 1473, 8000, 60000} {
		all = append(all, both(fmt.Sprintf("ping-size-%d", n), here, func(s *scene) {
			p := s.pinger()
			s.ping(p, 1, n)
			s.ping(p, 2, n)
		})...)
	}
	return all
}

// pinger is a raw socket, connected to the target, that hears of echo replies
// and errors only.
func (s *scene) pinger() *end {
	p := s.client("icmp")
	level, name, filter := unix.SOL_RAW, 1, ^uint32(1) // ICMP_FILTER: all but type 0
	if s.v6 {
		level, name = unix.SOL_ICMPV6, unix.ICMPV6_FILTER
	}
	data := binary.NativeEndian.AppendUint32(nil, filter)
	if s.v6 { // a bit for each type that is not wanted
		data = bytes.Repeat([]byte{0xff}, 32)
		binary.NativeEndian.PutUint32(data[129/32*4:], ^uint32(1<<(129%32)))
	}
	s.demand(p.do(Call{Op: "setbytes", Level: level, Option: name, Data: data}), "filter")
	s.demand(p.setSocket(unix.SO_RCVBUF, megabytes), "receive buffer")
	s.demand(p.setSocket(unix.SO_SNDBUF, megabytes), "send buffer")
	if r := p.connect(addrPortOf(s.target)); r.how() != "ok" {
		s.give("connect %s", r.how())
	}
	p.empty()
	s.demand(p.set(optRecvErr, 1), "receive errors")
	return p
}

// empty forgets what a raw socket heard before it was connected: until then, it
// hears what is for others.
func (e *end) empty() {
	for e.receive(noWait).how() == "ok" {
	}
}

// echo is an echo request with the scene's own id (RFC 4443 section 4.1, RFC
// 792).
func (s *scene) echo(sequence uint16, n int) []byte {
	b := make([]byte, 8+n)
	if b[0] = 8; s.v6 {
		b[0] = 128 // its checksum is the kernel's
	}
	binary.BigEndian.PutUint16(b[4:], uint16(0x4000+s.number))
	binary.BigEndian.PutUint16(b[6:], sequence)
	_, _ = pattern(fmt.Sprint("ping", sequence)).Read(b[8:]) // never fails
	if !s.v6 {
		binary.BigEndian.PutUint16(b[2:], onesComplement(b))
	}
	return b
}

// onesComplement is the Internet checksum (RFC 1071).
func onesComplement(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// ping sends one request and notes what comes.
func (s *scene) ping(p *end, sequence uint16, n int) Result {
	request := s.echo(sequence, n)
	if r := p.do(Call{Op: "sendmsg", Data: request}); r.how() != "ok" {
		s.note("ping %d sent %s (%s)", sequence, r.how(), s.queue(p.errors(noWait)))
		p.receive(noWait)
		return r
	}
	p.poll(unix.POLLIN, s.patienceForPing())
	if r := p.errors(noWait); len(r.Queue) > 0 {
		s.note("ping %d: %s, then %s", sequence, s.queue(r), p.receive(noWait).how())
		return r
	}
	return s.reply(p.receive(noWait), request, sequence)
}

// patienceForPing is short where nothing is to be expected.
func (s *scene) patienceForPing() time.Duration {
	if s.path.kind == blackhole || s.path.kind == nobody {
		return silence
	}
	return patience
}

func (s *scene) reply(r Result, request []byte, sequence uint16) Result {
	if r.how() != "ok" {
		s.note("ping %d: %s", sequence, r.how())
		return r
	}
	message := s.icmp(r)
	switch {
	case len(message) < 8 || !bytes.Equal(message[4:8], request[4:8]):
		s.note("ping %d: a reply with another id or sequence number from %s", sequence, s.whose(r.Addr.Addr()))
	case !bytes.Equal(message[8:], request[8:]):
		s.note("ping %d: a reply with other data from %s", sequence, s.whose(r.Addr.Addr()))
	default:
		s.note("ping %d: reply with %d bytes as sent from %s", sequence, len(message)-8, s.whose(r.Addr.Addr()))
	}
	return r
}

// pingSequence sends five without waiting; the replies come in order.
func pingSequence(s *scene) {
	p := s.pinger()
	for i := range uint16(5) {
		s.demand(p.do(Call{Op: "sendmsg", Data: s.echo(i, 56)}), "send")
	}
	// Requests that are under way at the same moment may overtake each other
	// (docs/fidelity.md), so the replies are put into order.
	replies := make([]Result, 5)
	for i := range replies {
		replies[i] = p.receive(patience)
	}
	slices.SortStableFunc(replies, func(a, b Result) int { return bytes.Compare(s.sequenceOf(a), s.sequenceOf(b)) })
	for i, r := range replies {
		s.reply(r, s.echo(uint16(i), 56), uint16(i))
	}
}

// sequenceOf is a reply's sequence number, as it stands in the message.
func (s *scene) sequenceOf(r Result) []byte {
	if message := s.icmp(r); len(message) >= 8 {
		return message[6:8]
	}
	return nil
}

// icmp is the message that was received; in IPv4 a raw socket gets the header of
// the packet too (raw(7)).
func (s *scene) icmp(r Result) []byte {
	if s.v6 || len(r.Data) < 20 {
		return r.Data
	}
	return r.Data[min(len(r.Data), int(r.Data[0]&15)*4):]
}

// pingUnprivileged uses an ICMP socket as ping(8) does without root.
func pingUnprivileged(s *scene) {
	p := s.client("ping")
	s.demand(p.set(optRecvErr, 1), "receive errors")
	s.note("sent %s", p.do(Call{Op: "sendmsg", Data: s.echo(7, 56), Addr: addrPortOf(s.target)}).how())
	r := p.receive(patience)
	if r.how() != "ok" {
		s.give("reply %s", r.how())
	}
	s.note("reply from %s, sequence %d, data as sent %t", s.whose(r.Addr.Addr()), binary.BigEndian.Uint16(r.Data[6:]), bytes.Equal(r.Data[8:], s.echo(7, 56)[8:]))
}

func pingHopLimit(s *scene) {
	p := s.pinger()
	s.demand(p.set(optHops, 1), "hop limit")
	s.ping(p, 1, 56)
	s.demand(p.set(optHops, 64), "hop limit")
	s.ping(p, 2, 56)
}

// pingClass asks which class the reply to a request with one has.
func pingClass(s *scene) {
	p := s.pinger()
	s.demand(p.set(optRecvClass, 1), "receive class")
	s.demand(p.set(optClass, 0xb8), "class")
	s.note("reply's class %#x", s.ping(p, 1, 56).Class)
}

func pingHostDies(s *scene) {
	p := s.pinger()
	s.ping(p, 1, 56)
	s.die()
	for i := range uint16(8) { // the router finds out some time
		s.demand(p.do(Call{Op: "sendmsg", Data: s.echo(2+i, 56)}), "send")
		if r := p.errors(600 * time.Millisecond); len(r.Queue) > 0 {
			s.give("%s", s.queue(Result{Queue: r.Queue[:1]}))
		}
	}
	s.note("then %s", p.receive(noWait).how())
}

func pingUnreachableMidflow(s *scene) {
	p := s.pinger()
	s.ping(p, 1, 56)
	s.reroute("prohibit")
	s.ping(p, 2, 56)
	s.reroute("")
	s.ping(p, 3, 56)
}

// pingMTU is too large for the path: the kernel learns, then sends fragments.
func pingMTU(s *scene) {
	p := s.pinger()
	for i := range uint16(3) {
		s.ping(p, 1+i, s.full(1500))
	}
	s.demand(p.set(optDiscover, unix.IPV6_PMTUDISC_DO), "discover")
	s.ping(p, 4, s.full(1500))
	s.ping(p, 5, s.full(smallMTU))
}

// samePattern reports whether b begins as the datagram of n bytes that who sent.
func samePattern(b []byte, who string, n int) bool {
	want := make([]byte, n)
	_, _ = pattern(fmt.Sprint(who, n)).Read(want) // never fails
	return len(b) > 0 && bytes.HasPrefix(want, b)
}

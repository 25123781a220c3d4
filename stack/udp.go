package stack

import (
	"fmt"
	"net"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"aarptun/nat"
)

// udpQueue is what may wait for one flow, in bytes of payload: the datagrams
// that come while the member is looked up, or four of the largest there are.
const udpQueue = 256 << 10

// udpFlows finds the flow of a datagram. UDP needs nothing that netstack's
// endpoints have, and they lack what must be passed on: each datagram's own
// traffic class and hop limit, and whether it came in fragments.
type udpFlows struct {
	mu    sync.Mutex
	flows map[nat.Tuple]*udpInside
}

// handleUDP sees every datagram, reassembled. A new flow is entered here and
// now, on the dispatch path, so that the next datagram finds it.
func (s *Stack) handleUDP(id gstack.TransportEndpointID, pkt *gstack.PacketBuffer) bool {
	d, ok := datagramOf(pkt)
	if !ok {
		s.stats.malformed.Add(1)
		return true
	}
	tuple := tupleOf(nat.UDP, id)
	s.udp.mu.Lock()
	defer s.udp.mu.Unlock()
	if u := s.udp.flows[tuple]; u != nil && u.put(d) {
		return true
	}
	// There is none, or it has ended and is about to be taken out.
	if s.shed(tuple) || !s.begin() {
		return true
	}
	u := &udpInside{s: s, tuple: tuple, ready: make(chan struct{}, 1), closed: make(chan struct{})}
	u.put(d)
	s.udp.flows[tuple] = u
	go u.serve()
	return true
}

// datagramOf reads and checks a datagram; its data is a copy. ok is false if
// its length or checksum is wrong (RFC 768, RFC 8200 section 8.1).
func datagramOf(pkt *gstack.PacketBuffer) (d nat.Datagram, ok bool) {
	h := header.UDP(pkt.TransportHeader().Slice())
	ip := pkt.Network()
	lengthOK, sumOK := header.UDPValid(h, func() uint16 { return pkt.Data().Checksum() }, uint16(pkt.Data().Size()),
		pkt.NetworkProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), pkt.RXChecksumValidated)
	if !lengthOK || !sumOK {
		return nat.Datagram{}, false
	}
	data := pkt.Data().AsRange().ToSlice()
	return nat.Datagram{Data: data[:int(h.Length())-header.UDPMinimumSize], Meta: metaOf(pkt)}, true
}

// metaOf reads what the IP header says. A packet that was reassembled still has
// the header of one of its fragments.
func metaOf(pkt *gstack.PacketBuffer) nat.Meta {
	b := pkt.NetworkHeader().Slice()
	if pkt.NetworkProtocolNumber == header.IPv4ProtocolNumber {
		ip := header.IPv4(b)
		class, _ := ip.TOS()
		fragment := ip.More() || ip.FragmentOffset() != 0
		return nat.Meta{Class: class, Hops: ip.TTL(), Whole: !fragment && ip.Flags()&header.IPv4FlagDontFragment != 0}
	}
	ip := header.IPv6(b)
	class, _ := ip.TOS()
	return nat.Meta{Class: class, Hops: ip.HopLimit(), Whole: !hasFragmentHeader(b)}
}

// hasFragmentHeader looks among the extension headers of an IPv6 packet.
func hasFragmentHeader(b []byte) bool {
	next, at := b[header.IPv6NextHeaderOffset], header.IPv6MinimumSize
	for isExtension(next) {
		if next == uint8(header.IPv6FragmentHeader) {
			return true
		}
		if len(b) < at+2 {
			return false
		}
		next, at = b[at], at+8*(1+int(b[at+1]))
	}
	return false
}

// udpInside is the client's half of a UDP flow.
type udpInside struct {
	s     *Stack
	tuple nat.Tuple
	route *gstack.Route // the sender's; nil until the first datagram

	ready  chan struct{} // has an item when something may be queued
	closed chan struct{}

	mu    sync.Mutex
	done  bool
	queue []nat.Datagram
	bytes int // payload in the queue
}

// serve carries the flow.
func (u *udpInside) serve() {
	defer u.s.serves.Done()
	if u.s.buffersFull() {
		u.s.stats.refusedBuffers.Add(1)
		if d, ok := u.take(); ok {
			u.Reject(nat.Refusal{Reason: nat.Busy}, d.Data)
		}
	} else {
		u.s.handler.ServeUDP(u.s.life, u.tuple, u)
	}
	_ = u.Close() // never fails
	if u.route != nil {
		u.route.Release()
	}
}

// put queues a datagram, or drops it when too much waits already. It reports
// false when the flow has ended.
func (u *udpInside) put(d nat.Datagram) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.done {
		return false
	}
	if u.bytes+len(d.Data) > udpQueue || len(u.queue) >= udpQueue/64 {
		u.s.stats.datagramsDropped.Add(1)
		return true
	}
	u.queue = append(u.queue, d)
	u.bytes += len(d.Data)
	select {
	case u.ready <- struct{}{}:
	default:
	}
	return true
}

// Receive implements [nat.UDPConn].
func (u *udpInside) Receive() (nat.Datagram, error) {
	for {
		if d, ok := u.take(); ok {
			return d, nil
		}
		select {
		case <-u.ready:
		case <-u.closed:
			return nat.Datagram{}, fmt.Errorf("stack: receive: %w", net.ErrClosed)
		}
	}
}

func (u *udpInside) take() (d nat.Datagram, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.queue) == 0 || u.done {
		return d, false
	}
	d = u.queue[0]
	u.queue[0] = nat.Datagram{}
	if u.queue = u.queue[1:]; len(u.queue) == 0 {
		u.queue = nil
	}
	u.bytes -= len(d.Data)
	return d, true
}

// Close implements [nat.UDPConn]. The next datagram of the tuple begins a new
// flow.
func (u *udpInside) Close() error {
	u.mu.Lock()
	first := !u.done
	u.done = true
	u.queue, u.bytes = nil, 0
	u.mu.Unlock()
	if first {
		u.s.udp.mu.Lock()
		if u.s.udp.flows[u.tuple] == u { // else a new flow has its place
			delete(u.s.udp.flows, u.tuple)
		}
		u.s.udp.mu.Unlock()
		close(u.closed)
	}
	return nil
}

// Send implements [nat.UDPConn]; what does not fit the MTU goes in fragments.
func (u *udpInside) Send(data []byte, m nat.Meta) error {
	select {
	case <-u.closed:
		return fmt.Errorf("stack: send: %w", net.ErrClosed)
	default:
	}
	if u.route == nil {
		route, err := u.s.routeTo(u.tuple.Anycast.Addr(), u.tuple.Client.Addr())
		if err != nil {
			return fmt.Errorf("stack: send: %w", errnoOf(err))
		}
		u.route = route
	}
	p := gstack.NewPacketBuffer(gstack.PacketBufferOptions{
		ReserveHeaderBytes: int(u.route.MaxHeaderLength()) + header.UDPMinimumSize,
		Payload:            buffer.MakeWithData(data),
	})
	defer p.DecRef()
	p.TransportProtocolNumber = header.UDPProtocolNumber
	h := header.UDP(p.TransportHeader().Push(header.UDPMinimumSize))
	length := header.UDPMinimumSize + len(data)
	h.Encode(&header.UDPFields{SrcPort: u.tuple.Anycast.Port(), DstPort: u.tuple.Client.Port(), Length: uint16(length)})
	sum := checksum.Combine(u.route.PseudoHeaderChecksum(header.UDPProtocolNumber, uint16(length)), checksum.Checksum(data, 0))
	if sum = ^h.CalculateChecksum(sum); sum == 0 {
		sum = 0xffff // zero would say that there is none (RFC 768)
	}
	h.SetChecksum(sum)
	params := gstack.NetworkHeaderParams{Protocol: header.UDPProtocolNumber, TTL: m.Hops, TOS: m.Class}
	if params.TTL == 0 {
		params.TTL = u.route.DefaultTTL()
	}
	if err := u.route.WritePacket(params, p); err != nil {
		return fmt.Errorf("stack: send: %w", errnoOf(err))
	}
	return nil
}

// Reject implements [nat.UDPInside]. The client's packet is written anew from
// what is known of it: a client finds its socket by the ports and addresses.
func (u *udpInside) Reject(r nat.Refusal, datagram []byte) {
	if icmp, ok := errorFor(r, u.tuple.Anycast.Addr().Is4()); ok {
		u.s.sendError(u.tuple, icmp, udpPacket(u.tuple, datagram))
	}
}

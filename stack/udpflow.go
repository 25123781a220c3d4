package stack

import (
	"bytes"
	"fmt"
	"net"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"aarptun/nat"
)

const (
	// udpQueue is what may wait for one flow, in bytes of payload: the datagrams
	// that come while the member is looked up, or four of the largest there are.
	udpQueue = 256 << 10

	// Datagrams of one size that wait are joined, as many as the kernel takes at
	// once (UDP_MAX_SEGMENTS, and what fits an IP packet).
	maxJoined      = 64
	maxJoinedBytes = 65000
)

// joinRooms are for datagrams that wait joined.
var joinRooms sync.Pool // of *joinRoom

type joinRoom struct {
	data [maxJoinedBytes]byte
	free func() // gives it back; made once, with the room
}

func newJoinRoom() *joinRoom {
	r, ok := joinRooms.Get().(*joinRoom)
	if !ok {
		r = new(joinRoom)
		r.free = func() { joinRooms.Put(r) }
	}
	return r
}

// udpInside is the client's half of a UDP flow.
type udpInside struct {
	s     *Stack
	tuple nat.Tuple
	route *gstack.Route // the sender's, for fragments; nil until the first

	detached bool // the flow outlives serve

	mu     sync.Mutex
	notify func(free bool) // called without the lock, when there is something for the flow to do; nil until it is watched
	done   bool
	queue  []nat.Datagram
	bytes  int // payload in the queue
}

// serve carries the flow, or has it established.
func (u *udpInside) serve() {
	if u.s.buffersFull() {
		u.s.stats.refusedBuffers.Add(1)
		if d, err := u.TryReceive(); err == nil {
			u.Reject(nat.Refusal{Reason: nat.Busy}, d.Data)
		}
	} else {
		u.s.handler.ServeUDP(u.s.life, u.tuple, u)
	}
	if !u.detached {
		u.ended()
	}
}

// Detach implements [nat.Detacher].
func (u *udpInside) Detach() (ended func()) {
	u.detached = true
	return u.ended
}

func (u *udpInside) ended() {
	_ = u.Close() // never fails
	if u.route != nil {
		u.route.Release()
	}
	u.s.serves.Done()
}

// Watch implements [nat.UDPConn].
func (u *udpInside) Watch(notify func(free bool)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.notify = notify
}

// put queues a copy of a datagram, or drops it when too much waits already. It
// reports false when the flow has ended.
func (u *udpInside) put(d nat.Datagram) bool {
	notify, ok := u.queued(d)
	if notify != nil {
		notify(false)
	}
	return ok
}

// queued is put, but for who is to be told.
func (u *udpInside) queued(d nat.Datagram) (notify func(free bool), ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.done {
		return nil, false
	}
	if u.bytes+len(d.Data) > udpQueue || len(u.queue) >= udpQueue/64 {
		u.s.stats.datagramsDropped.Add(1)
		return nil, true
	}
	u.bytes += len(d.Data)
	if len(u.queue) == 0 || !join(&u.queue[len(u.queue)-1], d) {
		d.Data = bytes.Clone(d.Data)
		u.queue = append(u.queue, d)
	}
	return u.notify, true
}

// join appends d to the datagrams before it, if all of them are of one size, but
// for the last, and of one kind.
func join(before *nat.Datagram, d nat.Datagram) bool {
	size, own := before.Size(), d.Size()
	total := len(before.Data) + len(d.Data)
	switch {
	case own == 0 || own > size || before.Meta != d.Meta, own < len(d.Data) && own < size:
		return false // it is empty or does not fit in behind
	case len(before.Data)%size != 0 || total > maxJoinedBytes || total > maxJoined*size:
		return false // there is a short one already, or no room
	}
	if cap(before.Data) < total {
		r := newJoinRoom()
		before.Data = append(r.data[:0], before.Data...)
		before.Free = r.free
	}
	before.Data = append(before.Data, d.Data...)
	before.Segment = size
	return true
}

// TryReceive implements [nat.UDPConn].
func (u *udpInside) TryReceive() (d nat.Datagram, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.done:
		return d, fmt.Errorf("stack: receive: %w", net.ErrClosed)
	case len(u.queue) == 0:
		return d, nat.ErrNotYet
	}
	d = u.queue[0]
	u.queue[0] = nat.Datagram{}
	if u.queue = u.queue[1:]; len(u.queue) == 0 {
		u.queue = nil
	}
	u.bytes -= len(d.Data)
	return d, nil
}

// Close implements [nat.UDPConn]. The next datagram of the tuple begins a new
// flow.
func (u *udpInside) Close() error {
	u.mu.Lock()
	first := !u.done
	u.done = true
	for _, d := range u.queue {
		if d.Free != nil {
			d.Free()
		}
	}
	u.queue, u.bytes = nil, 0
	notify := u.notify
	u.mu.Unlock()
	if first {
		u.s.udp.mu.Lock()
		if u.s.udp.flows[u.tuple] == u { // else a new flow has its place
			delete(u.s.udp.flows, u.tuple)
		}
		u.s.udp.mu.Unlock()
		if notify != nil {
			notify(false)
		}
	}
	return nil
}

// TrySend implements [nat.UDPConn]. It never says [nat.ErrNotYet]: what the device
// has no room for is lost, as it would be on the way.
func (u *udpInside) TrySend(d nat.Datagram) error {
	u.mu.Lock()
	done := u.done
	u.mu.Unlock()
	if done {
		return fmt.Errorf("stack: send: %w", net.ErrClosed)
	}
	headers := header.UDPMinimumSize + header.IPv6MinimumSize
	if u.tuple.Anycast.Addr().Is4() {
		headers = header.UDPMinimumSize + header.IPv4MinimumSize
	}
	mtu := u.s.mtus.to(u.tuple.Client.Addr(), int(u.s.link.mtu))
	if headers+d.Size() <= mtu && (len(d.Data) == d.Size() || u.s.link.uso) {
		return u.sendPlain(d, headers)
	}
	for piece := range d.Pieces() {
		single := nat.Datagram{Data: piece, Meta: d.Meta}
		var err error
		switch {
		case headers+len(piece) <= mtu:
			err = u.sendPlain(single, headers)
		case mtu < int(u.s.link.mtu):
			err = u.sendCut(single, mtu)
		default:
			err = u.sendFragments(single)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sendPlain sends what needs no fragments past netstack. The device fills in the
// checksum, of which the sum of the pseudo-header is there, and cuts the data
// into datagrams if it is several.
func (u *udpInside) sendPlain(d nat.Datagram, headers int) error {
	l := u.s.link
	s := l.slot()
	defer l.release(s)
	size := headers + len(d.Data)
	ip := headers - header.UDPMinimumSize
	b := s.headers[:headers]
	u.encodeIP(b[:ip], d.Meta, size)
	h := header.UDP(b[ip:])
	length := uint16(size - ip)
	h.Encode(&header.UDPFields{SrcPort: u.tuple.Anycast.Port(), DstPort: u.tuple.Client.Port(), Length: length})
	pseudo := header.PseudoHeaderChecksum(header.UDPProtocolNumber, address(u.tuple.Anycast.Addr()), address(u.tuple.Client.Addr()), length)
	if l.tso {
		s.header = vnetHeader{flags: vnetNeedsChecksum, checksumStart: uint16(ip), checksumAt: udpChecksumAt}
		h.SetChecksum(pseudo)
	} else {
		h.SetChecksum(finish(checksum.Checksum(d.Data, h.CalculateChecksum(pseudo))))
	}
	s.parts = append(s.parts, b, d.Data)
	if d.Size() < len(d.Data) {
		s.header.gso, s.header.headers, s.header.segment = vnetUDP, uint16(headers), uint16(d.Size())
	}
	if err := l.write(s, size); err != nil {
		return fmt.Errorf("stack: send: %w", err)
	}
	return nil
}

// encodeIP writes the IP header of a packet of so many bytes to the client.
func (u *udpInside) encodeIP(b []byte, m nat.Meta, size int) {
	hops := m.Hops
	if hops == 0 {
		hops = defaultHops
	}
	src, dst := address(u.tuple.Anycast.Addr()), address(u.tuple.Client.Addr())
	if u.tuple.Anycast.Addr().Is4() {
		ip := header.IPv4(b)
		ip.Encode(&header.IPv4Fields{
			TOS: m.Class, TotalLength: uint16(size), ID: uint16(u.s.ids.Add(1)), TTL: hops, Protocol: uint8(header.UDPProtocolNumber), SrcAddr: src, DstAddr: dst,
		})
		ip.SetChecksum(^ip.CalculateChecksum())
		return
	}
	header.IPv6(b).Encode(&header.IPv6Fields{
		TrafficClass: m.Class, PayloadLength: uint16(size - len(b)), TransportProtocol: header.UDPProtocolNumber, HopLimit: hops, SrcAddr: src, DstAddr: dst,
	})
}

// finish makes a sum a UDP checksum, of which zero would say that there is none
// (RFC 768).
func finish(sum uint16) uint16 {
	if sum == 0xffff {
		return sum
	}
	return ^sum
}

const (
	udpChecksumAt = 6 // RFC 768

	// defaultHops is the hop limit of what has none of its own (RFC 1700).
	defaultHops = 64
)

// sendFragments sends a datagram that does not fit the MTU.
func (u *udpInside) sendFragments(d nat.Datagram) error {
	if u.route == nil {
		route, err := u.s.routeTo(u.tuple.Anycast.Addr(), u.tuple.Client.Addr())
		if err != nil {
			return fmt.Errorf("stack: send: %w", errnoOf(err))
		}
		u.route = route
	}
	p := gstack.NewPacketBuffer(gstack.PacketBufferOptions{
		ReserveHeaderBytes: int(u.route.MaxHeaderLength()) + header.UDPMinimumSize,
		Payload:            buffer.MakeWithData(d.Data),
	})
	defer p.DecRef()
	p.TransportProtocolNumber = header.UDPProtocolNumber
	h := header.UDP(p.TransportHeader().Push(header.UDPMinimumSize))
	length := header.UDPMinimumSize + len(d.Data)
	h.Encode(&header.UDPFields{SrcPort: u.tuple.Anycast.Port(), DstPort: u.tuple.Client.Port(), Length: uint16(length)})
	sum := checksum.Combine(u.route.PseudoHeaderChecksum(header.UDPProtocolNumber, uint16(length)), checksum.Checksum(d.Data, 0))
	h.SetChecksum(finish(h.CalculateChecksum(sum)))
	params := gstack.NetworkHeaderParams{Protocol: header.UDPProtocolNumber, TTL: d.Meta.Hops, TOS: d.Meta.Class}
	if params.TTL == 0 {
		params.TTL = defaultHops
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

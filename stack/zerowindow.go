package stack

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// While a receive window is zero no segment is acceptable but, says RFC 9293
// section 3.10.7.4, "special allowance should be made to accept valid ACKs".
// Netstack makes none. And it rounds the window it offers down to its scale, so
// a client may have sent a few bytes more than the last offer allows. Then its
// every ACK lies beyond the window and is dropped unread, and a reader that is
// slow in one direction stops the other. So while a flow's window is zero, an
// ACK without data is given the one sequence number that is acceptable: nothing
// else about it depends on the number.

// zeroWindows are the flows whose last segment to the client offered no
// window, with what it acknowledged.
type zeroWindows struct {
	count atomic.Int32 // of flows; so that the others cost nothing

	mu    sync.Mutex
	flows map[gstack.TransportEndpointID]uint32
}

// sent notes what a segment to the client offers.
func (z *zeroWindows) sent(p *gstack.PacketBuffer) {
	b := p.TransportHeader().Slice()
	if p.TransportProtocolNumber != header.TCPProtocolNumber || len(b) < header.TCPMinimumSize {
		return
	}
	segment := header.TCP(b)
	zero := segment.WindowSize() == 0 && segment.Flags()&(header.TCPFlagAck|header.TCPFlagRst|header.TCPFlagSyn) == header.TCPFlagAck
	if !zero && z.count.Load() == 0 {
		return
	}
	ip := p.Network()
	id := gstack.TransportEndpointID{
		LocalAddress: ip.SourceAddress(), LocalPort: segment.SourcePort(),
		RemoteAddress: ip.DestinationAddress(), RemotePort: segment.DestinationPort(),
	}
	if !zero {
		z.forget(id)
		return
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.flows[id] = segment.AckNumber()
	z.count.Store(int32(len(z.flows)))
}

// forget is called when the flow has a window again, or has ended.
func (z *zeroWindows) forget(id gstack.TransportEndpointID) {
	if z.count.Load() == 0 {
		return
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	delete(z.flows, id)
	z.count.Store(int32(len(z.flows)))
}

// admit mends an ACK without data, in place, that lies beyond a window of zero.
func (z *zeroWindows) admit(p packet, b []byte) {
	if z.count.Load() == 0 || p.later || p.transport != uint8(header.TCPProtocolNumber) || len(b) < p.payload+header.TCPMinimumSize {
		return
	}
	segment := header.TCP(b[p.payload:])
	const flags = header.TCPFlagAck | header.TCPFlagSyn | header.TCPFlagFin | header.TCPFlagRst
	if segment.Flags()&flags != header.TCPFlagAck || p.length != p.payload+int(segment.DataOffset()) {
		return
	}
	z.mu.Lock()
	next, ok := z.flows[gstack.TransportEndpointID{
		LocalAddress: address(p.dst), LocalPort: segment.DestinationPort(),
		RemoteAddress: address(p.src), RemotePort: segment.SourcePort(),
	}]
	z.mu.Unlock()
	if !ok || int32(segment.SequenceNumber()-next) <= 0 {
		return // its window is open, or the number is acceptable or old
	}
	renumber(segment, next)
}

// renumber changes the sequence number and what that changes in the checksum,
// which stays as wrong as it was if it was wrong (RFC 1624 section 3).
func renumber(segment header.TCP, next uint32) {
	was := segment.SequenceNumber()
	sum := uint32(^segment.Checksum()) + uint32(^uint16(was>>16)) + uint32(^uint16(was)) + next>>16 + next&0xffff
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint32(segment[header.TCPSeqNumOffset:], next)
	segment.SetChecksum(^uint16(sum))
}

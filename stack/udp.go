package stack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"aarptun/nat"
)

// udpBuffer is what may wait in a UDP endpoint, each way: the datagrams that
// come while the member is looked up, or four of the largest there are.
const udpBuffer = 256 << 10

// handleUDP sees every datagram that belongs to no endpoint. The endpoint is
// made here and now, on the dispatch path, so that the next datagram finds it.
func (s *Stack) handleUDP(id gstack.TransportEndpointID, pkt *gstack.PacketBuffer) bool {
	if !s.begin() {
		return true
	}
	queue := new(waiter.Queue)
	endpoint, err := udp.NewForwarderRequest(s.net, id, pkt).CreateEndpoint(queue)
	if err != nil {
		s.stats.malformed.Add(1)
		s.serves.Done()
		return true
	}
	endpoint.SocketOptions().SetReceiveBufferSize(udpBuffer, true)
	endpoint.SocketOptions().SetSendBufferSize(udpBuffer, true)
	in := &udpInside{conn: newConn(endpoint, queue), s: s, tuple: tupleOf(nat.UDP, id)}
	go func() {
		defer s.serves.Done()
		defer func() { _ = in.Close() }() // never fails
		s.handler.ServeUDP(s.life, in.tuple, in)
	}()
	return true
}

// udpInside is the client's half of a UDP flow.
type udpInside struct {
	*conn
	s     *Stack
	tuple nat.Tuple
}

// Reject implements [nat.UDPInside]. The client's packet is written anew from
// what is known of it: a client finds its socket by the ports and addresses.
func (u *udpInside) Reject(r nat.Reason, datagram []byte) {
	if icmp, ok := errorFor(r); ok {
		u.s.sendError(u.tuple, icmp, udpPacket(u.tuple, datagram))
	}
}

// udpPacket is the packet in which the client sent a datagram (RFC 768).
func udpPacket(t nat.Tuple, datagram []byte) []byte {
	src, dst := address(t.Client.Addr()), address(t.Anycast.Addr())
	ipHeader := header.IPv6MinimumSize
	if t.Anycast.Addr().Is4() {
		ipHeader = header.IPv4MinimumSize
	}
	length := header.UDPMinimumSize + len(datagram)
	b := make([]byte, ipHeader+length)
	copy(b[ipHeader+header.UDPMinimumSize:], datagram)
	if t.Anycast.Addr().Is4() {
		header.IPv4(b).Encode(&header.IPv4Fields{
			TotalLength: uint16(min(len(b), maxPacket)), TTL: 64, Protocol: uint8(header.UDPProtocolNumber), SrcAddr: src, DstAddr: dst,
		})
		header.IPv4(b).SetChecksum(^header.IPv4(b).CalculateChecksum())
	} else {
		header.IPv6(b).Encode(&header.IPv6Fields{
			PayloadLength: uint16(min(length, maxPacket)), TransportProtocol: header.UDPProtocolNumber, HopLimit: 64, SrcAddr: src, DstAddr: dst,
		})
	}
	u := header.UDP(b[ipHeader:])
	binary.BigEndian.PutUint16(u[0:], t.Client.Port())
	binary.BigEndian.PutUint16(u[2:], t.Anycast.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(min(length, maxPacket)))
	pseudo := header.PseudoHeaderChecksum(header.UDPProtocolNumber, src, dst, uint16(min(length, maxPacket)))
	u.SetChecksum(^checksum.Checksum(u, pseudo))
	return b
}

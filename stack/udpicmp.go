package stack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"aarptun/nat"
)

// clientRefused ends the flow of which a client says that its port is closed
// (RFC 1122 section 4.1.3.3): its member must hear of it as it would have. The
// kernel tells the member when its next datagram finds no socket of ours.
func (s *Stack) clientRefused(p packet, message []byte) {
	if !isPortUnreachable(message, p.dst.Is4()) {
		return
	}
	tuple, ok := quotedUDP(message[icmpHeader:])
	if !ok || tuple.Client.Addr() != p.src || tuple.Anycast.Addr() != p.dst {
		return
	}
	s.udp.mu.Lock()
	u := s.udp.flows[tuple]
	s.udp.mu.Unlock()
	if u != nil {
		_ = u.Close() // never fails
	}
}

func isPortUnreachable(message []byte, v4 bool) bool {
	if len(message) < icmpHeader {
		return false
	}
	if v4 {
		return header.ICMPv4Type(message[0]) == header.ICMPv4DstUnreachable && header.ICMPv4Code(message[1]) == header.ICMPv4PortUnreachable
	}
	return header.ICMPv6Type(message[0]) == header.ICMPv6DstUnreachable && header.ICMPv6Code(message[1]) == header.ICMPv6PortUnreachable
}

// quotedUDP is the flow of a datagram of ours that an ICMP error quotes, cut
// off as it may be.
func quotedUDP(b []byte) (nat.Tuple, bool) {
	p := packet{}
	switch header.IPVersion(b) {
	case header.IPv4Version:
		if len(b) < header.IPv4MinimumSize {
			return nat.Tuple{}, false
		}
		ip := header.IPv4(b)
		p = packet{src: addrOf(ip.SourceAddress()), dst: addrOf(ip.DestinationAddress()), transport: ip.Protocol(),
			payload: int(ip.HeaderLength()), later: ip.FragmentOffset() != 0}
	case header.IPv6Version:
		var ok bool
		if p, ok = parseQuoted6(b); !ok {
			return nat.Tuple{}, false
		}
	}
	if p.transport != uint8(header.UDPProtocolNumber) || p.later || len(b) < p.payload+4 {
		return nat.Tuple{}, false
	}
	ports := b[p.payload:]
	return tupleOf(nat.UDP, gstack.TransportEndpointID{
		LocalAddress: address(p.src), LocalPort: binary.BigEndian.Uint16(ports),
		RemoteAddress: address(p.dst), RemotePort: binary.BigEndian.Uint16(ports[2:]),
	}), true
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

package stack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"aarptun/nat"
)

// packet is what must be known of a packet before it is let in.
type packet struct {
	src, dst  netip.Addr
	transport uint8 // protocol number of the transport; meaningless in a later fragment
	pointer   int   // offset of the byte that holds transport's number
	payload   int   // offset of the transport header
	length    int   // of the packet, by its IP header
	fragment  bool  // it has a fragment header, or is part of a fragmented IPv4 packet
	later     bool  // a fragment other than the first: it has no transport header
}

// parsePacket reads the IP headers. It reports false for what is no IP packet,
// or not all there.
func parsePacket(b []byte) (packet, bool) {
	switch header.IPVersion(b) {
	case header.IPv4Version:
		return parseIPv4(b)
	case header.IPv6Version:
		return parseIPv6(b)
	}
	return packet{}, false
}

func parseIPv4(b []byte) (packet, bool) {
	ip := header.IPv4(b)
	if len(b) < header.IPv4MinimumSize || !ip.IsValid(len(b)) {
		return packet{}, false
	}
	return packet{
		src: netip.AddrFrom4(ip.SourceAddress().As4()), dst: netip.AddrFrom4(ip.DestinationAddress().As4()),
		transport: ip.Protocol(), pointer: 9, payload: int(ip.HeaderLength()), later: ip.FragmentOffset() != 0,
		fragment: ip.More() || ip.FragmentOffset() != 0, length: int(ip.TotalLength()),
	}, true
}

func parseIPv6(b []byte) (packet, bool) {
	ip := header.IPv6(b)
	if len(b) < header.IPv6MinimumSize || !ip.IsValid(len(b)) {
		return packet{}, false
	}
	p := packet{
		src: netip.AddrFrom16(ip.SourceAddress().As16()), dst: netip.AddrFrom16(ip.DestinationAddress().As16()),
		transport: ip.NextHeader(), pointer: header.IPv6NextHeaderOffset, payload: header.IPv6MinimumSize,
		length: header.IPv6MinimumSize + int(ip.PayloadLength()),
	}
	// Each extension header is at least 8 bytes, so the walk ends with the
	// packet (RFC 8200 section 4).
	for isExtension(p.transport) && !p.later {
		if len(b) < p.payload+8 {
			return packet{}, false
		}
		extension := b[p.payload:]
		size := 8 * (1 + int(extension[1]))
		if p.transport == uint8(header.IPv6FragmentHeader) {
			size = header.IPv6FragmentHeaderSize
			p.fragment = true
			p.later = binary.BigEndian.Uint16(extension[2:])>>3 != 0
		}
		p.pointer, p.transport = p.payload, extension[0]
		p.payload += size
	}
	return p, true
}

func isExtension(next uint8) bool {
	switch header.IPv6ExtensionHeaderIdentifier(next) {
	case header.IPv6HopByHopOptionsExtHdrIdentifier, header.IPv6RoutingExtHdrIdentifier,
		header.IPv6FragmentExtHdrIdentifier, header.IPv6DestinationOptionsExtHdrIdentifier:
		return true
	}
	return false
}

// isICMP reports whether the packet is of its family's ICMP.
func (p packet) isICMP() bool {
	if p.dst.Is4() {
		return p.transport == uint8(header.ICMPv4ProtocolNumber)
	}
	return p.transport == uint8(header.ICMPv6ProtocolNumber)
}

// headers returns the length of all headers of a TCP segment in b, and of the
// IP headers of any other packet.
func (p packet) headers(b []byte) int {
	if p.later || p.transport != uint8(header.TCPProtocolNumber) || len(b) < p.payload+header.TCPMinimumSize {
		return p.payload
	}
	return p.payload + int(header.TCP(b[p.payload:]).DataOffset())
}

// plain reports whether the IP header is the shortest there is, of a whole
// packet.
func (p packet) plain() bool {
	if p.dst.Is4() {
		return p.payload == header.IPv4MinimumSize && !p.fragment
	}
	return p.payload == header.IPv6MinimumSize
}

// verdict is what becomes of a packet.
type verdict uint8

const (
	admit verdict = iota
	dropMalformed
	dropDestination // not in an anycast prefix
	dropSource      // cannot be answered
	dropICMP        // a kind of ICMP that no client sends to a server
	refuseProtocol  // answer: not spoken here
)

func (s *Stack) judge(b []byte) (packet, verdict) {
	p, ok := parsePacket(b)
	switch {
	case !ok:
		return p, dropMalformed
	case !s.isAnycast(p.dst):
		return p, dropDestination
	case !canBeAnswered(p.src) || s.isAnycast(p.src) && !s.all:
		return p, dropSource
	case p.later:
		return p, admit // netstack reassembles it, or not
	}
	switch {
	case p.transport == uint8(header.TCPProtocolNumber), p.transport == uint8(header.UDPProtocolNumber):
		return p, admit
	case p.isICMP():
		return p, judgeICMP(b[min(p.payload, len(b)):], p.dst.Is6())
	case p.transport == uint8(header.IPv6NoNextHeaderIdentifier) && p.dst.Is6():
		return p, dropMalformed // says itself that there is nothing in it
	}
	return p, refuseProtocol
}

// judgeICMP lets in what concerns flows: echo requests, and errors about what
// we sent. Neighbour discovery, redirects and the like never come from a
// client.
func judgeICMP(message []byte, v6 bool) verdict {
	if len(message) == 0 {
		return dropMalformed
	}
	if v6 {
		switch header.ICMPv6Type(message[0]) {
		case header.ICMPv6EchoRequest, header.ICMPv6DstUnreachable, header.ICMPv6PacketTooBig,
			header.ICMPv6TimeExceeded, header.ICMPv6ParamProblem:
			return admit
		}
		return dropICMP
	}
	switch header.ICMPv4Type(message[0]) {
	case header.ICMPv4Echo, header.ICMPv4DstUnreachable, header.ICMPv4TimeExceeded, header.ICMPv4ParamProblem:
		return admit
	}
	return dropICMP
}

func (s *Stack) isAnycast(a netip.Addr) bool {
	if s.all {
		return a.IsGlobalUnicast() && !a.Is4In6()
	}
	for _, p := range *s.prefixes.Load() {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// canBeAnswered reports whether a reply to a would reach one host.
func canBeAnswered(a netip.Addr) bool {
	return a.IsGlobalUnicast() || a.IsLinkLocalUnicast()
}

// inject lets a packet in, or does what its verdict says.
func (s *Stack) inject(f *frame) {
	s.stats.packetsIn.Add(1)
	s.stats.bytesIn.Add(uint64(len(f.b)))
	p, v := s.judge(f.b)
	switch v {
	case admit:
		s.admit(f, p)
	case refuseProtocol:
		s.stats.refusedProtocol.Add(1)
		s.sendError(nat.Tuple{Client: netip.AddrPortFrom(p.src, 0), Anycast: netip.AddrPortFrom(p.dst, 0)}, protocolError(p), f.b)
	case dropMalformed:
		s.stats.malformed.Add(1)
	case dropDestination:
		s.stats.notAnycast.Add(1)
	case dropSource:
		s.stats.badSource.Add(1)
	case dropICMP:
		s.stats.otherICMP.Add(1)
	}
}

// admit brings a packet to who takes it.
func (s *Stack) admit(f *frame, p packet) {
	switch {
	case p.later:
	case p.transport == uint8(header.UDPProtocolNumber) && p.plain():
		s.plainDatagram(f, p)
		return
	case p.transport == uint8(header.TCPProtocolNumber):
		s.link.zero.admit(p, f.b)
		if id, ok := synID(p, f.b); ok && (s.pending.get(id) == nil && s.shed(tupleOf(nat.TCP, id)) || s.holdBack(p, id, f)) {
			return
		}
	case p.isICMP():
		message := f.b[min(p.payload, len(f.b)):]
		s.clientRefused(p, message)
		s.clientTooBig(p, message)
	}
	s.deliver(f, p)
}

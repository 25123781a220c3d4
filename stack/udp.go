package stack

import (
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"aarptun/nat"
)

// udpFlows finds the flow of a datagram. UDP needs nothing that netstack's
// endpoints have, and they lack what must be passed on: each datagram's own
// traffic class and hop limit, and whether it came in fragments.
type udpFlows struct {
	mu    sync.Mutex
	flows map[nat.Tuple]*udpInside
}

// handleUDP sees the datagrams that came in fragments or behind extension
// headers, put together.
func (s *Stack) handleUDP(id gstack.TransportEndpointID, pkt *gstack.PacketBuffer) bool {
	h := header.UDP(pkt.TransportHeader().Slice())
	ip := pkt.Network()
	lengthOK, sumOK := header.UDPValid(h, func() uint16 { return pkt.Data().Checksum() }, uint16(pkt.Data().Size()),
		pkt.NetworkProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), pkt.RXChecksumValidated)
	if !lengthOK || !sumOK {
		s.stats.malformed.Add(1)
		return true
	}
	data := pkt.Data().AsRange().ToSlice()
	s.datagram(tupleOf(nat.UDP, id), nat.Datagram{Data: data[:int(h.Length())-header.UDPMinimumSize], Meta: metaOf(pkt)})
	return true
}

// plainDatagram takes nearly every datagram, and several of one flow that the
// device hands over in one packet, past netstack.
func (s *Stack) plainDatagram(f *frame, p packet) {
	d := nat.Datagram{Meta: plainMeta(f.b)}
	if f.vnet.gso&^vnetECN == vnetUDP {
		d.Segment = int(f.vnet.segment)
	}
	h := header.UDP(f.b[p.payload:min(p.length, len(f.b))])
	if len(h) < header.UDPMinimumSize || int(h.Length()) < header.UDPMinimumSize || int(h.Length()) > len(h) || !p.sumOK(f, h) {
		s.stats.malformed.Add(1)
		return
	}
	d.Data = h[header.UDPMinimumSize:h.Length()]
	s.datagram(nat.Tuple{Proto: nat.UDP, Client: netip.AddrPortFrom(p.src, h.SourcePort()), Anycast: netip.AddrPortFrom(p.dst, h.DestinationPort())}, d)
}

// sumOK verifies the checksums of a plain datagram (RFC 768, RFC 8200 section
// 8.1).
func (p packet) sumOK(f *frame, h header.UDP) bool {
	if p.dst.Is4() && header.IPv4(f.b).CalculateChecksum() != 0xffff {
		return false
	}
	if f.vnet.checked() || p.dst.Is4() && h.Checksum() == 0 {
		return true
	}
	pseudo := header.PseudoHeaderChecksum(header.UDPProtocolNumber, address(p.src), address(p.dst), h.Length())
	return h.Checksum() != 0 && checksum.Checksum(h[:h.Length()], pseudo) == 0xffff
}

// datagram brings one, or several, to their flow, which copies the data. A new
// flow is entered here and now, on the dispatch path, so that the next datagram
// finds it.
func (s *Stack) datagram(tuple nat.Tuple, d nat.Datagram) {
	s.udp.mu.Lock()
	defer s.udp.mu.Unlock()
	if u := s.udp.flows[tuple]; u != nil && u.put(d) {
		return
	}
	// There is none, or it has ended and is about to be taken out.
	if s.shed(tuple) || !s.begin() {
		return
	}
	u := &udpInside{s: s, tuple: tuple}
	u.put(d)
	s.udp.flows[tuple] = u
	go u.serve()
}

// plainMeta reads what a plain IP header says.
func plainMeta(b []byte) nat.Meta {
	if header.IPVersion(b) == header.IPv4Version {
		ip := header.IPv4(b)
		class, _ := ip.TOS()
		return nat.Meta{Class: class, Hops: ip.TTL(), Whole: ip.Flags()&header.IPv4FlagDontFragment != 0}
	}
	ip := header.IPv6(b)
	class, _ := ip.TOS()
	return nat.Meta{Class: class, Hops: ip.HopLimit(), Whole: true}
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

package stack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"aarptun/nat"
)

const (
	icmpHeader = 8

	// An ICMPv6 error must fit into the minimum MTU of 1,280 bytes (RFC 4443
	// section 2.4 c), an ICMPv4 error into 576 (RFC 1812 section 4.3.2.3).
	maxQuote6 = header.IPv6MinimumMTU - header.IPv6MinimumSize - icmpHeader
	maxQuote4 = 576 - header.IPv4MinimumSize - icmpHeader
)

// icmpError is the type and code of an error in both families, and the word
// behind the checksum.
type icmpError struct {
	type6, code6, type4, code4 uint8
	word                       uint32
	from                       netip.Addr // the zero Addr stands for AA
}

// protocolError says that the protocol is not spoken here: parameter problem,
// unrecognized next header (RFC 4443 section 3.4), protocol unreachable (RFC
// 792).
func protocolError(p packet) icmpError {
	if p.dst.Is4() {
		return icmpError{type4: uint8(header.ICMPv4DstUnreachable), code4: uint8(header.ICMPv4ProtoUnreachable)}
	}
	return icmpError{type6: uint8(header.ICMPv6ParamProblem), code6: uint8(header.ICMPv6UnknownHeader), word: uint32(p.pointer)}
}

// errorFor is the wire form of a Refusal; ok is false for those that are not
// said by ICMP. RFC 4443 section 3.1, RFC 792, RFC 1812 section 5.2.7.1. What
// the network said is said again, type, code and all; only who said it is AA,
// as the host's reverse path filter may want it (RFC 3704), but for the hop
// limit, where the hop is what is being asked for.
func errorFor(r nat.Refusal, v4 bool) (e icmpError, ok bool) {
	e = icmpError{type6: uint8(header.ICMPv6DstUnreachable), type4: uint8(header.ICMPv4DstUnreachable)}
	switch r.Reason {
	case nat.Refused:
		e.code6, e.code4 = uint8(header.ICMPv6PortUnreachable), uint8(header.ICMPv4PortUnreachable)
	case nat.NetUnreachable:
		e.code6, e.code4 = uint8(header.ICMPv6NetworkUnreachable), uint8(header.ICMPv4NetUnreachable)
	case nat.Unreachable:
		e.code6, e.code4 = uint8(header.ICMPv6AddressUnreachable), uint8(header.ICMPv4HostUnreachable)
	case nat.Prohibited, nat.Busy:
		e.code6, e.code4 = uint8(header.ICMPv6Prohibited), uint8(header.ICMPv4AdminProhibited)
	case nat.Relayed:
		e = icmpError{type6: r.ICMP.Type, code6: r.ICMP.Code, type4: r.ICMP.Type, code4: r.ICMP.Code, word: r.ICMP.Info}
		exceeded := header.ICMPv6Type(r.ICMP.Type) == header.ICMPv6TimeExceeded
		if v4 {
			exceeded = header.ICMPv4Type(r.ICMP.Type) == header.ICMPv4TimeExceeded
			e.word &= 0xffff // the MTU (RFC 1191 section 4)
			if header.ICMPv4Type(r.ICMP.Type) == header.ICMPv4ParamProblem {
				e.word = r.ICMP.Info << 24 // the pointer is the first byte (RFC 792)
			}
		}
		if exceeded && canBeAnswered(r.ICMP.From) && r.ICMP.From.Is4() == v4 {
			e.from = r.ICMP.From
		}
	default:
		return icmpError{}, false
	}
	return e, true
}

// sendError sends the flow's client an ICMP error from AA that quotes packet,
// as much of it as fits.
func (s *Stack) sendError(t nat.Tuple, e icmpError, packet []byte) {
	if !s.errors.Allow() {
		s.stats.errorsLimited.Add(1)
		return
	}
	src, dst := t.Anycast.Addr(), t.Client.Addr()
	kind, code, limit := e.type6, e.code6, maxQuote6
	if src.Is4() {
		kind, code, limit = e.type4, e.code4, maxQuote4
	}
	if e.from.IsValid() {
		src = e.from
	}
	quote := packet[:min(len(packet), limit)]
	message := make([]byte, icmpHeader, icmpHeader+len(quote))
	message[0], message[1] = kind, code
	message[4], message[5], message[6], message[7] = byte(e.word>>24), byte(e.word>>16), byte(e.word>>8), byte(e.word)
	if err := s.sendICMP(src, dst, append(message, quote...)); err != nil {
		s.stats.writeErrors.Add(1)
		return
	}
	s.stats.errorsSent.Add(1)
}

// sendICMP fills in the checksum and sends the message, in fragments if it
// does not fit the MTU.
func (s *Stack) sendICMP(src, dst netip.Addr, message []byte) tcpip.Error {
	number := header.ICMPv6ProtocolNumber
	if src.Is4() {
		number = header.ICMPv4ProtocolNumber
		header.ICMPv4(message).SetChecksum(0)
		header.ICMPv4(message).SetChecksum(^checksum.Checksum(message, 0))
	} else {
		icmp := header.ICMPv6(message)
		icmp.SetChecksum(0)
		icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: address(src), Dst: address(dst)}))
	}
	mtu := s.mtus.to(dst, int(s.link.mtu))
	if mtu < int(s.link.mtu) && header.IPv6MinimumSize+len(message) > mtu {
		if s.link.cut(src, dst, uint8(number), nat.Meta{Hops: defaultHops}, mtu, message) != nil {
			return &tcpip.ErrNoBufferSpace{}
		}
		return nil
	}
	route, err := s.routeTo(src, dst)
	if err != nil {
		return err
	}
	defer route.Release()
	p := gstack.NewPacketBuffer(gstack.PacketBufferOptions{
		ReserveHeaderBytes: int(route.MaxHeaderLength()),
		Payload:            buffer.MakeWithData(message),
	})
	defer p.DecRef()
	return route.WritePacket(gstack.NetworkHeaderParams{Protocol: number, TTL: route.DefaultTTL(), TOS: gstack.DefaultTOS}, p)
}

// routeTo is the way from an anycast address to a client; the caller releases
// it.
func (s *Stack) routeTo(src, dst netip.Addr) (*gstack.Route, tcpip.Error) {
	proto := header.IPv6ProtocolNumber
	if src.Is4() {
		proto = header.IPv4ProtocolNumber
	}
	return s.net.FindRoute(nicID, address(src), address(dst), proto, false)
}

func address(a netip.Addr) tcpip.Address {
	if a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}

func addrOf(a tcpip.Address) netip.Addr {
	if a.Len() == header.IPv4AddressSize {
		return netip.AddrFrom4(a.As4())
	}
	return netip.AddrFrom16(a.As16())
}

// tupleOf is the flow that an endpoint id stands for.
func tupleOf(proto nat.Proto, id gstack.TransportEndpointID) nat.Tuple {
	return nat.Tuple{
		Proto:   proto,
		Client:  netip.AddrPortFrom(addrOf(id.RemoteAddress), id.RemotePort),
		Anycast: netip.AddrPortFrom(addrOf(id.LocalAddress), id.LocalPort),
	}
}

// head returns the first bytes of a packet, network header included, as much
// as an ICMP error can quote.
func head(p *gstack.PacketBuffer) []byte {
	b := make([]byte, 0, maxQuote6)
	rest := p.Data().AsRange().ToSlice()
	for _, part := range [][]byte{p.NetworkHeader().Slice(), p.TransportHeader().Slice(), rest} {
		b = append(b, part[:min(len(part), cap(b)-len(b))]...)
	}
	return b
}

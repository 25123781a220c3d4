package main

import (
	"encoding/binary"
	"net/netip"
)

// Protocols in an IP header, and sizes of headers.
const (
	protoICMP4 = 1
	protoUDP   = 17
	protoICMP6 = 58
	ip4Header  = 20
	ip6Header  = 40
	udpHeader  = 8
)

// icmpKind is a message of ICMP, whatever the family.
type icmpKind int

const (
	echoAsk icmpKind = iota
	echoAnswer
	portUnreachable
	noRoute
	tooBig
)

// icmpTypes are type and code of each kind in IPv6 (RFC 4443) and in IPv4 (RFC
// 792, RFC 1191).
var icmpTypes = [...]struct{ v6, v4 [2]byte }{
	echoAsk:         {[2]byte{128, 0}, [2]byte{8, 0}},
	echoAnswer:      {[2]byte{129, 0}, [2]byte{0, 0}},
	portUnreachable: {[2]byte{1, 4}, [2]byte{3, 3}},
	noRoute:         {[2]byte{1, 0}, [2]byte{3, 0}},
	tooBig:          {[2]byte{2, 0}, [2]byte{3, 4}},
}

func (k icmpKind) of(a netip.Addr) [2]byte {
	if a.Is4() {
		return icmpTypes[k].v4
	}
	return icmpTypes[k].v6
}

// packet is one of IPv6 without extension headers, or of IPv4, as attackers make
// and read them. Its addresses say which.
type packet struct {
	src, dst netip.Addr
	proto    byte
	payload  []byte // belongs to what it was read from
}

// readPacket reads a packet that is whole.
func readPacket(b []byte) (p packet, ok bool) {
	switch {
	case len(b) >= ip6Header && b[0]>>4 == 6:
		end := ip6Header + int(binary.BigEndian.Uint16(b[4:]))
		if len(b) < end {
			return packet{}, false
		}
		return packet{netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[6], b[ip6Header:end]}, true
	case len(b) >= ip4Header && b[0]>>4 == 4:
		header, end := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
		fragment := binary.BigEndian.Uint16(b[6:])&0x3fff != 0
		if fragment || header < ip4Header || end < header || len(b) < end {
			return packet{}, false
		}
		return packet{netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[9], b[header:end]}, true
	}
	return packet{}, false
}

// bytes is the packet, with the right checksums.
func (p packet) bytes() []byte {
	header := p.header()
	b := append(header, p.payload...)
	body := b[len(header):]
	at := 2 // in ICMP
	if p.proto == protoUDP {
		at = 6
	}
	binary.BigEndian.PutUint16(body[at:], 0)
	sum := checksum(p.pseudoHeader(), body)
	if sum == 0 && p.proto == protoUDP {
		sum = 0xffff // RFC 768, RFC 8200 section 8.1
	}
	binary.BigEndian.PutUint16(body[at:], sum)
	return b
}

func (p packet) header() []byte {
	if p.src.Is4() {
		b := make([]byte, ip4Header, ip4Header+len(p.payload))
		b[0], b[6], b[8], b[9] = 4<<4|ip4Header/4, 0x40, 64, p.proto // DF
		binary.BigEndian.PutUint16(b[2:], uint16(ip4Header+len(p.payload)))
		copy(b[12:], p.src.AsSlice())
		copy(b[16:], p.dst.AsSlice())
		binary.BigEndian.PutUint16(b[10:], checksum(b))
		return b
	}
	b := make([]byte, ip6Header, ip6Header+len(p.payload))
	b[0], b[6], b[7] = 6<<4, p.proto, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(p.payload)))
	copy(b[8:], p.src.AsSlice())
	copy(b[24:], p.dst.AsSlice())
	return b
}

// pseudoHeader is what the checksum of the payload covers besides (RFC 768, RFC
// 8200 section 8.1); that of ICMP in IPv4 covers nothing.
func (p packet) pseudoHeader() []byte {
	if p.proto == protoICMP4 {
		return nil
	}
	b := append(p.src.AsSlice(), p.dst.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(p.payload)))
	return append(b, 0, 0, 0, p.proto)
}

// checksum is that of RFC 1071. All parts but the last have even sizes.
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts {
		for ; len(b) >= 2; b = b[2:] {
			sum += uint32(b[0])<<8 | uint32(b[1])
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// udpPacket is a datagram.
func udpPacket(from, to netip.AddrPort, data []byte) packet {
	u := make([]byte, udpHeader, udpHeader+len(data))
	binary.BigEndian.PutUint16(u, from.Port())
	binary.BigEndian.PutUint16(u[2:], to.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(udpHeader+len(data)))
	return packet{from.Addr(), to.Addr(), protoUDP, append(u, data...)}
}

// icmpPacket is a message of ICMP: rest is what follows the checksum.
func icmpPacket(from, to netip.Addr, kind icmpKind, rest ...[]byte) packet {
	proto, is := byte(protoICMP6), kind.of(from)
	if from.Is4() {
		proto = protoICMP4
	}
	m := []byte{is[0], is[1], 0, 0}
	for _, r := range rest {
		m = append(m, r...)
	}
	return packet{from, to, proto, m}
}

// is says whether the packet is such a message.
func (p packet) is(kind icmpKind) bool {
	proto := byte(protoICMP6)
	if p.src.Is4() {
		proto = protoICMP4
	}
	return p.proto == proto && len(p.payload) >= 8 && [2]byte(p.payload) == kind.of(p.src)
}

// ports returns those of a datagram; false if it is none.
func (p packet) ports() (from, to netip.AddrPort, data []byte, ok bool) {
	if p.proto != protoUDP || len(p.payload) < udpHeader {
		return from, to, nil, false
	}
	return netip.AddrPortFrom(p.src, binary.BigEndian.Uint16(p.payload)), netip.AddrPortFrom(p.dst, binary.BigEndian.Uint16(p.payload[2:])),
		p.payload[udpHeader:], true
}

package main

import (
	"encoding/binary"
	"net/netip"
)

// Protocols in an IPv6 header, and types of ICMPv6 (RFC 4443).
const (
	protoUDP        = 17
	protoICMP6      = 58
	icmpUnreachable = 1
	icmpTooBig      = 2
	icmpEchoRequest = 128
	icmpEchoReply   = 129
	codePort        = 4 // of unreachable
	ip6Header       = 40
	udpHeader       = 8
)

// ip6 is an IPv6 packet without extension headers, as attackers make and read
// them.
type ip6 struct {
	src, dst netip.Addr
	proto    byte
	payload  []byte // belongs to what it was read from
}

// readIP6 reads a packet that is whole.
func readIP6(b []byte) (p ip6, ok bool) {
	if len(b) < ip6Header || b[0]>>4 != 6 {
		return ip6{}, false
	}
	size := int(binary.BigEndian.Uint16(b[4:]))
	if len(b) < ip6Header+size {
		return ip6{}, false
	}
	return ip6{netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[6], b[ip6Header : ip6Header+size]}, true
}

// bytes is the packet, its payload with the right checksum, which it sets.
func (p ip6) bytes() []byte {
	b := make([]byte, ip6Header, ip6Header+len(p.payload))
	b[0], b[6], b[7] = 6<<4, p.proto, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(p.payload)))
	src, dst := p.src.As16(), p.dst.As16()
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	at := 2 // in ICMPv6
	if p.proto == protoUDP {
		at = 6
	}
	sum := p.payload[at : at+2]
	binary.BigEndian.PutUint16(sum, 0)
	value := p.checksum(b[8:40])
	if value == 0 {
		value = 0xffff // RFC 8200 section 8.1
	}
	binary.BigEndian.PutUint16(sum, value)
	return append(b, p.payload...)
}

// checksum is that of RFC 8200 section 8.1, over the addresses, the length, the
// protocol and the payload.
func (p ip6) checksum(addresses []byte) uint16 {
	sum := uint32(len(p.payload)) + uint32(p.proto)
	for _, b := range [][]byte{addresses, p.payload} {
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

// udp6 is a datagram.
func udp6(from, to netip.AddrPort, data []byte) ip6 {
	u := make([]byte, udpHeader, udpHeader+len(data))
	binary.BigEndian.PutUint16(u, from.Port())
	binary.BigEndian.PutUint16(u[2:], to.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(udpHeader+len(data)))
	return ip6{from.Addr(), to.Addr(), protoUDP, append(u, data...)}
}

// icmp6 is a message of ICMPv6: rest is what follows the checksum.
func icmp6(from, to netip.Addr, kind, code byte, rest ...[]byte) ip6 {
	m := []byte{kind, code, 0, 0}
	for _, r := range rest {
		m = append(m, r...)
	}
	return ip6{from, to, protoICMP6, m}
}

// ports returns those of a datagram; false if it is none.
func (p ip6) ports() (from, to netip.AddrPort, data []byte, ok bool) {
	if p.proto != protoUDP || len(p.payload) < udpHeader {
		return from, to, nil, false
	}
	return netip.AddrPortFrom(p.src, binary.BigEndian.Uint16(p.payload)), netip.AddrPortFrom(p.dst, binary.BigEndian.Uint16(p.payload[2:])),
		p.payload[udpHeader:], true
}

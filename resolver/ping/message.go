package ping

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// request is an echo request (RFC 4443 section 4.1, RFC 792). The kernel fills
// in ICMPv6's checksum, which covers addresses only it knows.
func (f *family) request(seq uint16, data []byte) ([]byte, error) {
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(f.id), Seq: int(seq), Data: data}}
	if f.proto == icmpV6Proto {
		m.Type = ipv6.ICMPTypeEchoRequest
	}
	message, err := m.Marshal(nil)
	if err != nil {
		return nil, fmt.Errorf("ping: %w", err)
	}
	return message, nil
}

// parseReply returns the echo body of a reply, or nil.
func parseReply(proto int, message []byte) *icmp.Echo {
	if proto == icmpV6Proto {
		return parseEcho(proto, message, ipv6.ICMPTypeEchoReply)
	}
	return parseEcho(proto, message, ipv4.ICMPTypeEchoReply)
}

// parseQuoted returns the echo body of a request that an ICMP error quotes, or
// nil. Its data may be cut short, down to nothing (RFC 792 asks for 8 bytes).
func parseQuoted(proto int, message []byte) *icmp.Echo {
	if proto == icmpV6Proto {
		return parseEcho(proto, message, ipv6.ICMPTypeEchoRequest)
	}
	return parseEcho(proto, message, ipv4.ICMPTypeEcho)
}

func parseEcho(proto int, message []byte, kind icmp.Type) *icmp.Echo {
	m, err := icmp.ParseMessage(proto, message)
	if err != nil || m.Code != 0 || m.Type != kind {
		return nil
	}
	body, _ := m.Body.(*icmp.Echo)
	return body
}

// withoutHeader takes the header off a packet of a raw IPv4 socket, and checks
// the message: such a socket gets it before the kernel has done so. It returns
// nil for what cannot be.
func withoutHeader(packet []byte) []byte {
	if len(packet) == 0 {
		return nil
	}
	header := int(packet[0]&0xf) * 4 // RFC 791 section 3.1
	if packet[0]>>4 != 4 || header < 20 || header > len(packet) || checksum(packet[header:]) != 0 {
		return nil
	}
	return packet[header:]
}

// checksum is the Internet checksum (RFC 1071): 0 for a message with a right
// one inside.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b)) // 65,535 bytes cannot overflow it
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	return ^uint16(sum)
}

func randomID() uint16 {
	var b [2]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails (Go 1.24)
	return binary.BigEndian.Uint16(b[:])
}

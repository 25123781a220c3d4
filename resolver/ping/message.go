package ping

import (
	"crypto/rand"
	"encoding/binary"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// echoHeader is what comes before an echo's data: type, code, checksum,
// identifier and sequence number (RFC 4443 section 4.1, RFC 792).
const echoHeader = 8

// echo is an echo request or reply. data belongs to the message it was read
// from.
type echo struct {
	id, seq uint16
	data    []byte
}

// request is an echo request. The kernel fills in ICMPv6's checksum, which
// covers addresses only it knows.
func (f *family) request(id, seq uint16, data []byte) []byte {
	m := make([]byte, echoHeader+len(data))
	m[0] = byte(ipv4.ICMPTypeEcho)
	if f.proto == icmpV6Proto {
		m[0] = byte(ipv6.ICMPTypeEchoRequest)
	}
	binary.BigEndian.PutUint16(m[4:], id)
	binary.BigEndian.PutUint16(m[6:], seq)
	copy(m[echoHeader:], data)
	if f.proto == icmpV4Proto {
		binary.BigEndian.PutUint16(m[2:], checksum(m))
	}
	return m
}

// parseReply reads an echo reply.
func parseReply(proto int, message []byte) (echo, bool) {
	if proto == icmpV6Proto {
		return parseEcho(message, byte(ipv6.ICMPTypeEchoReply))
	}
	return parseEcho(message, byte(ipv4.ICMPTypeEchoReply))
}

// parseQuoted reads the echo request that an ICMP error quotes. Its data may be
// cut short, down to nothing (RFC 792 asks for 8 bytes).
func parseQuoted(proto int, message []byte) (echo, bool) {
	if proto == icmpV6Proto {
		return parseEcho(message, byte(ipv6.ICMPTypeEchoRequest))
	}
	return parseEcho(message, byte(ipv4.ICMPTypeEcho))
}

func parseEcho(m []byte, kind byte) (echo, bool) {
	if len(m) < echoHeader || m[0] != kind || m[1] != 0 {
		return echo{}, false
	}
	return echo{binary.BigEndian.Uint16(m[4:]), binary.BigEndian.Uint16(m[6:]), m[echoHeader:]}, true
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

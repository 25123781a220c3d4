package stack

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// ipPacket puts an IP header before a transport message.
func ipPacket(src, dst netip.Addr, transport tcpip.TransportProtocolNumber, message []byte) []byte {
	if dst.Is4() {
		b := make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+len(message))
		header.IPv4(b).Encode(&header.IPv4Fields{
			TotalLength: uint16(cap(b)), TTL: 64, Protocol: uint8(transport), SrcAddr: address(src), DstAddr: address(dst),
		})
		header.IPv4(b).SetChecksum(^header.IPv4(b).CalculateChecksum())
		return append(b, message...)
	}
	b := make([]byte, header.IPv6MinimumSize, header.IPv6MinimumSize+len(message))
	header.IPv6(b).Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(message)), TransportProtocol: transport, HopLimit: 64, SrcAddr: address(src), DstAddr: address(dst),
	})
	return append(b, message...)
}

// tcpPacket is a segment to port 80 with a right checksum.
func tcpPacket(src, dst netip.Addr, port uint16, f header.TCPFields) []byte {
	return tcpSegment(src, dst, port, f, nil)
}

// tcpSegment is the same with data.
func tcpSegment(src, dst netip.Addr, port uint16, f header.TCPFields, data []byte) []byte {
	f.SrcPort, f.DstPort, f.DataOffset = port, 80, header.TCPMinimumSize
	if f.WindowSize == 0 {
		f.WindowSize = 65535
	}
	segment := header.TCP(append(make([]byte, header.TCPMinimumSize, header.TCPMinimumSize+len(data)), data...))
	segment.Encode(&f)
	pseudo := header.PseudoHeaderChecksum(header.TCPProtocolNumber, address(src), address(dst), uint16(len(segment)))
	segment.SetChecksum(^checksum.Checksum(segment, pseudo))
	return ipPacket(src, dst, header.TCPProtocolNumber, segment)
}

func synTo(src, dst netip.Addr, port uint16, seq uint32) []byte {
	return tcpPacket(src, dst, port, header.TCPFields{SeqNum: seq, Flags: header.TCPFlagSyn})
}

// udpDatagram is a datagram to port 53.
func udpDatagram(src, dst netip.Addr, port uint16, data []byte) []byte {
	datagram := header.UDP(make([]byte, header.UDPMinimumSize, header.UDPMinimumSize+len(data)))
	length := uint16(cap(datagram))
	datagram.Encode(&header.UDPFields{SrcPort: port, DstPort: 53, Length: length})
	datagram = append(datagram, data...)
	pseudo := header.PseudoHeaderChecksum(header.UDPProtocolNumber, address(src), address(dst), length)
	datagram.SetChecksum(^checksum.Checksum(datagram, pseudo))
	return ipPacket(src, dst, header.UDPProtocolNumber, datagram)
}

// echoRequest is a ping with a right checksum.
func echoRequest(src, dst netip.Addr, id, seq uint16, data []byte) []byte {
	message := append(make([]byte, icmpHeader, icmpHeader+len(data)), data...)
	message[4], message[5], message[6], message[7] = byte(id>>8), byte(id), byte(seq>>8), byte(seq)
	if dst.Is4() {
		message[0] = uint8(header.ICMPv4Echo)
		header.ICMPv4(message).SetChecksum(^checksum.Checksum(message, 0))
		return ipPacket(src, dst, header.ICMPv4ProtocolNumber, message)
	}
	message[0] = uint8(header.ICMPv6EchoRequest)
	icmp := header.ICMPv6(message)
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: address(src), Dst: address(dst)}))
	return ipPacket(src, dst, header.ICMPv6ProtocolNumber, message)
}

// setClass sets the traffic class of a packet.
func setClass(packet []byte, class uint8) {
	if header.IPVersion(packet) == header.IPv6Version {
		header.IPv6(packet).SetTOS(class, 0)
		return
	}
	ip := header.IPv4(packet)
	ip.SetTOS(class, 0)
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
}

func classOf(packet []byte) uint8 {
	if header.IPVersion(packet) == header.IPv6Version {
		class, _ := header.IPv6(packet).TOS()
		return class
	}
	class, _ := header.IPv4(packet).TOS()
	return class
}

func hopsOf(packet []byte) uint8 {
	if header.IPVersion(packet) == header.IPv6Version {
		return header.IPv6(packet).HopLimit()
	}
	return header.IPv4(packet).TTL()
}

// fragments cuts a packet into pieces that fit the MTU, at least two (RFC 8200
// section 4.5, RFC 791 section 3.2).
func fragments(packet []byte, id uint32) [][]byte {
	size := header.IPv6MinimumSize
	if header.IPVersion(packet) == header.IPv4Version {
		size = header.IPv4MinimumSize
	}
	payload := packet[size:]
	step := min((testMTU-size-8)/8*8, max(8, (len(payload)-1)/8*8))
	var parts [][]byte
	for at := 0; at < len(payload); at += step {
		piece := payload[at:min(at+step, len(payload))]
		more := at+step < len(payload)
		part := append([]byte(nil), packet[:size]...)
		if size == header.IPv4MinimumSize {
			ip := header.IPv4(part)
			flags := uint8(0)
			if more {
				flags = header.IPv4FlagMoreFragments
			}
			ip.SetID(uint16(id))
			ip.SetFlagsFragmentOffset(flags, uint16(at))
			ip.SetTotalLength(uint16(size + len(piece)))
			ip.SetChecksum(0)
			ip.SetChecksum(^ip.CalculateChecksum())
		} else {
			word := uint16(at)
			if more {
				word |= 1
			}
			next := part[header.IPv6NextHeaderOffset]
			part[header.IPv6NextHeaderOffset] = uint8(header.IPv6FragmentHeader)
			header.IPv6(part).SetPayloadLength(uint16(8 + len(piece)))
			part = append(part, next, 0, byte(word>>8), byte(word), byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
		}
		parts = append(parts, append(part, piece...))
	}
	return parts
}

// message is the next message that the Stack sends, put together again.
func (w *wire) message(t *testing.T, src, dst netip.Addr) []byte {
	t.Helper()
	var whole []byte
	for {
		b := w.next(t)
		p, ok := parsePacket(b)
		if !ok || p.src != src || p.dst != dst {
			t.Fatalf("packet from %v to %v (%v), want %v to %v", p.src, p.dst, ok, src, dst)
		}
		more := false
		if p.dst.Is4() {
			more = header.IPv4(b).More()
		} else if hasFragmentHeader(b) {
			more = b[header.IPv6MinimumSize+3]&1 != 0
		}
		if whole = append(whole, b[p.payload:]...); !more {
			return whole
		}
	}
}

var writeOptions = tcpip.WriteOptions{}

// send puts a raw packet on the wire, as if the client had.
func (w *wire) send(packet []byte) {
	p := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	var list gstack.PacketBufferList
	list.PushBack(p)
	_, _ = w.ep.WritePackets(list) // its queue is long
	p.DecRef()
}

// next is the next packet that the Stack sends.
func (w *wire) next(t testing.TB) []byte {
	t.Helper()
	select {
	case p := <-w.out:
		return p
	case <-time.After(10 * time.Second):
		t.Fatal("the stack sends nothing")
	}
	return nil
}

// wantNothingMore asserts that nothing was sent beyond what was taken. Call it
// when whatever might have been sent would have been sent already.
func (w *wire) wantNothingMore(t *testing.T) {
	t.Helper()
	select {
	case p := <-w.out:
		t.Errorf("the stack sent one packet more: % x", p)
	default:
	}
}

// eventually waits for a state that nothing announces.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// split takes a sent packet apart, and checks its addresses and checksums.
func split(t testing.TB, packet []byte, src, dst netip.Addr) (transport uint8, message []byte) {
	t.Helper()
	p, ok := parsePacket(packet)
	if !ok || p.src != src || p.dst != dst {
		t.Fatalf("packet from %v to %v (%v), want %v to %v", p.src, p.dst, ok, src, dst)
	}
	if p.dst.Is4() && header.IPv4(packet).CalculateChecksum() != 0xffff {
		t.Error("wrong IPv4 header checksum")
	}
	message = packet[p.payload:]
	initial := uint16(0)
	if p.transport != uint8(header.ICMPv4ProtocolNumber) {
		initial = header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(p.transport), address(src), address(dst), uint16(len(message)))
	}
	if checksum.Checksum(message, initial) != 0xffff {
		t.Error("wrong transport checksum")
	}
	return p.transport, message
}

// wantReset reads the RST that answers a SYN.
func wantReset(t *testing.T, w *wire, syn []byte) {
	t.Helper()
	p, _ := parsePacket(syn)
	_, message := split(t, w.next(t), p.dst, p.src)
	asked, segment := header.TCP(syn[p.payload:]), header.TCP(message)
	if segment.Flags() != header.TCPFlagRst|header.TCPFlagAck || segment.AckNumber() != asked.SequenceNumber()+1 ||
		segment.SourcePort() != asked.DestinationPort() || segment.DestinationPort() != asked.SourcePort() {
		t.Errorf("answer to the SYN is no right RST: %+v", segment)
	}
}

// wantUnreachable reads the ICMP destination unreachable that quotes packet.
func wantUnreachable(t *testing.T, w *wire, from netip.Addr, code int, packet []byte) {
	t.Helper()
	kind, limit := uint8(header.ICMPv6DstUnreachable), maxQuote6
	if from.Is4() {
		kind, limit = uint8(header.ICMPv4DstUnreachable), maxQuote4
	}
	wantError(t, w, from, kind, uint8(code), 0, packet[:min(len(packet), limit)])
}

// wantError reads an ICMP error.
func wantError(t *testing.T, w *wire, from netip.Addr, kind, code uint8, word byte, quote []byte) {
	t.Helper()
	quoted, _ := parsePacket(quote)
	sent := w.next(t)
	_, message := split(t, sent, from, quoted.src)
	if message[0] != kind || message[1] != code || message[7] != word {
		t.Errorf("ICMP type %d code %d pointer %d, want %d, %d, %d", message[0], message[1], message[7], kind, code, word)
	}
	if !bytes.Equal(message[icmpHeader:], quote) {
		t.Errorf("it quotes %d bytes\n% x, want %d\n% x", len(message)-icmpHeader, message[icmpHeader:], len(quote), quote)
	}
}

package stack

import (
	"bytes"
	"context"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"aarptun/nat"
)

// corrupt damages the last byte of a packet.
func corrupt(packet []byte) []byte {
	b := bytes.Clone(packet)
	b[len(b)-1] ^= 1
	return b
}

// trusted are the headers that say that a checksum need not be verified.
var trusted = []vnetHeader{{flags: vnetNeedsChecksum, checksumStart: 1, checksumAt: 1}, {flags: vnetChecksumValid}}

// checksummed are the devices: whether they have offloads must make no
// difference to a packet of which nothing is said.
var checksummed = []Config{{}, offloaded}

func TestSYNWithAWrongChecksum(t *testing.T) {
	for _, f := range families {
		for _, c := range checksummed {
			served := make(chan struct{}, 8)
			s, w := start(t, handler{tcp: func(_ context.Context, _ nat.Tuple, in nat.TCPInside) {
				in.Reject(nat.Refusal{Reason: nat.Timeout})
				served <- struct{}{}
			}}, c)
			syn := synTo(f.client, f.dest, 4000, 1)
			wrong := bytes.Clone(syn)
			wrong[len(wrong)-1] ^= 1 // the urgent pointer
			s.injectPacket(wrong)
			eventually(t, "it is counted", func() bool { return s.Stats().Malformed == 1 })
			s.injectPacket(syn)
			<-served
			if n := len(served); n != 0 || s.Stats().Malformed != 1 {
				t.Errorf("%s: %d flows besides, %d malformed", f.name, n, s.Stats().Malformed)
			}
			for i, h := range trusted {
				forget := bytes.Clone(wrong)
				header.TCP(forget[len(forget)-header.TCPMinimumSize:]).SetSourcePort(uint16(5000 + i))
				s.injectWith(h, forget)
				<-served
			}
			w.wantNothingMore(t)
		}
	}
}

// TestSegmentWithAWrongChecksum: it is as if it had not come, and the right one
// that comes after it is taken.
func TestSegmentWithAWrongChecksum(t *testing.T) {
	for _, f := range families {
		for _, c := range checksummed {
			for _, size := range []int{1, 1400, 30_000} { // the largest lies in two pieces
				s, w, accepted := flowsOn(t, c)
				client := rawConnect(t, s, w, f.client, f.dest)
				leg := <-accepted
				data := randomBytes(t, size)
				flags := header.TCPFlags(header.TCPFlagAck | header.TCPFlagPsh)
				right := tcpSegment(f.client, f.dest, rawPort, header.TCPFields{SeqNum: client.seq, AckNum: client.ack, Flags: flags}, data)
				s.injectPacket(corrupt(right))
				eventually(t, "it is dropped", func() bool { return s.net.Stats().TCP.ChecksumErrors.Value() == 1 })
				if n, err := leg.endpoint.GetSockOptInt(tcpip.ReceiveQueueSizeOption); n != 0 || err != nil {
					t.Errorf("%s: %d bytes wait, %v", f.name, n, err)
				}
				client.send(flags, data)
				queued(t, leg, size)
				// Of one that is not to be verified the checksum is not looked at.
				s.injectWith(trusted[0], corrupt(tcpSegment(f.client, f.dest, rawPort, header.TCPFields{SeqNum: client.seq, AckNum: client.ack, Flags: flags}, data)))
				queued(t, leg, 2*size)
				var got taker
				if err := leg.MoveTo(&got); err != nil || !bytes.Equal(got.got.Bytes(), append(bytes.Clone(data), corrupt(data)...)) {
					t.Errorf("%s: moved %d bytes, or others, %v", f.name, got.got.Len(), err)
				}
			}
		}
	}
}

func TestDatagramWithAWrongChecksum(t *testing.T) {
	for _, f := range families {
		for _, c := range checksummed {
			got := make(chan nat.Datagram, 8)
			s, w := start(t, handler{udp: func(ctx context.Context, _ nat.Tuple, in waitingUDP) {
				defer context.AfterFunc(ctx, func() { _ = in.Close() })()
				for {
					d, err := in.Receive()
					if err != nil {
						return
					}
					got <- d
				}
			}}, c)
			want := func(data []byte, what string) {
				t.Helper()
				if d := <-got; !bytes.Equal(d.Data, data) {
					t.Errorf("%s: %s: %d bytes, or others", f.name, what, len(d.Data))
				}
			}
			data := randomBytes(t, 1000)
			right := udpDatagram(f.client, f.dest, 4000, data)
			s.injectPacket(corrupt(right))
			for i, part := range fragments(corrupt(right), 1) {
				// A fragment is verified whatever is said of it.
				s.injectWith(append(trusted, vnetHeader{})[i%3], part)
			}
			for _, part := range fragments(corrupt(right), 2) {
				s.injectPacket(part)
			}
			eventually(t, "they are counted", func() bool { return s.Stats().Malformed == 3 })
			s.injectPacket(right)
			want(data, "the right one")
			for _, part := range fragments(right, 3) {
				s.injectPacket(part)
			}
			want(data, "the right one in fragments")
			for _, h := range trusted {
				s.injectWith(h, corrupt(right))
				want(corrupt(data), "one that is not to be verified")
			}
			// Only IPv4 lets a datagram have none, also if it would be right as zero
			// (RFC 8200 section 8.1).
			message := right[len(right)-len(data)-header.UDPMinimumSize:]
			copy(data, []byte{0, 0})
			copy(data, header.UDP(udpDatagram(f.client, f.dest, 4000, data)[len(right)-len(message):])[6:8])
			copy(message[header.UDPMinimumSize:], data)
			none := right
			header.UDP(message).SetChecksum(0)
			s.injectPacket(none)
			if f.dest.Is4() {
				want(data, "one without a checksum")
				wrong := bytes.Clone(right)
				wrong[8] ^= 1 // the TTL, and so the sum of the header
				for _, h := range append(trusted, vnetHeader{}) {
					s.injectWith(h, wrong)
				}
			}
			malformed := map[bool]uint64{true: 6, false: 4}[f.dest.Is4()]
			if n := s.Stats().Malformed; n != malformed || len(got) != 0 {
				t.Errorf("%s: %d malformed, want %d; %d datagrams besides", f.name, n, malformed, len(got))
			}
			w.wantNothingMore(t)
		}
	}
}

// A device hands over several datagrams in one packet, whose checksum nobody has
// filled in.
func TestOnePacketOfSeveralDatagrams(t *testing.T) {
	const size = 100
	for _, f := range families {
		got := make(chan nat.Datagram, 1)
		s, _ := start(t, handler{udp: func(_ context.Context, _ nat.Tuple, in waitingUDP) {
			d, err := in.Receive()
			if err != nil {
				t.Errorf("Receive: %v", err)
			}
			got <- d
		}}, offloaded)
		data := randomBytes(t, 3*size+7)
		packet := udpDatagram(f.client, f.dest, 4000, data)
		at := len(packet) - len(data) - header.UDPMinimumSize
		setClass(packet, 0x15)
		header.UDP(packet[at:]).SetChecksum(0x1234)
		s.injectWith(vnetHeader{
			flags: vnetNeedsChecksum, gso: vnetUDP, headers: uint16(at + header.UDPMinimumSize), segment: size,
			checksumStart: uint16(at), checksumAt: udpChecksumAt,
		}, packet)
		if d := <-got; !bytes.Equal(d.Data, data) || d.Size() != size || d.Meta.Class != 0x15 || d.Meta.Hops != 64 {
			t.Errorf("%s: %d bytes by %d, %+v", f.name, len(d.Data), d.Size(), d.Meta)
		}
	}
}

func TestVnetHeader(t *testing.T) {
	for _, h := range []vnetHeader{{}, {1, 2, 0x0304, 0x0506, 0x0708, 0x090a}, {vnetNeedsChecksum, vnetTCP6 | vnetECN, 60, 1440, 40, 16}} {
		var b [vnetSize]byte
		h.encode(b[:])
		var back vnetHeader
		if back.decode(b[:]); back != h {
			t.Errorf("%+v came back as %+v", h, back)
		}
	}
	for flags, want := range map[uint8]bool{0: false, vnetNeedsChecksum: true, vnetChecksumValid: true, 4: false} {
		if h := (vnetHeader{flags: flags}); h.checked() != want {
			t.Errorf("flags %d: checked is %v", flags, !want)
		}
	}
}

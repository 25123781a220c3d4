package stack

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"aarptun/nat"
)

// tooBig is what a router says about a packet of the Stack's.
func tooBig(from, to netip.Addr, mtu uint32, packet []byte) []byte {
	message := append(make([]byte, icmpHeader), packet[:min(len(packet), maxQuote6)]...)
	message[0] = uint8(header.ICMPv6PacketTooBig)
	binary.BigEndian.PutUint32(message[4:], mtu)
	icmp := header.ICMPv6(message)
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: address(from), Dst: address(to)}))
	return ipPacket(from, to, header.ICMPv6ProtocolNumber, message)
}

// drained takes what the Stack has sent and nobody has looked at.
func (w *wire) drained() (packets [][]byte) {
	for {
		select {
		case p := <-w.out:
			packets = append(packets, p)
		default:
			return packets
		}
	}
}

var testRouter = netip.MustParseAddr("2001:db8:c::ffff")

// A router says that a datagram is too big for the way to the client, and from
// then on they come in pieces that fit, datagrams and echo replies alike.
func TestPacketsFitThePathToTheClient(t *testing.T) {
	for _, wiring := range wirings {
		t.Run(wiring.name, func(t *testing.T) {
			const narrow = 1300
			s, w := start(t, handler{udp: udpEcho(make(chan nat.Tuple, 1)), echo: func(_ context.Context, _ nat.Tuple, in nat.EchoInside) {
				if err := in.Reply(in.Data()); err != nil {
					t.Error(err)
				}
			}}, wiring.c)
			c := w.mustDial(t, udp.ProtocolNumber, any6, 53)
			exchange := func(n int) [][]byte {
				t.Helper()
				sent, got := randomBytes(t, n), make([]byte, 65535)
				if _, err := c.endpointWrite(sent); err != nil {
					t.Fatal(err)
				}
				if m, err := c.Read(got); err != nil || !bytes.Equal(got[:m], sent) {
					t.Fatalf("%d bytes came back as %d, or others, %v", n, m, err)
				}
				return w.drained()
			}
			whole := exchange(1400)
			if len(whole) != 1 {
				t.Fatalf("1,400 bytes came in %d packets", len(whole))
			}
			w.send(tooBig(testRouter, any6, narrow, whole[0]))
			eventually(t, "it is learned", func() bool { return s.Stats().MTUsLearned == 1 })
			for n, pieces := range map[int]int{1200: 1, narrow - 48: 1, narrow - 47: 2, 1400: 2, 1448: 2, 8000: 7} {
				packets := exchange(n)
				for _, p := range packets {
					if len(p) > narrow {
						t.Errorf("%d bytes came in a packet of %d", n, len(p))
					}
				}
				if len(packets) != pieces {
					t.Errorf("%d bytes came in %d packets, want %d", n, len(packets), pieces)
				}
			}
			data := randomBytes(t, 1400)
			w.send(echoRequest(client6, any6, 7, 8, data))
			var reply []byte
			for range 2 {
				p := w.next(t)
				if len(p) > narrow {
					t.Errorf("the echo reply came in a packet of %d bytes", len(p))
				}
				reply = append(reply, p[header.IPv6MinimumSize+header.IPv6FragmentHeaderSize:]...)
			}
			if !bytes.Equal(reply[icmpHeader:], data) {
				t.Errorf("the echo reply has %d bytes, or others, want %d", len(reply)-icmpHeader, len(data))
			}
		})
	}
}

// Who has not seen a packet of ours cannot have others cut.
func TestForgedPathMTUs(t *testing.T) {
	s, w := start(t, handler{udp: udpEcho(make(chan nat.Tuple, 1))}, Config{})
	c := w.mustDial(t, udp.ProtocolNumber, any6, 53)
	if _, err := c.endpointWrite(make([]byte, 1400)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1500)); err != nil {
		t.Fatal(err)
	}
	sent := w.drained()[0]
	otherPort := bytes.Clone(sent)
	otherPort[header.IPv6MinimumSize+3]++
	otherAA := netip.MustParseAddr("2001:db8:aa::2")
	request := echoRequest(client6, any6, 1, 1, nil)
	for name, packet := range map[string][]byte{
		"no such flow":                tooBig(testRouter, any6, 1300, otherPort),
		"to another anycast address":  tooBig(testRouter, otherAA, 1300, sent),
		"the client's own packet":     tooBig(testRouter, any6, 1300, request),
		"no less than the device has": tooBig(testRouter, any6, testMTU, sent),
		"the quote is cut off":        tooBig(testRouter, any6, 1300, sent[:header.IPv6MinimumSize+3]),
		"no quote":                    tooBig(testRouter, any6, 1300, nil),
		"to an anycast address":       tooBig(testRouter, any6, 1300, ipPacket(any6, otherAA, header.ICMPv6ProtocolNumber, []byte{129, 0, 0, 0})),
	} {
		before := s.Stats().PacketsIn
		w.send(packet)
		w.send(tooBig(testRouter, any6, testMTU, sent)) // means nothing, and is behind it
		eventually(t, "both have come", func() bool { return s.Stats().PacketsIn == before+2 })
		if n := s.Stats().MTUsLearned; n != 0 {
			t.Errorf("%s: it is believed", name)
		}
	}
	w.send(tooBig(testRouter, any6, 68, sent))
	eventually(t, "it is learned", func() bool { return s.Stats().MTUsLearned == 1 })
	if got := s.mtus.to(client6, testMTU); got != header.IPv6MinimumMTU {
		t.Errorf("an MTU of 68 is taken as %d, want %d", got, header.IPv6MinimumMTU)
	}
}

func TestPathMTUsAreBoundedAndForgotten(t *testing.T) {
	var p pathMTUs
	client := func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i)) }
	if got := p.to(client(0), 1500); got != 1500 {
		t.Errorf("of nobody: %d", got)
	}
	now := time.Now()
	for i := range maxMTUs {
		if !p.learn(client(i), 1300, now.Add(time.Duration(i-maxMTUs)*time.Millisecond)) {
			t.Fatalf("no room for client %d", i)
		}
	}
	if p.learn(client(maxMTUs), 1300, now) {
		t.Error("there is room for one too many")
	}
	if !p.learn(client(1), 1280, now) || p.to(client(1), 1500) != 1280 {
		t.Error("one that is known is not learned anew")
	}
	if !p.learn(client(maxMTUs), 1300, now.Add(mtuLifetime)) || len(p.mtus) > 2 {
		t.Errorf("%d are kept when their time is over", len(p.mtus))
	}
	if p.learn(client(2), 1300, now.Add(-2*mtuLifetime)); p.to(client(2), 1500) != 1500 {
		t.Error("one whose time is over is used")
	}
}

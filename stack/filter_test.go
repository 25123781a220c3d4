package stack

import (
	"context"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"aarptun/nat"
)

func TestFilter(t *testing.T) {
	outside := netip.MustParseAddr("2001:db8:bb::1")
	truncated := synTo(client6, any6, 1, 1)[:50]
	withExtension := append([]byte{uint8(header.TCPProtocolNumber), 0, 1, 4, 0, 0, 0, 0}, synTo(client6, any6, 1, 1)[header.IPv6MinimumSize:]...)
	for _, tc := range []struct {
		name   string
		packet []byte
		want   verdict
	}{
		{"a SYN", synTo(client6, any6, 1, 1), admit},
		{"a SYN behind a hop-by-hop header", ipPacket(client6, any6, 0, withExtension), admit},
		{"a datagram", udpDatagram(client4, any4, 1, nil), admit},
		{"an echo request", echoRequest(client6, any6, 1, 1, nil), admit},
		{"nothing", nil, dropMalformed},
		{"version 5", append([]byte{0x50}, make([]byte, 60)...), dropMalformed},
		{"cut off", truncated, dropMalformed},
		{"an extension header that is cut off", ipPacket(client6, any6, 0, []byte{6, 0}), dropMalformed},
		{"no next header", ipPacket(client6, any6, 59, nil), dropMalformed},
		{"to an address outside", synTo(client6, outside, 1, 1), dropDestination},
		{"from an anycast address", synTo(any6, any6, 1, 1), dropSource},
		{"from a multicast address", synTo(netip.MustParseAddr("ff02::1"), any6, 1, 1), dropSource},
		{"from the unspecified address", synTo(netip.IPv6Unspecified(), any6, 1, 1), dropSource},
		{"from loopback", synTo(netip.MustParseAddr("127.0.0.1"), any4, 1, 1), dropSource},
		{"a neighbour solicitation", ipPacket(client6, any6, header.ICMPv6ProtocolNumber, []byte{135, 0, 0, 0}), dropICMP},
		{"an echo reply", ipPacket(client6, any6, header.ICMPv6ProtocolNumber, []byte{129, 0, 0, 0}), dropICMP},
		{"an empty ICMP message", ipPacket(client6, any6, header.ICMPv6ProtocolNumber, nil), dropMalformed},
		{"ICMPv4 in IPv6", ipPacket(client6, any6, header.ICMPv4ProtocolNumber, []byte{8, 0, 0, 0}), refuseProtocol},
		{"SCTP", ipPacket(client6, any6, 132, make([]byte, 12)), refuseProtocol},
		{"GRE", ipPacket(client4, any4, 47, make([]byte, 12)), refuseProtocol},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, _ := start(t, handler{}, Config{})
			if _, got := s.judge(tc.packet); got != tc.want {
				t.Errorf("verdict %d, want %d", got, tc.want)
			}
		})
	}
}

func TestOtherProtocolsAreRefusedByName(t *testing.T) {
	_, w := start(t, handler{}, Config{})
	sctp := ipPacket(client6, any6, 132, make([]byte, 12))
	w.send(sctp)
	wantError(t, w, any6, uint8(header.ICMPv6ParamProblem), uint8(header.ICMPv6UnknownHeader), header.IPv6NextHeaderOffset, sctp)
	gre := ipPacket(client4, any4, 47, make([]byte, 12))
	w.send(gre)
	wantUnreachable(t, w, any4, 2, gre)
	w.wantNothingMore(t)
}

func TestDropsAreCounted(t *testing.T) {
	s, w := start(t, handler{}, Config{})
	badSum := synTo(client6, any6, 1, 1)
	badSum[header.IPv6MinimumSize+16] ^= 1
	badDatagram := udpDatagram(client6, any6, 1, []byte("x"))
	badDatagram[len(badDatagram)-1] ^= 1
	for _, p := range [][]byte{nil, badSum, badDatagram, synTo(client6, netip.MustParseAddr("2001:db8:bb::1"), 1, 1), synTo(any6, any6, 1, 1),
		ipPacket(client6, any6, header.ICMPv6ProtocolNumber, []byte{135, 0, 0, 0})} {
		s.injectPacket(p)
	}
	got := s.Stats()
	if got.Malformed != 3 || got.NotAnycast != 1 || got.BadSource != 1 || got.OtherICMP != 1 || got.PacketsIn != 6 || got.Handshakes != 0 {
		t.Errorf("stats %+v", got)
	}
	w.wantNothingMore(t)
}

// FuzzInject throws packets at the stack, two at a time so that the second can
// be a fragment or a retransmission of the first. Nothing may panic or hang, and
// every Serve call gets a tuple that makes sense.
func FuzzInject(f *testing.F) {
	for _, family := range families {
		syn := synTo(family.client, family.dest, 4000, 1)
		datagram := udpDatagram(family.client, family.dest, 4000, []byte("data"))
		echo := echoRequest(family.client, family.dest, 1, 1, make([]byte, 3000))
		parts := fragments(echo, 5)
		f.Add(syn, syn)
		f.Add(datagram, datagram)
		f.Add(parts[0], parts[1])
		f.Add(parts[1], parts[0])
		f.Add(ipPacket(family.client, family.dest, 132, make([]byte, 12)), syn[:30])
		f.Add(syn, tcpPacket(family.client, family.dest, 4000, header.TCPFields{SeqNum: 2, Flags: header.TCPFlagRst}))
	}
	check := func(tuple nat.Tuple) {
		if tuple.Client.Addr() == tuple.Anycast.Addr() || tuple.Client.Addr().Is4() != tuple.Anycast.Addr().Is4() {
			f.Errorf("flow %v", tuple)
		}
	}
	h := handler{
		tcp: func(_ context.Context, tuple nat.Tuple, in nat.TCPInside) {
			check(tuple)
			in.Reject(nat.Refusal{Reason: nat.Unreachable})
		},
		udp: func(_ context.Context, tuple nat.Tuple, in waitingUDP) {
			check(tuple)
			if d, err := in.Receive(); err == nil {
				in.Reject(nat.Refusal{Reason: nat.Refused}, d.Data)
			}
		},
		echo: func(_ context.Context, tuple nat.Tuple, in nat.EchoInside) {
			check(tuple)
			_ = in.Reply(in.Data())
		},
	}
	s, _ := start(f, h, Config{})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		s.injectPacket(first[:min(len(first), maxPacket)])
		s.injectPacket(second[:min(len(second), maxPacket)])
	})
}

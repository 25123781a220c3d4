package stack

import (
	"bytes"
	"context"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"aarptun/nat"
)

func TestEchoOfADeadMemberStaysUnanswered(t *testing.T) {
	// Netstacks that accept every destination like to answer by themselves.
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			served := make(chan struct{})
			s, w := start(t, handler{echo: func(context.Context, nat.Tuple, nat.EchoInside) { close(served) }}, Config{})
			s.injectPacket(echoRequest(f.client, f.dest, 7, 1, []byte("anybody?")))
			<-served
			eventually(t, "no echo is being served", func() bool { return s.Stats().Echoes == 0 })
			w.wantNothingMore(t)
		})
	}
}

func TestEchoReplyIsTheClientsOwn(t *testing.T) {
	for _, f := range families {
		for _, size := range []int{0, 1, 56, testMTU - 48, 8000, 60000} {
			data := randomBytes(t, size)
			s, w := start(t, handler{echo: func(_ context.Context, tuple nat.Tuple, in nat.EchoInside) {
				want := nat.Tuple{Proto: nat.Echo, Client: netip.AddrPortFrom(f.client, 0xabcd), Anycast: netip.AddrPortFrom(f.dest, 0)}
				if tuple != want || !bytes.Equal(in.Data(), data) {
					t.Errorf("%v with %d bytes, want %v", tuple, len(in.Data()), want)
				}
				if err := in.Reply(in.Data()); err != nil {
					t.Errorf("Reply: %v", err)
				}
			}}, Config{})
			request := echoRequest(f.client, f.dest, 0xabcd, 0x1234, data)
			parts := [][]byte{request}
			if len(request) > testMTU {
				parts = fragments(request, 9)
			}
			for _, part := range parts {
				s.injectPacket(part)
			}
			message := w.message(t, f.dest, f.client)
			kind := uint8(header.ICMPv6EchoReply)
			if f.dest.Is4() {
				kind = uint8(header.ICMPv4EchoReply)
			}
			if message[0] != kind || !bytes.Equal(message[4:8], []byte{0xab, 0xcd, 0x12, 0x34}) || !bytes.Equal(message[icmpHeader:], data) {
				t.Errorf("%s, %d bytes: reply % x...", f.name, size, message[:icmpHeader])
			}
		}
	}
}

func TestEchoErrorsOfThePath(t *testing.T) {
	router := netip.MustParseAddr("2001:db8:1::1")
	for _, tc := range []struct {
		name string
		icmp nat.ICMP
		from netip.Addr
	}{
		{"hop limit exceeded names the hop", nat.ICMP{From: router, Type: 3, Code: 0}, router},
		{"policy failed comes from AA", nat.ICMP{From: router, Type: 1, Code: 5}, any6},
		{"too big", nat.ICMP{From: router, Type: 2, Info: 1300}, any6},
		{"a hop that cannot be answered is AA", nat.ICMP{From: netip.MustParseAddr("ff02::1"), Type: 3}, any6},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, w := start(t, handler{echo: func(_ context.Context, _ nat.Tuple, in nat.EchoInside) {
				in.Reject(nat.Refusal{Reason: nat.Relayed, ICMP: tc.icmp})
			}}, Config{})
			request := echoRequest(client6, any6, 1, 1, []byte("x"))
			s.injectPacket(request)
			_, message := split(t, w.next(t), tc.from, client6)
			if message[0] != tc.icmp.Type || message[1] != tc.icmp.Code || uint32(message[6])<<8|uint32(message[7]) != tc.icmp.Info ||
				!bytes.Equal(message[icmpHeader:], request) {
				t.Errorf("error % x", message)
			}
		})
	}
}

func TestEchoLimit(t *testing.T) {
	goOn := make(chan struct{})
	s, _ := start(t, handler{echo: func(context.Context, nat.Tuple, nat.EchoInside) { <-goOn }}, Config{Echoes: 2})
	for seq := range uint16(5) {
		s.injectPacket(echoRequest(client6, any6, 1, seq, nil))
	}
	if st := s.Stats(); st.Echoes != 2 || st.EchoesDropped != 3 {
		t.Errorf("%d echoes, %d dropped; want 2, 3", st.Echoes, st.EchoesDropped)
	}
	close(goOn)
}

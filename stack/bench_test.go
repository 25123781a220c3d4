package stack

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"aarptun/nat"
)

// Each hot step by itself, on a device that costs nothing.

// nowhere is a Device that takes all and has nothing.
type nowhere chan struct{}

// Read implements Device.
func (n nowhere) Read([][]byte) (int, error) {
	<-n
	return 0, os.ErrClosed
}

// Write implements Device.
func (nowhere) Write([][]byte) error { return nil }

// Close implements Device.
func (n nowhere) Close() error {
	close(n)
	return nil
}

// onNowhere returns a Stack that runs until the benchmark ends.
func onNowhere(b *testing.B, h handler) *Stack {
	b.Helper()
	h.t = b
	c := offloaded
	c.MTU, c.Prefixes = testMTU, testPrefixes
	s, err := New(make(nowhere), h, c)
	if err != nil {
		b.Fatal(err)
	}
	run(b, s.Run)
	return s
}

// BenchmarkWriteSegments writes a packet of 44 segments.
func BenchmarkWriteSegments(b *testing.B) {
	s := onNowhere(b, handler{})
	data := make([]byte, 63_360)
	packet := tcpSegment(any6, client6, 80, header.TCPFields{Flags: header.TCPFlagAck}, data)
	headers := len(packet) - len(data)
	p := gstack.NewPacketBuffer(gstack.PacketBufferOptions{ReserveHeaderBytes: headers, Payload: buffer.MakeWithData(data)})
	defer p.DecRef()
	p.NetworkProtocolNumber, p.TransportProtocolNumber = header.IPv6ProtocolNumber, header.TCPProtocolNumber
	copy(p.TransportHeader().Push(header.TCPMinimumSize), packet[header.IPv6MinimumSize:])
	copy(p.NetworkHeader().Push(header.IPv6MinimumSize), packet)
	p.GSOOptions = gstack.GSO{Type: gstack.GSOTCPv6, NeedsCsum: true, CsumOffset: 16, MSS: 1440, L3HdrLen: header.IPv6MinimumSize, MaxSize: maxPacket}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := s.link.writePacket(p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkInjectDatagram takes a datagram from its device to its flow.
func BenchmarkInjectDatagram(b *testing.B) {
	s := onNowhere(b, handler{udp: func(ctx context.Context, _ nat.Tuple, in waitingUDP) {
		defer context.AfterFunc(ctx, func() { _ = in.Close() })()
		for {
			d, err := in.Receive()
			if err != nil {
				return
			}
			if d.Free != nil {
				d.Free()
			}
		}
	}})
	f := frame{vnet: vnetHeader{flags: vnetNeedsChecksum}, b: udpDatagram(client6, any6, 4000, make([]byte, 1200))}
	b.SetBytes(1200)
	b.ReportAllocs()
	for b.Loop() {
		s.inject(&f)
	}
}

// BenchmarkSendDatagrams sends as many at once as a packet has room for.
func BenchmarkSendDatagrams(b *testing.B) {
	u := &udpInside{s: onNowhere(b, handler{}), tuple: nat.Tuple{
		Proto: nat.UDP, Client: netip.AddrPortFrom(client6, 4000), Anycast: netip.AddrPortFrom(any6, 53),
	}}
	d := nat.Datagram{Data: make([]byte, 54*1200), Segment: 1200, Meta: nat.Meta{Hops: 60}}
	b.SetBytes(int64(len(d.Data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := u.TrySend(d); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkJoin puts 50 datagrams together.
func BenchmarkJoin(b *testing.B) {
	data := make([]byte, 1200)
	b.SetBytes(50 * 1200)
	b.ReportAllocs()
	for b.Loop() {
		all := nat.Datagram{Data: data}
		for range 49 {
			if !join(&all, nat.Datagram{Data: data}) {
				b.Fatal("not joined")
			}
		}
		all.Free()
	}
}

// BenchmarkTryReadFrom sends to a client that reads, over the test's device.
func BenchmarkTryReadFrom(b *testing.B) {
	_, w, accepted := flowsOn(b, offloaded)
	client := w.mustDial(b, tcp.ProtocolNumber, any6, 80)
	c := <-accepted
	told := make(chan struct{}, 1)
	c.Watch(func(bool) {
		select {
		case told <- struct{}{}:
		default:
		}
	})
	go func() {
		for room := make([]byte, 256<<10); ; {
			if _, err := client.Read(room); err != nil {
				return
			}
		}
	}()
	data := make([]byte, 64<<10)
	from := bytes.NewReader(data)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		for from.Reset(data); from.Len() > 0; {
			n, err := c.TryReadFrom(from, from.Len())
			if err != nil {
				b.Fatal(err)
			}
			if n == 0 {
				<-told
			}
		}
	}
}

func BenchmarkVnetHeader(b *testing.B) {
	h := vnetHeader{flags: vnetNeedsChecksum, gso: vnetTCP6, headers: 60, segment: 1440, checksumStart: 40, checksumAt: 16}
	var encoded [vnetSize]byte
	b.ReportAllocs()
	for b.Loop() {
		h.encode(encoded[:])
		h.decode(encoded[:])
	}
}

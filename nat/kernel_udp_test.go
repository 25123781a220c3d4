package nat

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

func TestKernelUDP(t *testing.T) {
	kernel := newTestKernel(t)
	for _, a := range loopbacks(t) {
		peer, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := kernel.DialUDP(t.Context(), peer.LocalAddr().(*net.UDPAddr).AddrPort())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []Meta{{}, {Class: 0xb9, Hops: 9}, {Whole: true}, {Class: 3, Hops: 255, Whole: true}, {}} {
			if err := conn.Send(Datagram{Data: []byte("there"), Meta: m}); err != nil {
				t.Fatalf("%v: send with %+v: %v", a, m, err)
			}
			buf := make([]byte, 100)
			n, from, err := peer.ReadFromUDPAddrPort(buf)
			if err != nil || string(buf[:n]) != "there" {
				t.Fatalf("the peer read %q, %v", buf[:n], err)
			}
			for _, answer := range []string{"", "back"} {
				if _, err := peer.WriteToUDPAddrPort([]byte(answer), from); err != nil {
					t.Fatal(err)
				}
				d, err := conn.Receive()
				if err != nil || string(d.Data) != answer || d.Meta.Hops == 0 {
					t.Fatalf("received %q, %v", d.Data, err)
				}
				d.free()
			}
		}
		_ = peer.Close()
		if err := conn.Send(Datagram{Data: []byte("anybody?")}); err != nil {
			t.Fatal(err)
		}
		_, err = conn.Receive()
		var said DatagramError
		if !errors.As(err, &said) || !errors.Is(err, syscall.ECONNREFUSED) || string(said.Datagram()) != "anybody?" {
			t.Fatalf("after a datagram to a closed port: %v", err)
		}
		from, kind, code, _ := said.ICMP()
		wantKind, wantCode := uint8(icmp6Unreachable), uint8(4)
		if a.Is4() {
			wantKind, wantCode = icmp4Unreachable, 3
		}
		if from != a || kind != wantKind || code != wantCode {
			t.Errorf("ICMP type %d code %d from %v", kind, code, from)
		}
		go func() {
			time.Sleep(10 * time.Millisecond) // likely, not certainly, after the receiver has begun to wait
			_ = conn.Close()
		}()
		if _, err := conn.Receive(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("receive on a closed socket: %v", err)
		}
	}
}

func TestKernelUDPTooBig(t *testing.T) {
	kernel := newTestKernel(t)
	peer, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Close() }() // nothing is buffered in it
	conn, err := kernel.DialUDP(t.Context(), peer.LocalAddr().(*net.UDPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // as above
	// The MTU of loopback is 65,536 at most, and the headers take 28.
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	err = conn.Send(Datagram{Data: make([]byte, 65507), Meta: Meta{Whole: true}})
	if lo.MTU >= 65535 {
		if err != nil {
			t.Errorf("the largest datagram does not fit into an MTU of %d: %v", lo.MTU, err)
		}
		return
	}
	var said DatagramError
	if !errors.As(err, &said) || said.Datagram() != nil {
		t.Fatalf("send gave %v", err)
	}
	if _, kind, code, info := said.ICMP(); kind != icmp4Unreachable || code != icmp4NeedsFrag || int(info) != lo.MTU {
		t.Errorf("type %d code %d MTU %d", kind, code, info)
	}
}

func BenchmarkKernelUDP(b *testing.B) {
	peer, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = peer.Close() }() // nothing is buffered in it
	conn, err := newTestKernel(b).DialUDP(b.Context(), peer.LocalAddr().(*net.UDPAddr).AddrPort())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // as above
	data, buf := make([]byte, 1200), make([]byte, 2000)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := conn.Send(Datagram{Data: data, Meta: Meta{Hops: 63, Whole: true}}); err != nil {
			b.Fatal(err)
		}
		_, from, err := peer.ReadFromUDPAddrPort(buf)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := peer.WriteToUDPAddrPort(data, from); err != nil {
			b.Fatal(err)
		}
		d, err := conn.Receive()
		if err != nil {
			b.Fatal(err)
		}
		d.free()
	}
}

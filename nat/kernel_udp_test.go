package nat

import (
	"bytes"
	"encoding/binary"
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
		conn := dialUDP(t, kernel, peer.LocalAddr().(*net.UDPAddr).AddrPort())
		for _, m := range []Meta{{}, {Class: 0xb9, Hops: 9}, {Whole: true}, {Class: 3, Hops: 255, Whole: true}, {}} {
			if err := conn.TrySend(Datagram{Data: []byte("there"), Meta: m}); err != nil {
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
		if err := conn.TrySend(Datagram{Data: []byte("anybody?")}); err != nil {
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
		_ = conn.Close() // as above
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
	conn := dialUDP(t, kernel, peer.LocalAddr().(*net.UDPAddr).AddrPort())
	// The MTU of loopback is 65,536 at most, and the headers take 28.
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	err = conn.TrySend(Datagram{Data: make([]byte, 65507), Meta: Meta{Whole: true}})
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

// udpPeer is a member's socket that hears what the IP headers say, and several
// datagrams at once if it is asked to.
type udpPeer struct {
	*net.UDPConn
	t testing.TB
}

func newUDPPeer(t testing.TB, a netip.Addr, joined int) udpPeer {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // nothing is buffered in it
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = control(raw, func(fd int) error {
		return errors.Join(prepareUDP(fd, a.Is4()), syscall.SetsockoptInt(fd, syscall.IPPROTO_UDP, udpGRO, joined))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil { // a lost one must not be waited for
		t.Fatal(err)
	}
	return udpPeer{conn, t}
}

// control runs f on the descriptor and returns its error.
func control(c syscall.RawConn, f func(fd int) error) error {
	var err error
	if outer := c.Control(func(fd uintptr) { err = f(int(fd)) }); outer != nil {
		return outer
	}
	return err
}

func (p udpPeer) addr() netip.AddrPort { return p.LocalAddr().(*net.UDPAddr).AddrPort() }

func (p udpPeer) receive() (Datagram, netip.AddrPort) {
	p.t.Helper()
	b, oob := make([]byte, maxDatagram), make([]byte, 200)
	n, oobn, _, from, err := p.ReadMsgUDPAddrPort(b, oob)
	if err != nil {
		p.t.Fatal(err)
	}
	d := received(oob[:oobn])
	d.Data = b[:n]
	return d, from
}

// waitingUDP is a UDPConn that waits.
type waitingUDP struct {
	UDPConn
	happened chan struct{}
}

func waiting(c UDPConn) waitingUDP {
	w := waitingUDP{c, make(chan struct{}, 1)}
	w.Watch(func(bool) {
		select {
		case w.happened <- struct{}{}:
		default:
		}
	})
	return w
}

// Receive waits for what TryReceive returns.
func (w waitingUDP) Receive() (Datagram, error) {
	for {
		d, err := w.TryReceive()
		if !errors.Is(err, ErrNotYet) {
			return d, err
		}
		<-w.happened
	}
}

func dialUDP(t testing.TB, k *Kernel, to netip.AddrPort) waitingUDP {
	t.Helper()
	conn, err := k.DialUDP(t.Context(), netip.Addr{}, to)
	if err != nil {
		t.Fatal(err)
	}
	w := waiting(conn)
	t.Cleanup(func() { _ = w.Close() }) // nothing is buffered in it
	return w
}

// numbered is bytes of which none is like its neighbours.
func numbered(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i + i>>8)
	}
	return b
}

// TestKernelUDPSeveralAtOnce sends several datagrams in one call, and receives
// them, each with what its IP header says.
func TestKernelUDPSeveralAtOnce(t *testing.T) {
	const size, count = 1200, 11
	kernel := newTestKernel(t)
	data := numbered(size*(count-1) + 100)
	for _, a := range loopbacks(t) {
		for _, m := range []Meta{{Hops: 64}, {Class: 0xb9, Hops: 9, Whole: true}, {Class: 4, Hops: 255}} {
			// To a host that takes them one by one.
			peer := newUDPPeer(t, a, 0)
			conn := dialUDP(t, kernel, peer.addr())
			if err := conn.TrySend(Datagram{Data: data, Segment: size, Meta: m}); err != nil {
				t.Fatalf("%v %+v: %v", a, m, err)
			}
			for rest := data; len(rest) > 0; {
				d, _ := peer.receive()
				want := rest[:min(size, len(rest))]
				if !bytes.Equal(d.Data, want) || d.Segment != 0 || d.Meta.Class != m.Class || d.Meta.Hops != m.Hops {
					t.Fatalf("%v: the peer got %d bytes %+v, want %d bytes with %+v", a, len(d.Data), d.Meta, len(want), m)
				}
				rest = rest[len(want):]
			}
			// One alone behind them must not be taken for several.
			if err := conn.TrySend(Datagram{Data: data[:2*size], Meta: m}); err != nil {
				t.Fatal(err)
			}
			if d, _ := peer.receive(); len(d.Data) != 2*size {
				t.Errorf("%v: one of %d bytes arrived with %d", a, 2*size, len(d.Data))
			}

			// And to one that takes them so, and answers so.
			peer = newUDPPeer(t, a, 1)
			conn = dialUDP(t, kernel, peer.addr())
			if err := conn.TrySend(Datagram{Data: data, Segment: size, Meta: m}); err != nil {
				t.Fatal(err)
			}
			d, from := peer.receive()
			if !bytes.Equal(d.Data, data) || d.Segment != size || d.Meta.Class != m.Class || d.Meta.Hops != m.Hops {
				t.Errorf("%v: the peer got %d bytes by %d %+v, want %+v", a, len(d.Data), d.Segment, d.Meta, m)
			}
			said := binary.NativeEndian.AppendUint16(appendHeader(nil, syscall.IPPROTO_UDP, udpSegment, 2), size)
			said = append(said, make([]byte, syscall.CmsgSpace(2)-len(said))...)
			said = appendControl(said, a.Is4(), syscall.IPV6_TCLASS, syscall.IP_TOS, int32(m.Class))
			said = appendControl(said, a.Is4(), ipv6HopLimit, syscall.IP_TTL, int32(m.Hops))
			if _, _, err := peer.WriteMsgUDPAddrPort(data, said, from); err != nil {
				t.Fatal(err)
			}
			d, err := conn.Receive()
			if err != nil || !bytes.Equal(d.Data, data) || d.Segment != size || d.Meta.Class != m.Class || d.Meta.Hops != m.Hops {
				t.Errorf("%v: received %d bytes by %d %+v, %v; want %+v", a, len(d.Data), d.Segment, d.Meta, err, m)
			}
			d.free()
		}
	}
}

// More than the kernel takes at once are refused as a whole: none of them has
// been sent, and the flow sends them one by one.
func TestKernelUDPTooManyAtOnce(t *testing.T) {
	const size, count = 10, 150 // UDP_MAX_SEGMENTS is 64, or 128
	kernel := newTestKernel(t)
	for _, a := range loopbacks(t) {
		peer := newUDPPeer(t, a, 0)
		conn := dialUDP(t, kernel, peer.addr())
		d := Datagram{Data: numbered(size * count), Segment: size, Meta: Meta{Class: 8, Hops: 7}}
		if err := conn.TrySend(d); err == nil {
			t.Fatalf("%v: %d at once were sent", a, count)
		}
		tr, err := New(Config{Resolver: &fakeResolver{}, Outside: kernel, Pinger: fakePinger(nil)})
		if err != nil {
			t.Fatal(err)
		}
		f, err := tr.table.open(testTuple(UDP, 1, 7), func() {})
		if err != nil {
			t.Fatal(err)
		}
		u := &udpFlow{t: tr, f: f, out: conn, waits: d}
		if err := u.carry(); err != nil {
			t.Fatalf("%v: carry: %v", a, err)
		}
		for i := range count {
			if got, _ := peer.receive(); !bytes.Equal(got.Data, d.Data[i*size:(i+1)*size]) || got.Meta.Class != 8 || got.Meta.Hops != 7 {
				t.Fatalf("%v: datagram %d is % x %+v", a, i, got.Data, got.Meta)
			}
		}
		if s := tr.Stats(); s.BytesOut != size*count || s.UDPDropped != 0 {
			t.Errorf("stats: %+v", s)
		}
	}
}

func BenchmarkKernelUDP(b *testing.B) {
	peer, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = peer.Close() }() // nothing is buffered in it
	conn := dialUDP(b, newTestKernel(b), peer.LocalAddr().(*net.UDPAddr).AddrPort())
	data, buf := make([]byte, 1200), make([]byte, 2000)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := conn.TrySend(Datagram{Data: data, Meta: Meta{Hops: 63, Whole: true}}); err != nil {
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

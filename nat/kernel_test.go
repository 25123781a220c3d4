package nat

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"
)

var testKernel = &Kernel{Control: func(string, string, syscall.RawConn) error { return nil }}

// loopbacks are this host's own addresses, of both families where it has them.
func loopbacks(t *testing.T) []netip.Addr {
	t.Helper()
	found := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	if l, err := net.Listen("tcp6", "[::1]:0"); err == nil {
		_ = l.Close()
		found = append(found, netip.MustParseAddr("::1"))
	}
	return found
}

// dialPair returns a dialled leg and the socket at its other end.
func dialPair(t *testing.T, a netip.Addr) (TCPConn, *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // what it accepted lives on
	leg, err := testKernel.DialTCP(t.Context(), l.Addr().(*net.TCPAddr).AddrPort(), Meta{Class: 0xb8, Hops: 63})
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = leg.Close(), peer.Close() })
	return leg, peer
}

func TestKernelTCP(t *testing.T) {
	for _, a := range loopbacks(t) {
		leg, peer := dialPair(t, a)
		sent := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := peer.Write(sent); err != nil {
				t.Errorf("write: %v", err)
			}
			_ = peer.CloseWrite()
		})
		var got bytes.Buffer
		if n, err := leg.WriteTo(&got); err != nil || n != int64(len(sent)) || !bytes.Equal(got.Bytes(), sent) {
			t.Errorf("%v: WriteTo gave %d bytes, %v", a, n, err)
		}
		wg.Wait()
		if _, err := leg.Write([]byte("answer")); err != nil {
			t.Errorf("write after FIN: %v", err)
		}
		_ = leg.CloseWrite()
		if b, err := io.ReadAll(peer); err != nil || string(b) != "answer" {
			t.Errorf("the peer read %q, %v", b, err)
		}
	}
}

func TestKernelTCPErrors(t *testing.T) {
	for _, a := range loopbacks(t) {
		leg, peer := dialPair(t, a)
		closedPort := peer.LocalAddr().(*net.TCPAddr).AddrPort()
		if _, err := testKernel.DialTCP(t.Context(), closedPort, Meta{}); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial to a closed port: %v", err)
		}
		_ = peer.SetLinger(0)
		_ = peer.Close()
		if _, err := leg.WriteTo(io.Discard); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("WriteTo after RST: %v", err)
		}
		leg, peer = dialPair(t, a)
		_ = leg.Reset()
		if _, err := io.ReadAll(peer); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the peer of a leg that was reset read %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := testKernel.DialTCP(ctx, closedPort, Meta{}); err == nil {
			t.Error("dialled with a context that had ended")
		}
	}
}

func TestKernelTCPAwaitReset(t *testing.T) {
	leg, peer := dialPair(t, netip.MustParseAddr("127.0.0.1"))
	stop := make(chan struct{})
	seen := make(chan bool)
	go func() { seen <- leg.AwaitReset(stop) }()
	_, _ = peer.Write([]byte("data is no reset")) // wakes the waiter, which waits on
	close(stop)
	if <-seen {
		t.Error("a reset was seen where there was none")
	}
	// The reader works on after that, and without a deadline.
	b := make([]byte, 4)
	if _, err := io.ReadFull(leg, b); err != nil || string(b) != "data" {
		t.Errorf("read %q, %v", b, err)
	}
	go func() { seen <- leg.AwaitReset(make(chan struct{})) }()
	_ = peer.SetLinger(0)
	_ = peer.Close()
	if !<-seen {
		t.Error("the reset was not seen")
	}
}

// After FIN both ways the kernel calls the socket closed, as after a RST, and
// bytes that nobody has read yet wait in it all the same.
func TestKernelTCPEndIsNoReset(t *testing.T) {
	for _, a := range loopbacks(t) {
		leg, peer := dialPair(t, a)
		if _, err := peer.Write([]byte("late")); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(leg.CloseWrite(), peer.CloseWrite()); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(peer); err != nil {
			t.Fatal(err)
		}
		raw := leg.(*kernelTCP).raw
		for closed := false; !closed; time.Sleep(time.Millisecond) {
			err := control(raw, func(fd int) error {
				info, err := syscall.GetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_INFO)
				closed = info&0xff == tcpClosed
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		stop, seen := make(chan struct{}), make(chan bool)
		go func() { seen <- leg.AwaitReset(stop) }()
		select {
		case <-seen:
			t.Errorf("%v: the end was taken for a reset", a)
		case <-time.After(50 * time.Millisecond):
			close(stop)
			if <-seen {
				t.Errorf("%v: the end was taken for a reset at last", a)
			}
		}
		if b, err := io.ReadAll(leg); err != nil || string(b) != "late" {
			t.Errorf("%v: read %q, %v", a, b, err)
		}
	}
}

func TestKernelUDP(t *testing.T) {
	for _, a := range loopbacks(t) {
		peer, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := testKernel.DialUDP(t.Context(), peer.LocalAddr().(*net.UDPAddr).AddrPort())
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
	peer, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Close() }() // nothing is buffered in it
	conn, err := testKernel.DialUDP(t.Context(), peer.LocalAddr().(*net.UDPAddr).AddrPort())
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

// errQueueMessage is a control message as the kernel writes it.
func errQueueMessage(level, kind int32, data []byte) []byte {
	b := make([]byte, syscall.CmsgSpace(len(data)))
	binary.NativeEndian.PutUint64(b, uint64(syscall.CmsgLen(len(data))))
	binary.NativeEndian.PutUint32(b[8:], uint32(level))
	binary.NativeEndian.PutUint32(b[12:], uint32(kind))
	copy(b[syscall.CmsgLen(0):], data)
	return b
}

func extendedError(errno syscall.Errno, origin, kind, code byte, info uint32, offender []byte) []byte {
	b := make([]byte, sockExtendedErr, sockExtendedErr+len(offender))
	binary.NativeEndian.PutUint32(b, uint32(errno))
	b[4], b[5], b[6] = origin, kind, code
	binary.NativeEndian.PutUint32(b[8:], info)
	return append(b, offender...)
}

func TestParseExtendedError(t *testing.T) {
	router6 := append([]byte{syscall.AF_INET6, 0, 0, 0, 0, 0, 0, 0}, testU1.AsSlice()...)
	binary.NativeEndian.PutUint16(router6, syscall.AF_INET6)
	v6 := func(data []byte) []byte { return errQueueMessage(syscall.IPPROTO_IPV6, syscall.IPV6_RECVERR, data) }
	v4 := func(data []byte) []byte { return errQueueMessage(syscall.IPPROTO_IP, syscall.IP_RECVERR, data) }
	for _, tc := range []struct {
		name string
		oob  []byte
		v4   bool
		want *ICMP
	}{
		{"policy failed", v6(extendedError(syscall.EACCES, originICMP6, 1, 5, 0, router6)), false, &ICMP{testU1, 1, 5, 0}},
		{"too big", v6(extendedError(syscall.EMSGSIZE, originICMP6, 2, 0, 1300, router6)), false, &ICMP{testU1, 2, 0, 1300}},
		{"no offender", v4(extendedError(syscall.EHOSTUNREACH, originICMP, 3, 1, 0, nil)), true, &ICMP{netip.Addr{}, 3, 1, 0}},
		{"our own kernel, too big", v6(extendedError(syscall.EMSGSIZE, originLocal, 0, 0, 1400, nil)), false, &ICMP{Type: 2, Info: 1400}},
		{"our own kernel, too big, IPv4", v4(extendedError(syscall.EMSGSIZE, originLocal, 0, 0, 1400, nil)), true, &ICMP{Type: 3, Code: 4, Info: 1400}},
		{"a time stamp", v6(extendedError(syscall.ENOMSG, 4, 0, 0, 0, nil)), false, nil},
		{"the other family", v4(extendedError(syscall.EHOSTUNREACH, originICMP, 3, 1, 0, nil)), false, nil},
		{"cut off", v6(extendedError(syscall.EACCES, originICMP6, 1, 5, 0, nil)[:12]), false, nil},
		{"something else", errQueueMessage(syscall.SOL_SOCKET, 1, make([]byte, 32)), false, nil},
		{"nothing", nil, false, nil},
	} {
		got := parseExtendedError(tc.oob, tc.v4)
		switch {
		case (got == nil) != (tc.want == nil):
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		case got != nil && got.icmp != *tc.want:
			t.Errorf("%s: %+v, want %+v", tc.name, got.icmp, *tc.want)
		}
	}
}

func FuzzParseExtendedError(f *testing.F) {
	f.Add(errQueueMessage(syscall.IPPROTO_IPV6, syscall.IPV6_RECVERR, extendedError(syscall.EACCES, originICMP6, 1, 5, 0, make([]byte, 28))), false)
	f.Add(errQueueMessage(syscall.IPPROTO_IP, syscall.IP_RECVERR, extendedError(syscall.EMSGSIZE, originLocal, 0, 0, 9, nil)), true)
	f.Fuzz(func(t *testing.T, oob []byte, v4 bool) {
		if e := parseExtendedError(oob, v4); e != nil && e.errno == 0 && e.icmp == (ICMP{}) && e.datagram == nil {
			t.Errorf("an error that says nothing: %+v", e)
		}
		received(oob)
	})
}

func BenchmarkKernelUDP(b *testing.B) {
	peer, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = peer.Close() }() // nothing is buffered in it
	conn, err := testKernel.DialUDP(b.Context(), peer.LocalAddr().(*net.UDPAddr).AddrPort())
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

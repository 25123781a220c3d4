package nat

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestKernelTCP(t *testing.T) {
	kernel := newTestKernel(t)
	for _, a := range loopbacks(t) {
		for _, most := range []int{0, 10_000} {
			leg, peer := dialPair(t, kernel, a)
			sent := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, err := peer.Write(sent); err != nil {
					t.Errorf("write: %v", err)
				}
				_ = peer.CloseWrite()
			})
			got := collector{most: most}
			if err := leg.move(t, &got); err != nil || !bytes.Equal(got.Bytes(), sent) {
				t.Errorf("%v: moved %d bytes, %v", a, got.Len(), err)
			}
			wg.Wait()
			var answer []byte
			wg.Go(func() {
				var err error
				if answer, err = io.ReadAll(peer); err != nil {
					t.Errorf("the peer read %v", err)
				}
			})
			// More than the socket takes at once, behind the peer's FIN.
			if err := leg.write(t, bytes.Repeat(sent, 8)); err != nil {
				t.Errorf("write after FIN: %v", err)
			}
			_ = leg.CloseWrite()
			wg.Wait()
			if !bytes.Equal(answer, bytes.Repeat(sent, 8)) {
				t.Errorf("the peer read %d bytes, or others", len(answer))
			}
			if leg.Failed() {
				t.Error("a connection that ended with FIN both ways has failed")
			}
			if err := errors.Join(leg.Close(), leg.Close(), leg.Reset()); err != nil {
				t.Errorf("Close, twice, and Reset: %v", err)
			}
		}
	}
}

// A leg that has taken nothing is told of more only when more has come.
func TestKernelTCPTryWriteDoesNotWait(t *testing.T) {
	leg, peer := dialPair(t, newTestKernel(t), netip.MustParseAddr("127.0.0.1"))
	written := 0
	for b := make([]byte, 1<<20); ; {
		n, err := leg.TryWrite(b)
		if err != nil {
			t.Fatal(err)
		}
		if written += n; n < len(b) {
			break
		}
	}
	if n, err := leg.TryWrite([]byte("x")); n != 0 || err != nil {
		t.Errorf("a full socket took %d bytes, %v", n, err)
	}
	for more := false; !more; { // until there is room again
		if _, err := io.CopyN(io.Discard, peer, int64(written)/2); err != nil {
			t.Fatal(err)
		}
		leg.await(t)
		n, err := leg.TryWrite([]byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		more = n == 1
	}
}

func TestKernelTCPErrors(t *testing.T) {
	kernel := newTestKernel(t)
	for _, a := range loopbacks(t) {
		leg, peer := dialPair(t, kernel, a)
		closedPort := peer.LocalAddr().(*net.TCPAddr).AddrPort()
		if _, err := kernel.DialTCP(t.Context(), netip.Addr{}, closedPort, Meta{}); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial to a closed port: %v", err)
		}
		_ = peer.SetLinger(0)
		_ = peer.Close()
		if err := leg.move(t, new(collector)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("MoveTo after RST: %v", err)
		}
		if _, err := leg.TryWrite([]byte("x")); err == nil {
			t.Error("a connection that was reset takes more")
		}
		leg, peer = dialPair(t, kernel, a)
		_ = leg.Reset()
		if _, err := io.ReadAll(peer); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the peer of a leg that was reset read %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := kernel.DialTCP(ctx, netip.Addr{}, closedPort, Meta{}); err == nil {
			t.Error("dialled with a context that had ended")
		}
	}
}

// What was sent before a RST can still be taken; then the RST is seen.
func TestKernelTCPBytesBeforeARST(t *testing.T) {
	kernel := newTestKernel(t)
	for _, a := range loopbacks(t) {
		leg, peer := dialPair(t, kernel, a)
		if _, err := io.WriteString(peer, "the last words"); err != nil {
			t.Fatal(err)
		}
		for got := new(collector); readable(leg.OutsideTCP.(*kernelTCP).fd) == 0; leg.await(t) {
			if err := leg.MoveTo(full{}); err != nil || got.Len() != 0 {
				t.Fatalf("MoveTo one that takes nothing: %v", err)
			}
		}
		_ = peer.SetLinger(0)
		_ = peer.Close()
		leg.wantFailed(t)
		got := new(collector)
		if err := leg.move(t, got); !errors.Is(err, syscall.ECONNRESET) || got.String() != "the last words" {
			t.Errorf("%v: moved %q, %v", a, got, err)
		}
		if !leg.Failed() {
			t.Error("the reset was forgotten")
		}
	}
}

// Nobody here knows what urgent data is for; a program that does not ask for it
// does not get it (tcp(7)), and it keeps nothing else back.
func TestKernelTCPUrgentData(t *testing.T) {
	kernel := newTestKernel(t)
	for _, a := range loopbacks(t) {
		leg, peer := dialPair(t, kernel, a)
		raw, err := peer.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		send := func(data string, flags int) {
			t.Helper()
			if err := control(raw, func(fd int) error { return syscall.Sendmsg(fd, []byte(data), nil, nil, flags) }); err != nil {
				t.Fatal(err)
			}
		}
		send("before", syscall.MSG_MORE)
		send("!", syscall.MSG_OOB)
		send("behind", 0)
		got := new(collector)
		for got.Len() < len("beforebehind") {
			leg.await(t)
			if err := leg.MoveTo(got); err != nil {
				t.Fatal(err)
			}
		}
		if got.String() != "beforebehind" {
			t.Errorf("%v: got %q", a, got)
		}
	}
}

// full takes nothing.
type full struct{}

// TryReadFrom implements [TryReaderFrom].
func (full) TryReadFrom(io.Reader, int) (int, error) { return 0, nil }

func TestKernelTCPFailed(t *testing.T) {
	kernel := newTestKernel(t)
	for _, a := range loopbacks(t) {
		leg, peer := dialPair(t, kernel, a)
		_, _ = io.WriteString(peer, "data is no reset")
		leg.await(t)
		if leg.Failed() {
			t.Error("data was taken for a reset")
		}
		_ = peer.CloseWrite()
		got := new(collector)
		if err := leg.move(t, got); err != nil || got.String() != "data is no reset" {
			t.Errorf("moved %q, %v", got, err)
		}
		if leg.Failed() {
			t.Error("a FIN was taken for a reset")
		}
		_ = peer.SetLinger(0)
		_ = peer.Close() // a RST behind the FIN, which no read finds
		leg.wantFailed(t)
	}
}

// FIN comes with the last byte, and with all of the others.
func TestKernelTCPFINWithTheLastByte(t *testing.T) {
	kernel := newTestKernel(t)
	for _, a := range loopbacks(t) {
		for _, size := range []int{1, 100_000} {
			leg, peer := dialPair(t, kernel, a)
			// Corked, the last bytes wait for the FIN and go with it.
			raw, err := peer.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			if err := control(raw, func(fd int) error { return syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_CORK, 1) }); err != nil {
				t.Fatal(err)
			}
			if _, err := peer.Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			_ = peer.CloseWrite()
			got := new(collector)
			if err := leg.move(t, got); err != nil || got.Len() != size {
				t.Errorf("%v: moved %d bytes of %d, %v", a, got.Len(), size, err)
			}
			if err := leg.MoveTo(got); err != io.EOF {
				t.Errorf("after FIN: %v", err)
			}
		}
	}
}

// After FIN both ways the kernel calls the socket closed, as after a RST, and
// bytes that nobody has read yet wait in it all the same.
func TestKernelTCPEndIsNoReset(t *testing.T) {
	kernel := newTestKernel(t)
	for _, a := range loopbacks(t) {
		leg, peer := dialPair(t, kernel, a)
		if _, err := peer.Write([]byte("late")); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(leg.CloseWrite(), peer.CloseWrite()); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(peer); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(10 * time.Second); tcpState(leg.OutsideTCP.(*kernelTCP).fd) != tcpClosed; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the socket is never closed")
			}
		}
		// The poller has said all of it when the closing is the last event.
		for c := leg.OutsideTCP.(*kernelTCP); c.events.Load()&syscall.EPOLLHUP == 0; {
			leg.await(t)
		}
		if leg.Failed() {
			t.Errorf("%v: the end was taken for a reset", a)
		}
		got := new(collector)
		if err := leg.move(t, got); err != nil || got.String() != "late" {
			t.Errorf("%v: moved %q, %v", a, got, err)
		}
	}
}

// busyPort listens, and answers no SYN any more.
func busyPort(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(name.(*syscall.SockaddrInet4).Port))
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at)) // the one there is room for
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return at
}

func TestKernelTCPDialEndsWithItsContext(t *testing.T) {
	kernel, at := newTestKernel(t), busyPort(t)
	limited, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	cancelled, cancelNow := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancelNow)
	for ctx, want := range map[context.Context]error{limited: context.DeadlineExceeded, cancelled: context.Canceled} {
		began := time.Now()
		if _, err := kernel.DialTCP(ctx, netip.Addr{}, at, Meta{}); !errors.Is(err, want) {
			t.Errorf("dialled with %v, want %v", err, want)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the dial went on for %v", took)
		}
	}
	if len(kernel.poller.unused) != len(kernel.poller.slots) {
		t.Errorf("%d of %d slots are free", len(kernel.poller.unused), len(kernel.poller.slots))
	}
}

// BenchmarkKernelTCP moves what a member sends, and what is sent to it.
func BenchmarkKernelTCP(b *testing.B) {
	data := make([]byte, 64<<10)
	b.Run("MoveTo", func(b *testing.B) {
		leg, peer := dialPair(b, newTestKernel(b), netip.MustParseAddr("127.0.0.1"))
		var to discarder
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := peer.Write(data); err != nil {
				b.Fatal(err)
			}
			for to.n = 0; to.n < len(data); {
				if err := leg.MoveTo(&to); err != nil {
					b.Fatal(err)
				}
				if to.n < len(data) {
					<-leg.happened
				}
			}
		}
	})
	b.Run("TryWrite", func(b *testing.B) {
		leg, peer := dialPair(b, newTestKernel(b), netip.MustParseAddr("127.0.0.1"))
		into := make([]byte, len(data))
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			if n, err := leg.TryWrite(data); n != len(data) || err != nil {
				b.Fatal(n, err)
			}
			if _, err := io.ReadFull(peer, into); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// discarder takes all.
type discarder struct {
	n    int
	room [mostTaken]byte
}

// TryReadFrom implements [TryReaderFrom].
func (d *discarder) TryReadFrom(r io.Reader, n int) (int, error) {
	n, err := io.ReadFull(r, d.room[:n])
	d.n += n
	if err != nil {
		return 0, nil // r knows why
	}
	return n, nil
}

package nat

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// newTestKernel returns a Kernel that runs until the test ends.
func newTestKernel(t testing.TB) *Kernel {
	t.Helper()
	k, err := NewKernel(nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-ended, k.Close()); err != nil {
			t.Errorf("Run and Close: %v", err)
		}
	})
	return k
}

// loopbacks are this host's own addresses, of both families where it has them.
func loopbacks(t testing.TB) []netip.Addr {
	t.Helper()
	found := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	if l, err := net.Listen("tcp6", "[::1]:0"); err == nil {
		_ = l.Close()
		found = append(found, netip.MustParseAddr("::1"))
	}
	return found
}

// watched is a leg whose notifications are waited for.
type watched struct {
	OutsideTCP
	happened chan struct{}
}

func watch(leg OutsideTCP) watched {
	w := watched{leg, make(chan struct{}, 1)}
	leg.Watch(func(bool) {
		select {
		case w.happened <- struct{}{}:
		default:
		}
	})
	return w
}

// await waits for a notification.
func (w watched) await(t testing.TB) {
	t.Helper()
	select {
	case <-w.happened:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing is said to have happened")
	}
}

// collector takes up to most bytes at once, or all that there are if that is 0.
type collector struct {
	bytes.Buffer
	most int
}

// TryReadFrom implements [TryReaderFrom].
func (c *collector) TryReadFrom(r io.Reader, n int) (int, error) {
	if c.most > 0 {
		n = min(n, c.most)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, nil // r knows why
	}
	return c.Write(b)
}

// move is MoveTo until it ends; EOF is none of the errors that it returns.
func (w watched) move(t testing.TB, c *collector) error {
	t.Helper()
	for {
		before := c.Len()
		switch err := w.MoveTo(c); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if c.most == 0 || c.Len() == before { // else it was the collector that took no more
			w.await(t)
		}
	}
}

// write is TryWrite until all is written.
func (w watched) write(t testing.TB, b []byte) error {
	t.Helper()
	for {
		n, err := w.TryWrite(b)
		if err != nil {
			return err
		}
		if b = b[n:]; len(b) == 0 {
			return nil
		}
		w.await(t)
	}
}

// wantFailed waits until the leg is said to have failed.
func (w watched) wantFailed(t testing.TB) {
	t.Helper()
	for !w.Failed() {
		w.await(t)
	}
}

// dialPair returns a dialled leg and the socket at its other end.
func dialPair(t testing.TB, k *Kernel, a netip.Addr) (watched, *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // what it accepted lives on
	leg, err := k.DialTCP(t.Context(), netip.Addr{}, l.Addr().(*net.TCPAddr).AddrPort(), Meta{Class: 0xb8, Hops: 63})
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = leg.Close(), peer.Close() })
	return watch(leg), peer
}

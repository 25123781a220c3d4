package nat

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// packets is one end of an in-memory datagram connection.
type packets struct {
	net.Conn // nil: addresses are not used
	in, out  chan []byte
	errs     chan error // what the kernel reports on the next read
	closed   chan struct{}
	once     *sync.Once

	rejects chan rejected
}

type rejected struct {
	reason   Reason
	datagram string
}

func newPackets() (a, b *packets) {
	x, y := make(chan []byte, 16), make(chan []byte, 16)
	end := func(in, out chan []byte) *packets {
		return &packets{in: in, out: out, errs: make(chan error, 1), closed: make(chan struct{}), once: new(sync.Once), rejects: make(chan rejected, 4)}
	}
	return end(x, y), end(y, x)
}

func (p *packets) Read(b []byte) (int, error) {
	select {
	case d := <-p.in:
		return copy(b, d), nil
	case err := <-p.errs:
		return 0, &net.OpError{Op: "read", Err: err}
	case <-p.closed:
		return 0, net.ErrClosed
	}
}

func (p *packets) Write(b []byte) (int, error) {
	select {
	case <-p.closed:
		return 0, net.ErrClosed
	case err := <-p.errs:
		return 0, &net.OpError{Op: "write", Err: err}
	default:
	}
	p.out <- bytes.Clone(b)
	return len(b), nil
}

func (p *packets) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *packets) Reject(r Reason, datagram []byte) { p.rejects <- rejected{r, string(datagram)} }

// udpFixture is a flow with its client's and its member's ends.
type udpFixture struct {
	tr      *Translator
	client  *packets // the program's socket
	inside  *packets
	outside *packets
	member  *packets // the server's socket
	wg      sync.WaitGroup
}

func newUDP(t *testing.T, r *fakeResolver, port uint16, first ...string) *udpFixture {
	t.Helper()
	u := &udpFixture{}
	u.client, u.inside = newPackets()
	u.outside, u.member = newPackets()
	n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: func(context.Context, string) (net.Conn, error) { return u.outside, nil }}}
	u.tr = newTestTranslator(t, r, n, nil, Limits{})
	for _, d := range first {
		_, _ = u.client.Write([]byte(d)) // an open in-memory end takes it
	}
	u.wg.Go(func() { u.tr.ServeUDP(t.Context(), testTuple(UDP, 5000, port), u.inside) })
	return u
}

func (u *udpFixture) wantAt(t *testing.T, end *packets, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := <-end.in; string(got) != w {
			t.Errorf("got %q, want %q", got, w)
		}
	}
}

func TestUDPKeepsWhatArrivedWhileResolving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUDP(t, &fakeResolver{members: []netip.Addr{testU1}, delay: time.Second}, 7, "one", "", "three")
		u.wantAt(t, u.member, "one", "", "three")
		_, _ = u.member.Write(nil)
		_, _ = u.member.Write([]byte("back"))
		u.wantAt(t, u.client, "", "back")
		u.wg.Wait() // by idleness
		s := u.tr.Stats()
		if s.UDPOpened != 1 || s.BytesOut != 8 || s.BytesIn != 4 || s.Flows != 0 {
			t.Errorf("stats: %+v", s)
		}
	})
}

func TestUDPIdle(t *testing.T) {
	for _, tc := range []struct {
		port uint16
		want time.Duration
	}{{443, 300 * time.Second}, {53, 30 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			u := newUDP(t, &fakeResolver{members: []netip.Addr{testU1}}, tc.port, "q")
			u.wantAt(t, u.member, "q")
			time.Sleep(20 * time.Second)
			_, _ = u.member.Write([]byte("a")) // an answer keeps the flow, too
			u.wantAt(t, u.client, "a")
			u.wg.Wait()
			if took := time.Since(start); took != tc.want+20*time.Second {
				t.Errorf("port %d: the flow lived %v, want %v after its last datagram", tc.port, took, tc.want)
			}
		})
	}
}

func TestUDPErrorsReachTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUDP(t, &fakeResolver{members: []netip.Addr{testU1}}, 7, "first")
		u.wantAt(t, u.member, "first")
		u.outside.errs <- syscall.ECONNREFUSED // reported to the reader
		if got := <-u.inside.rejects; got != (rejected{Refused, "first"}) {
			t.Errorf("the client was told %+v", got)
		}
		_, _ = u.client.Write([]byte("second"))
		u.wantAt(t, u.member, "second") // the flow goes on
		u.wg.Wait()
	})
}

func TestUDPRejectedQuotesTheFirstDatagram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUDP(t, &fakeResolver{err: syscall.EHOSTUNREACH}, 7, "hello")
		u.wg.Wait()
		if got := <-u.inside.rejects; got != (rejected{Unreachable, "hello"}) {
			t.Errorf("the client was told %+v", got)
		}
		if _, err := u.inside.Read(nil); err == nil {
			t.Error("the inside connection is still open")
		}
	})
}

func TestUDPClientPortClosedEndsTheFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		u := newUDP(t, &fakeResolver{members: []netip.Addr{testU1}}, 7, "x")
		u.wantAt(t, u.member, "x")
		u.inside.errs <- syscall.ECONNREFUSED
		u.wg.Wait()
		if took := time.Since(start); took != 0 {
			t.Errorf("the flow lived on for %v", took)
		}
	})
}

func TestUDPDrainCuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUDP(t, &fakeResolver{members: []netip.Addr{testU1}}, 7, "x")
		u.wantAt(t, u.member, "x")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := u.tr.Drain(ctx); err == nil {
			t.Error("Drain says the flow ended by itself")
		}
		u.wg.Wait()
	})
}

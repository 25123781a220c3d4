package nat

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// packets is one end of an in-memory datagram connection.
type packets struct {
	in, out chan Datagram
	errs    chan error // what is reported on the next receive
	late    chan error // what is reported on the next send
	closed  chan struct{}
	once    *sync.Once
	peer    *packets
	watched atomic.Pointer[func(free bool)]

	rejects chan rejected
	fails   func(Datagram) error // what sending it gives, if not nil
}

type rejected struct {
	refusal  Refusal
	datagram string
}

func newPackets() (a, b *packets) {
	x, y := make(chan Datagram, 16), make(chan Datagram, 16)
	end := func(in, out chan Datagram) *packets {
		return &packets{
			in: in, out: out, errs: make(chan error, 1), late: make(chan error, 1),
			closed: make(chan struct{}), once: new(sync.Once), rejects: make(chan rejected, 4),
		}
	}
	a, b = end(x, y), end(y, x)
	a.peer, b.peer = b, a
	return a, b
}

// Watch implements [UDPConn].
func (p *packets) Watch(notify func(free bool)) { p.watched.Store(&notify) }

func (p *packets) notify() {
	if notify := p.watched.Load(); notify != nil {
		(*notify)(false)
	}
}

// report has the next receive fail.
func (p *packets) report(err error) {
	p.errs <- err
	p.notify()
}

// TryReceive implements [UDPConn].
func (p *packets) TryReceive() (Datagram, error) {
	select {
	case d := <-p.in:
		return d, nil
	case err := <-p.errs:
		return Datagram{}, err
	case <-p.closed:
		return Datagram{}, net.ErrClosed
	default:
		return Datagram{}, ErrNotYet
	}
}

// TrySend implements [UDPConn].
func (p *packets) TrySend(d Datagram) error {
	select {
	case <-p.closed:
		return net.ErrClosed
	case err := <-p.late:
		return err
	default:
	}
	if p.fails != nil {
		if err := p.fails(d); err != nil {
			return err
		}
	}
	d.Data, d.Free = bytes.Clone(d.Data), nil
	select {
	case p.out <- d:
	default:
		return ErrNotYet
	}
	p.peer.notify()
	return nil
}

func (p *packets) Close() error {
	p.once.Do(func() { close(p.closed) })
	p.notify()
	return nil
}

func (p *packets) Reject(r Refusal, datagram []byte) { p.rejects <- rejected{r, string(datagram)} }

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
	n := &fakeNet{udp: u.outside}
	u.tr = newTestTranslator(t, r, n, nil, Limits{})
	for _, d := range first {
		_ = u.client.TrySend(Datagram{Data: []byte(d)}) // an open in-memory end takes it
	}
	u.wg.Go(func() { u.tr.ServeUDP(t.Context(), testTuple(UDP, 5000, port), u.inside) })
	return u
}

func (u *udpFixture) wantAt(t *testing.T, end *packets, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := <-end.in; string(got.Data) != w {
			t.Errorf("got %q, want %q", got.Data, w)
		}
	}
}

func TestUDPKeepsWhatArrivedWhileResolving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUDP(t, &fakeResolver{members: []netip.Addr{testU1}, delay: time.Second}, 7, "one", "", "three")
		u.wantAt(t, u.member, "one", "", "three")
		_ = u.member.TrySend(Datagram{})
		_ = u.member.TrySend(Datagram{Data: []byte("back")})
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
			_ = u.member.TrySend(Datagram{Data: []byte("a")}) // an answer keeps the flow, too
			u.wantAt(t, u.client, "a")
			u.wg.Wait()
			if took := time.Since(start); took != tc.want+20*time.Second {
				t.Errorf("port %d: the flow lived %v, want %v after its last datagram", tc.port, took, tc.want)
			}
		})
	}
}

var portUnreachable = ICMP{From: testU1, Type: icmp6Unreachable, Code: 4}

func TestUDPErrorsReachTheClient(t *testing.T) {
	refused := &networkError{syscall.ECONNREFUSED, portUnreachable, []byte("first")}
	tooBig := &networkError{errno: syscall.EMSGSIZE, icmp: ICMP{Type: icmp6TooBig, Info: 1300}}
	synctest.Test(t, func(t *testing.T) {
		u := newUDP(t, &fakeResolver{members: []netip.Addr{testU1}}, 7, "first")
		u.wantAt(t, u.member, "first")
		wantRejected := func(refusal Refusal, datagram string) {
			t.Helper()
			if got := <-u.inside.rejects; got != (rejected{refusal, datagram}) {
				t.Errorf("the client was told %+v", got)
			}
		}
		u.outside.report(refused) // reported to the receiver
		wantRejected(Refusal{Relayed, portUnreachable}, "first")
		u.outside.late <- refused // reported to the sender of another datagram
		_ = u.client.TrySend(Datagram{Data: []byte("second")})
		wantRejected(Refusal{Relayed, portUnreachable}, "first")
		u.wantAt(t, u.member, "second") // which is sent all the same
		u.outside.late <- syscall.ECONNREFUSED
		_ = u.client.TrySend(Datagram{Data: []byte("third")})
		u.wantAt(t, u.member, "third")
		u.outside.late <- tooBig // about the datagram that was to be sent
		_ = u.client.TrySend(Datagram{Data: []byte("fourth")})
		wantRejected(Refusal{Relayed, tooBig.icmp}, "fourth")
		u.outside.report(syscall.ECONNREFUSED) // its details went to the sender
		_ = u.client.TrySend(Datagram{Data: []byte("fifth"), Meta: Meta{Class: 0xb8, Hops: 9, Whole: true}})
		if got := <-u.member.in; string(got.Data) != "fifth" || got.Meta != (Meta{0xb8, 9, true}) {
			t.Errorf("the member got %q %+v", got.Data, got.Meta)
		}
		u.wg.Wait()
		if n := u.tr.Stats().UDPDropped; n != 1 {
			t.Errorf("%d datagrams dropped, want 1", n)
		}
	})
}

func TestUDPRejectedQuotesTheFirstDatagram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUDP(t, &fakeResolver{err: syscall.EHOSTUNREACH}, 7, "hello")
		u.wg.Wait()
		if got := <-u.inside.rejects; got != (rejected{Refusal{Reason: Unreachable}, "hello"}) {
			t.Errorf("the client was told %+v", got)
		}
		if _, err := u.inside.TryReceive(); err == nil {
			t.Error("the inside connection is still open")
		}
	})
}

func TestUDPClientPortClosedEndsTheFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		u := newUDP(t, &fakeResolver{members: []netip.Addr{testU1}}, 7, "x")
		u.wantAt(t, u.member, "x")
		_ = u.inside.Close() // as the room that reads packets does
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

// several is datagrams of three bytes each, but for the last.
func several(data string, m Meta) Datagram { return Datagram{Data: []byte(data), Segment: 3, Meta: m} }

func TestUDPSeveralAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUDP(t, &fakeResolver{members: []netip.Addr{testU1}}, 7)
		m := Meta{Class: 0xb8, Hops: 9, Whole: true}
		_ = u.client.TrySend(several("onetwosix4", m))
		if got := <-u.member.in; string(got.Data) != "onetwosix4" || got.Segment != 3 || got.Meta != m {
			t.Errorf("the member got %q %+v", got.Data, got)
		}
		_ = u.member.TrySend(several("backto!", m))
		if got := <-u.client.in; string(got.Data) != "backto!" || got.Segment != 3 || got.Meta != m {
			t.Errorf("the client got %q %+v", got.Data, got)
		}
		// An error about an earlier datagram is no reason to take them apart.
		u.outside.late <- &networkError{syscall.ECONNREFUSED, portUnreachable, []byte("one")}
		_ = u.client.TrySend(several("abcdef", Meta{}))
		if got := <-u.inside.rejects; got != (rejected{Refusal{Relayed, portUnreachable}, "one"}) {
			t.Errorf("the client was told %+v", got)
		}
		if got := <-u.member.in; string(got.Data) != "abcdef" || got.Segment != 3 {
			t.Errorf("the member got %q %+v", got.Data, got)
		}
		u.wg.Wait()
		if s := u.tr.Stats(); s.BytesOut != 16 || s.BytesIn != 7 || s.UDPDropped != 0 {
			t.Errorf("stats: %+v", s)
		}
	})
}

// TestUDPSeveralThatCannotBeSentAtOnce: each is sent by itself then, and the
// client hears of those alone that cannot be.
func TestUDPSeveralThatCannotBeSentAtOnce(t *testing.T) {
	tooBig := &networkError{errno: syscall.EMSGSIZE, icmp: ICMP{Type: icmp6TooBig, Info: 1300}}
	synctest.Test(t, func(t *testing.T) {
		u := newUDP(t, &fakeResolver{members: []netip.Addr{testU1}}, 7)
		m := Meta{Class: 1, Whole: true}
		u.outside.fails = func(d Datagram) error {
			switch {
			case d.Size() < len(d.Data):
				return syscall.EINVAL
			case string(d.Data) == "two", string(d.Data) == "4":
				return tooBig
			}
			return nil
		}
		_ = u.client.TrySend(several("onetwosix4", m))
		for _, want := range []string{"one", "six"} {
			if got := <-u.member.in; string(got.Data) != want || got.Segment != 0 || got.Meta != m {
				t.Errorf("the member got %q %+v, want %q", got.Data, got, want)
			}
		}
		for _, want := range []string{"two", "4"} {
			if got := <-u.inside.rejects; got != (rejected{Refusal{Relayed, tooBig.icmp}, want}) {
				t.Errorf("the client was told %+v, want %q", got, want)
			}
		}
		// The flow goes on after all that.
		_ = u.client.TrySend(several("sixsix", m))
		u.wantAt(t, u.member, "six", "six")
		u.wg.Wait()
		if s := u.tr.Stats(); s.BytesOut != 12 || s.UDPDropped != 2 || len(u.inside.rejects) != 0 || len(u.member.in) != 0 {
			t.Errorf("stats: %+v; %d told, %d sent besides", s, len(u.inside.rejects), len(u.member.in))
		}
	})
}

// A socket that is closed meanwhile ends the flow, also among several.
func TestUDPSeveralEndWithTheSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		u := newUDP(t, &fakeResolver{members: []netip.Addr{testU1}}, 7)
		tries := 0
		u.outside.fails = func(Datagram) error {
			if tries++; tries == 1 {
				return syscall.EINVAL
			}
			return net.ErrClosed
		}
		_ = u.client.TrySend(several("onetwo", Meta{}))
		u.wg.Wait()
		if took := time.Since(start); took != 0 || tries != 2 || u.tr.Stats().UDPDropped != 0 {
			t.Errorf("it took %v and %d tries; stats: %+v", took, tries, u.tr.Stats())
		}
	})
}

// TestUDPWaitsForRoom: what the member's socket has no room for goes when it has,
// in order, once, and with the rest of those that must go one by one.
func TestUDPWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUDP(t, &fakeResolver{members: []netip.Addr{testU1}}, 7)
		var full atomic.Bool
		u.outside.fails = func(d Datagram) error {
			switch {
			case full.Load():
				return ErrNotYet
			case string(d.Data) == "twotwo": // these two must not go at once
				full.Store(true)
				return syscall.EINVAL
			}
			return nil
		}
		full.Store(true)
		for _, d := range []Datagram{{Data: []byte("one")}, {Data: []byte{}}, several("twotwo", Meta{}), {Data: []byte("three")}} {
			if err := u.client.TrySend(d); err != nil {
				t.Fatal(err)
			}
		}
		room := func(want ...string) {
			t.Helper()
			synctest.Wait()
			if len(u.member.in) != 0 {
				t.Errorf("%d arrived without room", len(u.member.in))
			}
			full.Store(false)
			u.outside.notify()
			u.wantAt(t, u.member, want...)
		}
		room("one", "")
		room("two", "two", "three")
		u.wg.Wait()
		if s := u.tr.Stats(); s.BytesOut != 14 || s.UDPDropped != 0 || len(u.member.in) != 0 {
			t.Errorf("stats: %+v; %d sent besides", s, len(u.member.in))
		}
	})
}

// TestUDPTakesTurns: a flow that always has more does not keep the others from
// the workers.
func TestUDPTakesTurns(t *testing.T) {
	u := &udpFlow{t: newTestTranslator(t, &fakeResolver{}, &fakeNet{}, nil, Limits{}), f: &flow{}}
	u.in, u.out = plenty{}, plenty{}
	if more, over := u.step(); !more || over {
		t.Errorf("after a turn: more %v, over %v", more, over)
	}
	if got := u.f.sent.Load(); got != turnDatagrams {
		t.Errorf("%d datagrams in a turn, want %d", got, turnDatagrams)
	}
}

// plenty always has another datagram of one byte.
type plenty struct{}

func (plenty) Watch(func(bool))              {}
func (plenty) TryReceive() (Datagram, error) { return Datagram{Data: []byte{1}}, nil }
func (plenty) TrySend(Datagram) error        { return nil }
func (plenty) Close() error                  { return nil }
func (plenty) Reject(Refusal, []byte)        {}

package nat

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxQuote is how much of a client's datagram is kept for an ICMP error
	// about it: the error must fit into 1,280 bytes (RFC 4443 section 2.4 c).
	maxQuote = 1280 - 40 - 8 - 40 - 8

	// maxSendTries bounds how many errors about earlier datagrams one datagram
	// waits for.
	maxSendTries = 16

	portDNS = 53
)

// ServeUDP carries one UDP flow and returns when it has been idle for the
// flow's time-out, when ctx ends, or when it could not be had. The datagrams
// that arrive while the member is looked up wait in the inside connection.
func (t *Translator) ServeUDP(ctx context.Context, tuple Tuple, in UDPInside) {
	defer closeQuietly(in)
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	f, err := t.table.open(tuple, cut)
	if err != nil {
		t.rejectUDP(in, t.refuse(tuple, netip.Addr{}, err))
		return
	}
	defer t.table.close(f)

	outside, err := t.dialUDP(ctx, f)
	if err != nil {
		t.rejectUDP(in, t.refuse(tuple, f.memberOrZero(), err))
		return
	}
	t.stats.udpOpened.Add(1)
	t.table.answered(f)
	t.log.Debug("flow established", "flow", tuple, "member", f.memberOrZero(), "id", f.id)
	u := &udpFlow{t: t, f: f, in: in, out: outside}
	u.serve(ctx, cut)
	t.log.Debug("flow ended", "flow", tuple, "member", f.memberOrZero(), "id", f.id,
		"bytes_out", f.sent.Load(), "bytes_in", f.got.Load())
}

func (t *Translator) dialUDP(ctx context.Context, f *flow) (UDPConn, error) {
	ua, err := t.resolver.Resolve(ctx, f.tuple.Client.Addr(), f.tuple.Anycast.Addr())
	if err != nil {
		return nil, err
	}
	f.bind(ua)
	f.setState(Dialling)
	out, err := t.outside.DialUDP(ctx, t.source(f.tuple.Client.Addr()), netip.AddrPortFrom(ua, f.tuple.Anycast.Port()))
	if err != nil && reasonFor(err) != Busy {
		t.resolver.Suspect(f.tuple.Anycast.Addr(), ua)
	}
	return out, err
}

// rejectUDP tells the client about the datagram that began the flow, which is
// in the connection already.
func (t *Translator) rejectUDP(in UDPInside, refusal Refusal) {
	if refusal.Reason == Timeout {
		return
	}
	d, err := in.Receive()
	if err != nil {
		return // the connection is closed: there is nobody to tell
	}
	in.Reject(refusal, d.Data[:min(d.Size(), maxQuote)])
	d.free()
}

// udpFlow is an established UDP flow.
type udpFlow struct {
	t   *Translator
	f   *flow
	in  UDPInside
	out UDPConn
}

// serve returns when both directions have ended. Each ends when its connection
// is closed, which is done when ctx ends, and ctx ends when the flow is idle.
func (u *udpFlow) serve(ctx context.Context, cut context.CancelFunc) {
	stopIdle := u.cutWhenIdle(cut)
	stop := context.AfterFunc(ctx, func() {
		closeQuietly(u.in)
		closeQuietly(u.out)
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cut()
		u.outwards()
	})
	u.inwards()
	cut()
	wg.Wait()
	stopIdle()
	if stop() {
		closeQuietly(u.out)
	}
}

// cutWhenIdle arms one timer for the flow. When it fires early, because
// something has moved since, it is set for what remains.
func (u *udpFlow) cutWhenIdle(cut context.CancelFunc) (stop func()) {
	limit := u.t.timeouts.UDPIdle
	if u.f.tuple.Anycast.Port() == portDNS {
		limit = u.t.timeouts.DNSIdle
	}
	var stopped atomic.Bool
	ready := make(chan struct{})
	var timer *time.Timer
	timer = time.AfterFunc(limit, func() {
		<-ready // timer has been assigned
		left := limit - u.f.idleFor()
		switch {
		case stopped.Load():
		case left <= 0:
			cut()
		default:
			timer.Reset(left)
		}
	})
	close(ready)
	return func() {
		stopped.Store(true)
		timer.Stop()
	}
}

// outwards carries the client's datagrams to the member, empty ones included.
func (u *udpFlow) outwards() {
	for {
		d, err := u.in.Receive()
		if err != nil {
			return
		}
		err = u.carry(d)
		d.free()
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// carry sends a datagram, or several at once; if those cannot be sent so, each
// by itself. Of what cannot be sent the client is told.
func (u *udpFlow) carry(d Datagram) error {
	err := u.send(d)
	if err == nil {
		u.t.countOut(u.f, len(d.Data))
		return nil
	}
	if len(d.Data) > d.Size() && !errors.Is(err, net.ErrClosed) {
		for piece := range d.Pieces() {
			if err = u.carry(Datagram{Data: piece, Meta: d.Meta}); errors.Is(err, net.ErrClosed) {
				return err
			}
		}
		return err
	}
	if !errors.Is(err, net.ErrClosed) {
		u.t.stats.udpDropped.Add(1)
		u.reject(err, d.Data)
	}
	return err
}

// send sends one datagram. What the kernel reports meanwhile about an earlier
// one is told to the client first, and then this one is sent after all.
func (u *udpFlow) send(d Datagram) error {
	var err error
	for range maxSendTries {
		if err = u.out.Send(d); err == nil {
			return nil
		}
		var said DatagramError
		switch {
		case !errors.As(err, &said):
			if !transient(err) {
				return err
			}
			// An errno about an earlier datagram, and nothing to say of it.
		case said.Datagram() == nil:
			return err // about this one
		default:
			u.reject(err, said.Datagram())
		}
	}
	return err
}

// inwards carries the member's datagrams to the client.
func (u *udpFlow) inwards() {
	for {
		d, err := u.out.Receive()
		var said DatagramError
		if errors.As(err, &said) {
			u.reject(err, said.Datagram())
			continue
		}
		if transient(err) {
			continue // its details were taken by the sender
		}
		if err != nil {
			return
		}
		err = u.in.Send(d)
		d.free()
		switch {
		case err == nil:
			u.t.countIn(u.f, len(d.Data))
		case errors.Is(err, net.ErrClosed):
			return
		default:
			u.t.stats.udpDropped.Add(1)
		}
	}
}

// reject tells the client what became of a datagram. The flow goes on: a client
// that does not connect its socket never hears of it.
func (u *udpFlow) reject(err error, datagram []byte) {
	refusal := RefusalFor(err, u.f.tuple.Anycast.Addr())
	if refusal.Reason == Timeout || refusal.Reason == Busy {
		return // silence is what a lost datagram looks like
	}
	u.in.Reject(refusal, datagram[:min(len(datagram), maxQuote)])
}

// transient reports whether err is one that the kernel delivers on a connected
// UDP socket which works on: an ICMP error about an earlier datagram.
func transient(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EACCES,
		syscall.EPROTO, syscall.ENOPROTOOPT, syscall.EHOSTDOWN, syscall.EMSGSIZE,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

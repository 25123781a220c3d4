package nat

import (
	"context"
	"errors"
	"net"
	"net/netip"
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

// ServeUDP carries one UDP flow until it has been idle for the flow's time-out,
// until ctx ends before it was established, or until it is cut; it returns then,
// or once the flow is established if in is a [Detacher]. The datagrams that arrive
// while the member is looked up wait in the inside connection.
func (t *Translator) ServeUDP(ctx context.Context, tuple Tuple, in UDPInside) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var established atomic.Pointer[udpFlow]
	f, err := t.table.open(tuple, func() {
		cancel()
		if u := established.Load(); u != nil {
			u.cutNow()
		}
	})
	if err != nil {
		t.rejectUDP(in, t.refuse(tuple, netip.Addr{}, err))
		closeQuietly(in)
		return
	}
	outside, err := t.dialUDP(ctx, f)
	if err != nil {
		t.rejectUDP(in, t.refuse(tuple, f.memberOrZero(), err))
		closeQuietly(in)
		t.table.close(f)
		return
	}
	t.stats.udpOpened.Add(1)
	t.table.answered(f)
	t.logBegin(f)
	over := make(chan struct{})
	ended := func() { close(over) }
	if d, ok := in.(Detacher); ok {
		ended = d.Detach()
		close(over)
	}
	u := t.newUDPFlow(f, in, outside, ended)
	established.Store(u)
	u.start()
	if ctx.Err() != nil { // the flow was cut before it was known
		u.cutNow()
	}
	<-over
}

func (t *Translator) dialUDP(ctx context.Context, f *flow) (UDPConn, error) {
	ua, err := t.resolver.Resolve(ctx, f.tuple.Client.Addr(), f.tuple.Anycast.Addr())
	if err != nil {
		return nil, err
	}
	f.bind(ua) // it has none
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
	d, err := in.TryReceive()
	if err != nil {
		return // the connection is closed: there is nobody to tell
	}
	in.Reject(refusal, d.Data[:min(d.Size(), maxQuote)])
	d.free()
}

// turnDatagrams is how many times a direction of a flow receives before another
// flow has its turn.
const turnDatagrams = 64

// udpFlow is an established UDP flow. Like a [splice] it runs when one of its
// halves has something to say, and holds nothing in between.
type udpFlow struct {
	t     *Translator
	f     *flow
	in    UDPInside
	out   UDPConn
	ended func()

	turn  turn
	cut   atomic.Bool
	idle  atomic.Bool // why it was cut
	timer *time.Timer // of idleness
	limit time.Duration

	waits   Datagram // what is being sent, and may have to wait for room
	waiting bool     // there is one
	apart   bool     // it is several that must go one by one
}

func (t *Translator) newUDPFlow(f *flow, in UDPInside, out UDPConn, ended func()) *udpFlow {
	u := &udpFlow{t: t, f: f, in: in, out: out, ended: ended, limit: t.timeouts.UDPIdle}
	if f.tuple.Anycast.Port() == portDNS {
		u.limit = t.timeouts.DNSIdle
	}
	u.turn.step, u.turn.workers = u.step, &t.workers
	return u
}

func (u *udpFlow) start() {
	ready := make(chan struct{})
	u.timer = time.AfterFunc(u.limit, func() {
		<-ready // timer has been assigned
		u.cutWhenIdle()
	})
	close(ready)
	u.in.Watch(u.turn.notify)
	u.out.Watch(u.turn.notify)
	u.turn.notify(true)
}

// cutWhenIdle is called by the timer. When it fires early, because something has
// moved since, it is set for what remains.
func (u *udpFlow) cutWhenIdle() {
	if left := u.limit - u.f.idleFor(); left > 0 {
		u.timer.Reset(left)
	} else {
		u.idle.Store(true)
		u.cutNow()
	}
}

// cutNow ends the flow, soon.
func (u *udpFlow) cutNow() {
	u.cut.Store(true)
	u.turn.notify(false)
}

// step does what can be done now. more says that there is more, over that the
// flow has ended, as it does when either half was closed.
func (u *udpFlow) step() (more, over bool) {
	how := endCut
	if u.idle.Load() {
		how = endIdle
	}
	if !u.cut.Load() {
		moreOut, err := u.outwards()
		how = endClosed
		if err == nil {
			var moreIn bool
			if moreIn, err = u.inwards(); err == nil {
				return moreOut || moreIn, false
			}
			how = endMemberFailed
		}
	}
	u.timer.Stop() // should it fire all the same, it finds the flow over
	u.waits.free()
	closeQuietly(u.in)
	closeQuietly(u.out)
	u.t.logEnd(u.f, how, nil)
	u.t.table.close(u.f)
	u.ended()
	return false, true
}

// outwards carries the client's datagrams to the member, empty ones included. Its
// error is that a half was closed.
func (u *udpFlow) outwards() (more bool, err error) {
	for range turnDatagrams {
		if !u.waiting {
			if u.waits, err = u.in.TryReceive(); err != nil {
				return false, unlessNotYet(err)
			}
			u.waiting = true
		}
		if err := u.carry(); err != nil {
			return false, unlessNotYet(err)
		}
		u.waits.free()
		u.waits, u.waiting, u.apart = Datagram{}, false, false
	}
	return true, nil
}

// unlessNotYet makes nothing of an error that is none.
func unlessNotYet(err error) error {
	if errors.Is(err, ErrNotYet) {
		return nil
	}
	return err
}

// carry sends a datagram, or several at once; if those cannot be sent so, each
// by itself. Of what cannot be sent the client is told.
func (u *udpFlow) carry() error {
	for first := true; first || len(u.waits.Data) > 0; first = false {
		d := u.waits
		if u.apart {
			d = Datagram{Data: d.Data[:d.Size()], Meta: d.Meta}
		}
		err := u.send(d)
		switch {
		case err == nil:
			u.t.countOut(u.f, len(d.Data))
		case errors.Is(err, net.ErrClosed), errors.Is(err, ErrNotYet):
			return err
		case len(d.Data) > d.Size():
			u.apart = true
			continue
		default:
			u.t.stats.udpDropped.Add(1)
			u.reject(err, d.Data)
		}
		u.waits.Data = u.waits.Data[len(d.Data):]
	}
	return nil
}

// send sends one datagram. What the kernel reports meanwhile about an earlier
// one is told to the client first, and then this one is sent after all.
func (u *udpFlow) send(d Datagram) error {
	var err error
	for range maxSendTries {
		if err = u.out.TrySend(d); err == nil {
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

// inwards carries the member's datagrams to the client. Its error is that a half
// was closed, or is of no more use.
func (u *udpFlow) inwards() (more bool, err error) {
	for range turnDatagrams {
		d, err := u.out.TryReceive()
		var said DatagramError
		switch {
		case err == nil:
		case errors.As(err, &said):
			u.reject(err, said.Datagram())
			continue
		case transient(err):
			continue // its details were taken by the sender
		default:
			return false, unlessNotYet(err)
		}
		err = u.in.TrySend(d)
		d.free()
		switch {
		case err == nil:
			u.t.countIn(u.f, len(d.Data))
		case errors.Is(err, net.ErrClosed):
			return false, err
		default:
			u.t.stats.udpDropped.Add(1)
		}
	}
	return true, nil
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

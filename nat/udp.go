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
	// maxDatagram is the largest UDP payload there is: 65,535 bytes less the
	// 8 of the UDP header (RFC 768; IPv4 allows 20 fewer).
	maxDatagram = 65527

	// maxQuote is how much of a client's datagram is kept for an ICMP error
	// about it: the error must fit into 1,280 bytes (RFC 4443 section 2.4 c).
	maxQuote = 1280 - 40 - 8 - 40 - 8

	portDNS = 53
)

var datagramPool = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

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

func (t *Translator) dialUDP(ctx context.Context, f *flow) (net.Conn, error) {
	ua, err := t.resolver.Resolve(ctx, f.tuple.Client.Addr(), f.tuple.Anycast.Addr())
	if err != nil {
		return nil, err
	}
	f.bind(ua)
	f.setState(Dialling)
	out, err := t.dial(ctx, "udp", netip.AddrPortFrom(ua, f.tuple.Anycast.Port()))
	if err != nil && ReasonFor(err) != Busy {
		t.resolver.Suspect(f.tuple.Anycast.Addr(), ua)
	}
	return out, err
}

// rejectUDP tells the client about the datagram that began the flow, which is
// in the connection already.
func (t *Translator) rejectUDP(in UDPInside, reason Reason) {
	if reason == Timeout {
		return
	}
	buf := datagramPool.Get().(*[maxDatagram]byte)
	defer datagramPool.Put(buf)
	n, err := in.Read(buf[:])
	if err != nil {
		return // the connection is closed: there is nobody to tell
	}
	in.Reject(reason, buf[:n])
}

// udpFlow is an established UDP flow.
type udpFlow struct {
	t   *Translator
	f   *flow
	in  UDPInside
	out net.Conn // connected to UA, so that strangers' datagrams are dropped

	mu    sync.Mutex
	last  [maxQuote]byte // head of the datagram last sent, for an error about it
	lastN int
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
	buf := datagramPool.Get().(*[maxDatagram]byte)
	defer datagramPool.Put(buf)
	for {
		n, err := u.in.Read(buf[:])
		if err != nil {
			return
		}
		_, err = u.out.Write(buf[:n])
		if transient(err) {
			// What the kernel reports is about an earlier datagram, and it
			// has not sent this one (udp(7)): tell the client, then send it.
			u.reject(err)
			_, err = u.out.Write(buf[:n])
		}
		u.remember(buf[:n])
		switch {
		case err == nil:
			u.t.countOut(u.f, n)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			u.t.stats.udpDropped.Add(1)
			u.reject(err)
		}
	}
}

// inwards carries the member's datagrams to the client.
func (u *udpFlow) inwards() {
	buf := datagramPool.Get().(*[maxDatagram]byte)
	defer datagramPool.Put(buf)
	for {
		n, err := u.out.Read(buf[:])
		if transient(err) {
			u.reject(err)
			continue
		}
		if err != nil {
			return
		}
		switch _, err := u.in.Write(buf[:n]); {
		case err == nil:
		case errors.Is(err, net.ErrClosed), transient(err):
			return // the client has closed its port: the flow has ended
		default:
			u.t.stats.udpDropped.Add(1)
			continue
		}
		u.t.countIn(u.f, n)
	}
}

// remember keeps the head of a datagram that is on its way.
func (u *udpFlow) remember(datagram []byte) {
	u.mu.Lock()
	u.lastN = copy(u.last[:], datagram)
	u.mu.Unlock()
}

// reject tells the client what became of the datagram last sent. The flow goes
// on: a client that does not connect its socket never hears of it.
func (u *udpFlow) reject(err error) {
	reason := ReasonFor(err)
	if reason == Timeout || reason == Busy {
		return // silence is what a lost datagram looks like
	}
	u.mu.Lock()
	datagram := append([]byte(nil), u.last[:u.lastN]...)
	u.mu.Unlock()
	u.in.Reject(reason, datagram)
}

// transient reports whether err is an ICMP error that the kernel delivered on a
// connected UDP socket; the socket works on.
func transient(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EACCES,
		syscall.EPROTO, syscall.ENOPROTOOPT, syscall.EHOSTDOWN,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

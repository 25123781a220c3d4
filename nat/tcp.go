package nat

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"
)

// ServeTCP carries one TCP flow from the client's SYN to its end, and returns
// then, or once the flow is established if in is a [Detacher]. The member is
// dialled before the client is answered, so the client sees what it would have
// seen from the member. ctx ends when the client gives up before it was answered,
// or when everything is to end.
func (t *Translator) ServeTCP(ctx context.Context, tuple Tuple, in TCPInside) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var established atomic.Pointer[splice]
	f, err := t.table.open(tuple, func() {
		cancel()
		if s := established.Load(); s != nil {
			s.cutNow()
		}
	})
	if err != nil {
		in.Reject(t.refuse(tuple, netip.Addr{}, err))
		return
	}
	inside, outside := t.establish(ctx, f, in)
	if inside == nil {
		t.table.close(f)
		return
	}
	over := make(chan struct{})
	ended := func() { close(over) }
	if d, ok := in.(Detacher); ok {
		ended = d.Detach()
		close(over)
	}
	s := t.newSplice(f, inside, outside, func(err error) {
		t.tcpEnded(f, err)
		ended()
	})
	established.Store(s)
	s.start()
	if ctx.Err() != nil { // the flow was cut before the splice was known
		s.cutNow()
	}
	<-over
}

// establish reaches a member and then answers the client; without both it has
// told the client what it must know, and returns nil.
func (t *Translator) establish(ctx context.Context, f *flow, in TCPInside) (InsideTCP, OutsideTCP) {
	outside, err := t.dialMember(ctx, f, in.Meta())
	if err != nil {
		if ctx.Err() != nil {
			t.stats.gaveUp.Add(1)
			t.logFlow("client gave up", f.tuple, f.memberOrZero(), err)
			in.Reject(Refusal{Reason: Timeout})
		} else {
			in.Reject(t.refuse(f.tuple, f.memberOrZero(), err))
		}
		return nil, nil
	}
	f.setState(Accepting)
	inside, err := t.accept(ctx, in)
	if err != nil {
		t.stats.gaveUp.Add(1)
		t.logFlow("client did not complete its handshake", f.tuple, f.memberOrZero(), err)
		reset(outside)
		return nil, nil
	}
	t.stats.tcpOpened.Add(1)
	t.table.answered(f)
	t.logBegin(f)
	return inside, outside
}

// tcpEnded is the end of an established flow; err is what ended it, if not FIN
// both ways.
func (t *Translator) tcpEnded(f *flow, err error) {
	if err != nil {
		t.stats.reset.Add(1)
		t.suspectAfter(f, err)
	}
	t.logEnd(f, tcpEnd(err), err)
	t.table.close(f)
}

// accept waits for the client, but not for long: it has sent a SYN, and knows no
// better than to answer ours if it is there at all.
func (t *Translator) accept(ctx context.Context, in TCPInside) (InsideTCP, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeouts.Handshake)
	defer cancel()
	return in.Accept(ctx)
}

// suspectAfter gives up the pin of a member that died under a flow, so that new
// flows look for another at once.
func (t *Translator) suspectAfter(f *flow, err error) {
	var o *outsideError
	if !errors.As(err, &o) {
		return
	}
	switch reasonFor(o.err) {
	case Timeout, Unreachable, NetUnreachable:
		t.resolver.Suspect(f.tuple.Anycast.Addr(), f.memberOrZero())
	}
}

// dialMember connects the flow to a member, trying once more on a freshly
// resolved one before it gives up. No byte has gone to any member yet and the
// client has not been answered, so it cannot tell.
func (t *Translator) dialMember(ctx context.Context, f *flow, m Meta) (OutsideTCP, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeouts.Dial)
	defer cancel()
	conn, ua, err := t.dialOnce(ctx, f, m, t.timeouts.FirstDial)
	if err == nil || ctx.Err() != nil || !ua.IsValid() || reasonFor(err) == Busy {
		return conn, err
	}
	if ua == f.tuple.Anycast.Addr() && reasonFor(err) == Refused {
		return conn, err // the address itself, unresolved: nobody else could be meant
	}
	t.resolver.Suspect(f.tuple.Anycast.Addr(), ua)
	t.stats.retried.Add(1)
	t.logFlow("member did not take the flow, trying once more", f.tuple, ua, err)
	conn, second, again := t.dialOnce(ctx, f, m, t.timeouts.Dial)
	if again == nil {
		return conn, nil
	}
	if !second.IsValid() {
		// No second member was found: the first one's answer is the true one.
		return nil, err
	}
	if second != ua {
		t.resolver.Suspect(f.tuple.Anycast.Addr(), second)
	}
	return nil, again
}

// dialOnce resolves, and dials for at most limit. The address it returns is
// the member it dialled, or the zero Addr if none was found.
func (t *Translator) dialOnce(ctx context.Context, f *flow, m Meta, limit time.Duration) (OutsideTCP, netip.Addr, error) {
	f.setState(Resolving)
	ua, err := t.resolver.Resolve(ctx, f.tuple.Client.Addr(), f.tuple.Anycast.Addr())
	if err != nil {
		return nil, netip.Addr{}, err
	}
	f.rebind(ua)
	f.setState(Dialling)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	conn, err := t.outside.DialTCP(ctx, t.source(f.tuple.Client.Addr()), netip.AddrPortFrom(ua, f.tuple.Anycast.Port()), m)
	if err == nil {
		t.stats.dials.observe(time.Since(began))
	}
	return conn, ua, err
}

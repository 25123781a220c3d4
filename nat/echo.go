package nat

import (
	"context"
	"errors"
	"net/netip"
)

// ServeEcho sends one echo request of a client on to the member of its flow,
// as a real echo request, and hands the reply back. It returns when the reply
// has been handed over or has been waited for long enough. A member that does
// not answer is silence, and so is an AA that nobody answers for: an echo that
// was not answered must never look as if it had been.
func (t *Translator) ServeEcho(ctx context.Context, tuple Tuple, in EchoInside) {
	f, err := t.table.use(tuple)
	if err != nil {
		t.refuse(tuple, netip.Addr{}, err) // a lost ping says "busy" well enough
		return
	}
	defer func() { t.table.release(f, t.timeouts.EchoIdle) }()
	ctx, cancel := context.WithTimeout(ctx, t.timeouts.Echo)
	defer cancel()
	defer context.AfterFunc(f.life, cancel)()

	ua, err := t.echoMember(ctx, f)
	if err != nil {
		t.refuse(tuple, netip.Addr{}, err)
		return
	}
	t.countOut(f, len(in.Data()))
	meta := in.Meta()
	reply, err := t.pinger.Echo(ctx, ua, meta.Hops, meta.Whole, in.Data())
	if err != nil {
		t.stats.echoLost.Add(1)
		t.logFlow("echo lost", tuple, ua, err)
		if refusal := RefusalFor(err, ua); refusal.Reason != Timeout && refusal.Reason != Busy {
			in.Reject(refusal)
		}
		return
	}
	if err := in.Reply(reply); err != nil {
		t.stats.echoLost.Add(1)
		t.logFlow("echo reply not delivered", tuple, ua, err)
		return
	}
	t.countIn(f, len(reply))
	t.stats.echoServed.Add(1)
}

// echoMember returns the flow's member, resolving it for the first request.
// Requests that come in meanwhile resolve too and all take what the first one
// found: the resolver joins them, and bind keeps them together.
func (t *Translator) echoMember(ctx context.Context, f *flow) (netip.Addr, error) {
	if ua := f.memberOrZero(); ua.IsValid() {
		return ua, nil
	}
	ua, err := t.resolver.Resolve(ctx, f.tuple.Client.Addr(), f.tuple.Anycast.Addr())
	if err != nil {
		return netip.Addr{}, err
	}
	if !ua.IsValid() {
		return netip.Addr{}, errors.New("nat: the resolver returned no address")
	}
	ua, first := f.bind(ua)
	t.table.answered(f)
	if first {
		t.logBegin(f)
	}
	return ua, nil
}

// echoEnded is the end of an Echo flow. Of one that never had a member it was
// said that it was refused.
func (t *Translator) echoEnded(f *flow, how string) {
	if f.memberOrZero().IsValid() {
		t.logEnd(f, how, nil)
	}
}

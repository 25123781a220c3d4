package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// said is what a prober says of one answer, or that it has ended.
type said struct {
	prober int
	pin    Pin
	err    error // why the answer is not believed
	over   bool
}

// inquiry is an address that is asked by several probers side by side.
type inquiry struct {
	ctx     context.Context // of the probers
	cancel  func()
	said    chan said
	running int

	pin     Pin   // the answer that has won
	self    Pin   // a self-answer that may be used
	worst   error // of the answers that were not believed
	selves  map[int]bool
	quiet   int // probers that run and have not heard AA answer from itself
	patient <-chan time.Time
	late    bool // the patience for a better answer than a self-answer is over
	missed  bool // there is no responder where one was known to be
	through bool // most addresses asked are ordinary ones
}

// probe asks with all probers side by side, along the path of that number, and
// returns the first answer that is believed. It leaves no prober running.
func (r *Resolver) probe(policy Policy, aa netip.Addr, path int, timeout time.Duration) (Pin, error) {
	ctx, cancel := context.WithTimeout(r.life, timeout)
	defer cancel()
	q := inquiry{ctx: ctx, cancel: cancel, said: make(chan said), worst: ErrNoAnswer, selves: make(map[int]bool), through: policy.passes()}
	for i, p := range r.probers {
		if !p.Serves(aa) || p.Proves() < policy.Proof {
			continue
		}
		q.running++
		r.probes.Go(func() {
			_, err := probeOn(ctx, p, aa, path, func(a Answer) bool {
				pin, err := r.consider(policy, aa, p.Name(), a)
				q.said <- said{prober: i, pin: pin, err: err}
				return err == nil && !pin.SelfAnswer
			})
			r.tellFailure(aa, p.Name(), err)
			q.said <- said{prober: i, over: true}
		})
	}
	r.stats.probes.Add(1)
	q.quiet = q.running
	r.choose(aa, &q)
	return r.conclude(aa, &q)
}

// tellFailure says why a prober has ended without an answer, unless it was for
// its time.
func (r *Resolver) tellFailure(aa netip.Addr, method string, err error) {
	if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		r.log.Debug("probe failed", "anycast", aa, "method", method, "err", err)
	}
}

// selfWait is how long a self-answer waits for a better one: a little more than
// the STUN probe takes to repeat its first question.
const selfWait = 600 * time.Millisecond

// choose takes the first answer that is believed and then ends the probers; it
// returns when all have ended. An answer that is refused is no reason to stop,
// for the true one may be behind it. A self-answer is only taken if nobody
// names a member for a while.
func (r *Resolver) choose(aa netip.Addr, q *inquiry) {
	for q.running > 0 {
		select {
		case <-q.patient:
			q.late = true
		case s := <-q.said:
			q.hear(s)
		}
		switch responds := r.cache.responds(aa, time.Now()); {
		case q.pin.Member.IsValid():
			q.cancel()
		case q.running > 0 && q.onlySelf(responds):
			q.missed = q.missed || responds && q.ctx.Err() == nil
			q.cancel()
		}
	}
}

func (q *inquiry) hear(s said) {
	if s.over {
		q.running--
		if !q.selves[s.prober] {
			q.quiet--
		}
		return
	}
	if s.err == nil && !s.pin.SelfAnswer && !q.pin.Member.IsValid() {
		q.pin = s.pin
	}
	if s.err == nil && s.pin.SelfAnswer {
		q.self = s.pin
	}
	if (s.pin.SelfAnswer || s.err == ErrSelfAnswer) && !q.selves[s.prober] {
		q.selves[s.prober] = true
		q.quiet--
		if q.patient == nil {
			q.patient = time.After(q.selfWait(s.pin.RTT))
		}
	}
	if severity(s.err) > severity(q.worst) {
		q.worst = s.err
	}
}

// onlySelf says whether AA has answered from itself, and nothing better is
// waited for any more. If a responder is known to be there, it has all the time
// of the question. A self-answer that is refused waits for the patience's end
// even if nobody else is asked: it may not be the only answer.
func (q *inquiry) onlySelf(responds bool) bool {
	switch {
	case len(q.selves) == 0:
		return false
	case responds:
		return q.quiet == 0
	case q.self.Member.IsValid():
		return q.quiet == 0 || q.late
	}
	return q.quiet == 0 && q.late
}

// severity orders the errors of answers: what is told of several is the one
// that says most.
func severity(err error) int {
	switch err {
	case ErrUntrusted:
		return 3
	case ErrDraining:
		return 2
	case ErrSelfAnswer:
		return 1
	}
	return 0
}

// errUnnamed says that AA answers from itself, and that this counts for
// nothing: its responder is known, and names nobody. It is silence.
var errUnnamed = fmt.Errorf("%w, and that the address itself answers an echo counts for nothing, since its responder was heard of late", ErrNoAnswer)

// errMissed says so, and that the host that was reached runs no responder.
var errMissed = fmt.Errorf("%w and is gone", errUnnamed)

// conclude says what has come of it.
func (r *Resolver) conclude(aa netip.Addr, q *inquiry) (Pin, error) {
	switch {
	case q.pin.Member.IsValid():
		return q.pin, nil
	case len(q.selves) > 0 && r.cache.responds(aa, time.Now()):
		if q.self.Member.IsValid() {
			r.refuse(aa, q.self.Method, aa, RefusedResponds)
		}
		switch {
		case severity(q.worst) > severity(ErrSelfAnswer):
		case q.missed:
			q.worst = errMissed
		default:
			q.worst = errUnnamed
		}
	case q.self.Member.IsValid() && !q.through:
		r.tellSelf(aa, q.self)
		return q.self, nil
	case q.self.Member.IsValid():
		r.stats.selfAnswers.Add(1)
		return q.self, nil
	}
	return Pin{}, fmt.Errorf("%w: %v", q.worst, aa)
}

// tellSelf counts a self-answer that is used, and warns once for each address.
func (r *Resolver) tellSelf(aa netip.Addr, pin Pin) {
	r.stats.selfAnswers.Add(1)
	if r.cache.firstWarning(aa) {
		r.log.Warn("the address answered from itself, so its flows are carried on to it unpinned: it is no anycast address, or a member has it on its loopback and runs no 'aarptun member --anycast'; --unresolved reject refuses such flows",
			"anycast", aa, "method", pin.Method)
	}
}

// consider judges one answer. The error is one of those that [severity] knows.
func (r *Resolver) consider(policy Policy, aa netip.Addr, method string, a Answer) (Pin, error) {
	refusal, self := r.judge(policy, aa, a.UA)
	if refusal == "" && max(a.Proof, Nonce) < policy.Proof {
		refusal = RefusedProof
	}
	if refusal != "" {
		r.refuse(aa, method, a.UA, refusal)
		if self {
			return Pin{}, ErrSelfAnswer
		}
		return Pin{}, ErrUntrusted
	}
	now := time.Now()
	if a.Responder && !self && !r.cache.heardResponder(aa, now) {
		r.stats.cacheFull.Add(1)
	}
	if a.Draining {
		r.stats.draining.Add(1)
		r.cache.retire(aa, a.UA)
		r.tellChange()
		r.log.Debug("the member takes no new flows", "anycast", aa, "member", a.UA)
		return Pin{}, ErrDraining
	}
	if a.RTT > 0 {
		r.stats.rtt[method].observe(a.RTT)
	}
	ttl := r.rules.Load().TTL
	if a.Lifetime > 0 {
		ttl = min(ttl, a.Lifetime)
	}
	return Pin{
		Anycast: aa, Member: a.UA, Method: method, Trust: max(policy.Trust(), a.Proof), SelfAnswer: self,
		RTT: a.RTT, Learned: now, Expires: now.Add(ttl),
	}, nil
}

// refuse counts an answer that was not believed, and says so, but not often.
func (r *Resolver) refuse(aa netip.Addr, method string, ua netip.Addr, why Refusal) {
	r.stats.refused(why)
	if r.refusals.Allow() {
		r.log.Warn("answer refused", "anycast", aa, "method", method, "answer", ua, "because", string(why))
	}
}

package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// named is an answer and who got it.
type named struct {
	method string
	answer Answer
	err    error
}

// probe asks with all probers side by side, along the path of that number, and
// returns the first answer that is believed. It leaves no prober running.
func (r *Resolver) probe(policy Policy, aa netip.Addr, path int, timeout time.Duration) (Pin, error) {
	ctx, cancel := context.WithTimeout(r.life, timeout)
	defer cancel()
	answers := make(chan named)
	running := 0
	for _, p := range r.probers {
		if !p.Serves(aa) || p.Proves() < policy.Proof {
			continue
		}
		running++
		r.probes.Go(func() {
			answer, err := probeOn(ctx, p, aa, path)
			answers <- named{p.Name(), answer, err}
		})
	}
	r.stats.probes.Add(1)
	pin, worst := r.choose(policy, aa, answers, running, cancel)
	if !pin.Member.IsValid() {
		return Pin{}, fmt.Errorf("%w: %v", worst, aa)
	}
	if pin.SelfAnswer {
		r.stats.selfAnswers.Add(1)
		if r.cache.firstWarning(aa) {
			r.log.Warn("the address answered from itself, so its flows are carried on to it unpinned: it is no anycast address, or a member has it on its loopback and runs no 'aarptun member --anycast'; --unresolved reject refuses such flows",
				"anycast", aa, "method", pin.Method)
		}
	}
	return pin, nil
}

// selfWait is how long a self-answer waits for a better one: a little more than
// the STUN probe takes to repeat its first question.
const selfWait = 600 * time.Millisecond

// choose takes the first answer that is believed and then has cancel end the
// other probers; it returns when all have ended. A self-answer is only taken if
// nobody names a member for a while.
func (r *Resolver) choose(policy Policy, aa netip.Addr, answers <-chan named, running int, cancel func()) (pin Pin, worst error) {
	worst = ErrNoAnswer
	var self Pin
	var waited <-chan time.Time
	for running > 0 {
		select {
		case <-waited:
			if !pin.Member.IsValid() {
				pin = self
				cancel()
			}
		case n := <-answers:
			running--
			if pin.Member.IsValid() {
				continue // an answer has won; this only waits for the others to end
			}
			switch got, err := r.consider(policy, aa, n); {
			case err == nil && got.SelfAnswer:
				self, waited = got, time.After(selfWait)
			case err == nil:
				pin = got
				cancel()
			case !errors.Is(err, ErrNoAnswer):
				worst = err
			}
		}
	}
	if !pin.Member.IsValid() {
		pin = self
	}
	return pin, worst
}

// consider judges one answer.
func (r *Resolver) consider(policy Policy, aa netip.Addr, n named) (Pin, error) {
	if n.err != nil {
		if !errors.Is(n.err, context.DeadlineExceeded) && !errors.Is(n.err, context.Canceled) {
			r.log.Debug("probe failed", "anycast", aa, "method", n.method, "err", n.err)
		}
		return Pin{}, ErrNoAnswer
	}
	refusal, self := r.judge(policy, aa, n.answer.UA)
	if refusal != "" {
		r.refuse(aa, n.method, n.answer.UA, refusal)
		if self {
			return Pin{}, ErrSelfAnswer
		}
		return Pin{}, ErrUntrusted
	}
	if max(n.answer.Proof, Nonce) < policy.Proof {
		r.refuse(aa, n.method, n.answer.UA, RefusedProof)
		return Pin{}, ErrUntrusted
	}
	ttl := r.ttl
	if n.answer.Lifetime > 0 {
		ttl = min(ttl, n.answer.Lifetime)
	}
	now := time.Now()
	return Pin{
		Anycast: aa, Member: n.answer.UA, Method: n.method, Trust: max(policy.Trust(), n.answer.Proof), SelfAnswer: self,
		RTT: n.answer.RTT, Learned: now, Expires: now.Add(ttl),
	}, nil
}

// refuse counts an answer that was not believed, and says so, but not often.
func (r *Resolver) refuse(aa netip.Addr, method string, ua netip.Addr, why Refusal) {
	r.stats.refused(why)
	if r.refusals.Allow() {
		r.log.Warn("answer refused", "anycast", aa, "method", method, "answer", ua, "because", string(why))
	}
}

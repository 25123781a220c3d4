package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Outcome is what became of asking by one method.
type Outcome string

// The outcomes.
const (
	Won      Outcome = "won"       // its answer would be the pin
	Lost     Outcome = "lost"      // it was believed, and another is used
	Refused  Outcome = "refused"   // its answer was not believed
	Draining Outcome = "draining"  // a member that takes no new flows
	Silent   Outcome = "silent"    // there was no answer
	NotAsked Outcome = "not asked" // it could not have helped
)

// Heard is what one method says about an anycast address, in one answer: one
// that is refused may have others behind it.
type Heard struct {
	Method  string
	Outcome Outcome
	Member  netip.Addr // what the answer named; the zero Addr if there was none
	Trust   Trust      // what the answer reaches; 0 if it is not believed
	RTT     time.Duration
	Self    bool   // the answer came from AA itself
	Why     string // a sentence without a full stop
}

// Explain asks aa by every method, waits for each of them, and says what came
// and which answer a look-up would use. It neither uses nor fills the cache,
// but that it knows, as a look-up does, whose responder was heard of late.
// The answers are in their order. The error is that of a look-up.
func (r *Resolver) Explain(ctx context.Context, aa netip.Addr) ([]Heard, error) {
	policy, ok := r.rules.Load().policyFor(aa)
	if !ok {
		return nil, ErrOutside
	}
	if !r.begin() {
		return nil, ErrNoAnswer
	}
	defer r.probes.Done()
	heard := r.explainStatic(policy, aa)
	ctx, cancel := context.WithTimeout(ctx, r.probeTimeout)
	defer cancel()
	defer context.AfterFunc(r.life, cancel)()
	answers, ended := make(chan Heard), make(chan struct{})
	running := 0
	for _, p := range r.probers {
		switch {
		case !p.Serves(aa):
			heard = append(heard, Heard{Method: p.Name(), Outcome: NotAsked, Why: "it has no socket of this address's family"})
		case p.Proves() < policy.Proof:
			heard = append(heard, Heard{Method: p.Name(), Outcome: NotAsked, Why: fmt.Sprintf("it proves no more than %v, and %v is required", p.Proves(), policy.Proof)})
		default:
			running++
			go func() {
				r.explainProber(ctx, policy, aa, p, answers)
				ended <- struct{}{}
			}()
		}
	}
	for running > 0 {
		select {
		case h := <-answers:
			if !slices.ContainsFunc(heard, h.same) {
				heard = append(heard, h)
			}
		case <-ended:
			running--
		}
	}
	return heard, decide(heard, aa, r.cache.responds(aa, time.Now()))
}

// same says whether it is the answer to a question that was repeated.
func (h Heard) same(other Heard) bool {
	return h.Method == other.Method && h.Outcome == other.Outcome && h.Member == other.Member
}

// explainProber has one method ask until its answer is believed, or is a
// self-answer: of that there is only one to be had.
func (r *Resolver) explainProber(ctx context.Context, policy Policy, aa netip.Addr, p Prober, answers chan<- Heard) {
	heard := false
	_, err := p.Probe(ctx, aa, func(a Answer) bool {
		heard = true
		h := r.explainAnswer(policy, aa, p.Name(), a)
		answers <- h
		return h.Outcome == Lost || h.Self
	})
	if !heard {
		h := Heard{Method: p.Name(), Outcome: Silent, Why: "it has ended without an answer"}
		if err != nil {
			h.Why = err.Error()
		}
		answers <- h
	}
}

func (r *Resolver) explainStatic(policy Policy, aa netip.Addr) (heard []Heard) {
	for _, ua := range r.rules.Load().Static[aa] {
		heard = append(heard, r.explainAnswer(policy, aa, staticMethod, Answer{UA: ua}))
	}
	return heard
}

// explainAnswer judges an answer. One that is believed has lost until
// [decide] says that it has won.
func (r *Resolver) explainAnswer(policy Policy, aa netip.Addr, method string, a Answer) Heard {
	h := Heard{Method: method, Outcome: Lost, Member: a.UA, RTT: a.RTT}
	refusal, self := r.judge(policy, aa, a.UA)
	if refusal == "" && max(a.Proof, Nonce) < policy.Proof && method != staticMethod {
		refusal = RefusedProof
	}
	h.Self = self
	switch {
	case refusal != "":
		h.Outcome, h.Why = Refused, string(refusal)
	case a.Draining:
		h.Outcome, h.Why = Draining, "the member takes no new flows: it is draining or unhealthy"
	}
	if h.Outcome != Refused {
		h.Trust = max(policy.Trust(), a.Proof)
	}
	return h
}

// decide marks the answer that a look-up would use: a static member's, or the
// first that names a member, or else a self-answer where no responder is known.
func decide(heard []Heard, aa netip.Addr, responds bool) error {
	responds = responds || slices.ContainsFunc(heard, func(h Heard) bool { return h.Outcome == Draining })
	winner := -1
	worst := ErrNoAnswer
	for i := range heard {
		h := &heard[i]
		if h.Self && responds {
			h.Outcome, h.Why, h.Trust = Refused, string(RefusedResponds), 0
		}
		var err error
		switch {
		case h.Outcome == Lost && (winner < 0 || heard[winner].Self && !h.Self):
			winner = i
		case h.Outcome == Draining:
			err = ErrDraining
		case h.Outcome == Refused && h.Self && !responds:
			err = ErrSelfAnswer
		case h.Outcome == Refused && !h.Self:
			err = ErrUntrusted
		}
		if severity(err) > severity(worst) {
			worst = err
		}
	}
	if winner < 0 {
		return fmt.Errorf("%w: %v", worst, aa)
	}
	for i := range heard {
		h := &heard[i]
		switch {
		case i == winner:
			h.Outcome, h.Why = Won, reasonOf(*h)
		case h.Outcome == Lost && h.Self && !heard[winner].Self:
			h.Why = "it answered from itself, and " + heard[winner].Method + " names a member"
		case h.Outcome == Lost:
			h.Why = "it is believed, and " + heard[winner].Method + " was first"
		}
	}
	return nil
}

func reasonOf(h Heard) string {
	switch {
	case h.Method == staticMethod:
		return "it is named in the configuration, so nobody is asked"
	case h.Self:
		return "the address answered from itself, and nobody names a member: its flows are carried on to it unpinned"
	}
	return "it is the first answer that is trusted"
}

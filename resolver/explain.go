package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Outcome is what became of asking by one method.
type Outcome string

// The outcomes.
const (
	Won      Outcome = "won"       // its answer would be the pin
	Lost     Outcome = "lost"      // it was believed, and another is used
	Refused  Outcome = "refused"   // its answer was not believed
	Silent   Outcome = "silent"    // there was no answer
	NotAsked Outcome = "not asked" // it could not have helped
)

// Heard is what one method says about an anycast address.
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
// and which answer a look-up would use. It neither uses nor fills the cache.
// The methods are in the order of their answers. The error is that of a look-up.
func (r *Resolver) Explain(ctx context.Context, aa netip.Addr) ([]Heard, error) {
	policy, ok := r.policyFor(aa)
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
	answers := make(chan named)
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
				answer, err := p.Probe(ctx, aa)
				answers <- named{p.Name(), answer, err}
			}()
		}
	}
	for ; running > 0; running-- {
		heard = append(heard, r.explainAnswer(policy, aa, <-answers))
	}
	return heard, decide(heard, aa)
}

func (r *Resolver) explainStatic(policy Policy, aa netip.Addr) (heard []Heard) {
	for _, ua := range r.static[aa] {
		heard = append(heard, r.explainAnswer(policy, aa, named{method: staticMethod, answer: Answer{UA: ua}}))
	}
	return heard
}

func (r *Resolver) explainAnswer(policy Policy, aa netip.Addr, n named) Heard {
	h := Heard{Method: n.method, Outcome: Silent}
	if n.err != nil {
		h.Why = n.err.Error()
		return h
	}
	h.Member, h.RTT, h.Outcome = n.answer.UA, n.answer.RTT, Lost
	refusal, self := r.judge(policy, aa, n.answer.UA)
	if refusal == "" && max(n.answer.Proof, Nonce) < policy.Proof && n.method != staticMethod {
		refusal = RefusedProof
	}
	h.Self = self
	if refusal != "" {
		h.Outcome, h.Why = Refused, string(refusal)
		return h
	}
	h.Trust = max(policy.Trust(), n.answer.Proof)
	return h
}

// decide marks the answer that a look-up would use: a static member's, or the
// first that names a member, or else a self-answer.
func decide(heard []Heard, aa netip.Addr) error {
	winner := -1
	worst := ErrNoAnswer
	for i, h := range heard {
		switch {
		case h.Outcome == Lost && (winner < 0 || heard[winner].Self && !h.Self):
			winner = i
		case h.Outcome == Refused && h.Self && !errors.Is(worst, ErrUntrusted):
			worst = ErrSelfAnswer
		case h.Outcome == Refused:
			worst = ErrUntrusted
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

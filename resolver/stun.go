package resolver

import (
	"context"
	"net/netip"

	"aarptun/resolver/member"
)

// STUN asks the responder that a member runs, for anycast addresses that the
// members' kernels do not know as such, and wherever an answer must be proved.
type STUN struct{ prober *member.Prober }

// NewSTUN returns a prober that asks with p, which must be running.
func NewSTUN(p *member.Prober) *STUN { return &STUN{p} }

// Name implements [Prober].
func (*STUN) Name() string { return "stun" }

// Serves implements [Prober].
func (s *STUN) Serves(aa netip.Addr) bool { return s.prober.Serves(aa) }

// Proves implements [Prober].
func (*STUN) Proves() Trust { return Ed25519 }

// Probe implements [Prober].
func (s *STUN) Probe(ctx context.Context, aa netip.Addr, believe func(Answer) bool) (Answer, error) {
	return s.ProbePath(ctx, aa, 0, believe)
}

// ProbePath implements [PathProber] by the source port.
func (s *STUN) ProbePath(ctx context.Context, aa netip.Addr, path int, believe func(Answer) bool) (Answer, error) {
	found, err := s.prober.ProbeLane(ctx, aa, path, func(f member.Found) bool { return believe(answerOf(f)) })
	if err != nil {
		return Answer{}, err
	}
	return answerOf(found), nil
}

func answerOf(found member.Found) Answer {
	a := Answer{UA: found.UA, RTT: found.RTT, Lifetime: found.Lifetime, Proof: Nonce, Responder: true, Draining: found.Draining}
	switch found.Proof {
	case member.ProofPSK:
		a.Proof = PSK
	case member.ProofEd25519:
		a.Proof = Ed25519
	}
	return a
}

package resolver

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestExplain(t *testing.T) {
	refuses := func(context.Context, int64) (Answer, error) { return Answer{}, syscall.ECONNREFUSED }
	for _, tc := range []struct {
		name   string
		policy Policy
		icmp   func(context.Context, int64) (Answer, error)
		stun   func(context.Context, int64) (Answer, error)
		static []netip.Addr
		want   map[string]Outcome
		err    error
	}{
		{name: "both", icmp: answers(ms, Answer{UA: ua1}), stun: answers(2*ms, Answer{UA: ua2}), want: map[string]Outcome{"icmp": Won, "stun": Lost}},
		{name: "the other first", icmp: answers(3*ms, Answer{UA: ua1}), stun: answers(2*ms, Answer{UA: ua2}), want: map[string]Outcome{"icmp": Lost, "stun": Won}},
		{name: "self", icmp: answers(ms, Answer{UA: aa}), stun: answers(2*ms, Answer{UA: ua2}), want: map[string]Outcome{"icmp": Lost, "stun": Won}},
		{name: "only self", icmp: answers(ms, Answer{UA: aa}), stun: refuses, want: map[string]Outcome{"icmp": Won, "stun": Silent}},
		{name: "self refused", policy: Policy{Unresolved: Reject}, icmp: answers(ms, Answer{UA: aa}), stun: refuses, want: map[string]Outcome{"icmp": Refused, "stun": Silent}, err: ErrSelfAnswer},
		{name: "refused", icmp: answers(ms, Answer{UA: netip.MustParseAddr("::1")}), stun: answers(time.Second, Answer{UA: ua2}), want: map[string]Outcome{"icmp": Refused, "stun": Won}},
		{name: "all refused", icmp: answers(ms, Answer{UA: netip.MustParseAddr("::1")}), stun: refuses, want: map[string]Outcome{"icmp": Refused, "stun": Silent}, err: ErrUntrusted},
		{name: "silence", icmp: after(0, nobody), stun: after(0, nobody), want: map[string]Outcome{"icmp": Silent, "stun": Silent}, err: ErrNoAnswer},
		{name: "proof", policy: Policy{Proof: PSK}, icmp: answers(ms, Answer{UA: ua1}), stun: answers(ms, Answer{UA: ua2, Proof: Ed25519}), want: map[string]Outcome{"icmp": NotAsked, "stun": Won}},
		{name: "no proof", policy: Policy{Proof: PSK}, icmp: answers(ms, Answer{UA: ua1}), stun: answers(ms, Answer{UA: ua2}), want: map[string]Outcome{"icmp": NotAsked, "stun": Refused}, err: ErrUntrusted},
		{name: "draining", icmp: answers(ms, Answer{UA: aa}), stun: answers(2*ms, drained(ua1)), want: map[string]Outcome{"icmp": Refused, "stun": Draining}, err: ErrDraining},
		{name: "draining, and another by echo", icmp: answers(ms, Answer{UA: ua2}), stun: answers(2*ms, drained(ua1)), want: map[string]Outcome{"icmp": Won, "stun": Draining}},
		{name: "draining, at allow-list", policy: Policy{Members: []netip.Prefix{netip.PrefixFrom(ua1, 128)}}, icmp: answers(ms, Answer{UA: aa}), stun: answers(2*ms, drained(ua1)), want: map[string]Outcome{"icmp": Refused, "stun": Draining}, err: ErrDraining},
		{name: "draining, and not on the list", policy: Policy{Members: []netip.Prefix{netip.PrefixFrom(ua2, 128)}}, icmp: answers(ms, Answer{UA: aa}), stun: answers(2*ms, drained(ua1)), want: map[string]Outcome{"icmp": Refused, "stun": Refused}, err: ErrUntrusted},
		{name: "static", static: []netip.Addr{ua3}, icmp: answers(ms, Answer{UA: ua1}), stun: refuses, want: map[string]Outcome{"static": Won, "icmp": Lost, "stun": Silent}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc.policy.Prefix = prefix
				c := Config{Policies: []Policy{tc.policy}, Probers: []Prober{&script{name: "icmp", answer: tc.icmp, proves: Nonce}, &script{name: "stun", answer: tc.stun}}}
				if tc.static != nil {
					c.Static = map[netip.Addr][]netip.Addr{aa: tc.static}
				}
				r := newTest(t, c)
				heard, err := r.Explain(t.Context(), aa)
				if !errors.Is(err, tc.err) || (err == nil) != (tc.err == nil) {
					t.Errorf("error %v", err)
				}
				got := map[string]Outcome{}
				for _, h := range heard {
					got[h.Method] = h.Outcome
					if h.Why == "" {
						t.Errorf("%+v says not why", h)
					}
				}
				for method, want := range tc.want {
					if got[method] != want {
						t.Errorf("%s: %q, want %q", method, got[method], want)
					}
				}
				// It must say what a look-up does.
				pin, lookErr := r.Lookup(t.Context(), aa)
				for _, h := range heard {
					if h.Outcome == Won && (lookErr != nil || pin.Member != h.Member || pin.Method != h.Method || pin.Trust != h.Trust) {
						t.Errorf("explained %+v, and looked up %+v, %v", h, pin, lookErr)
					}
				}
				if (lookErr == nil) != (err == nil) {
					t.Errorf("explained %v, and looked up %v", err, lookErr)
				}
			})
		})
	}
}

// TestExplainSaysWhySelfAnswerCountsForNothing: each answer is there, with its
// reason.
func TestExplainSaysWhySelfAnswerCountsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stun := &several{name: "stun", rounds: [][]Answer{{serves(ua1)}, {}}}
		r := newTest(t, Config{Probers: []Prober{echoing(), stun}})
		resolve(t, r)
		heard, err := r.Explain(t.Context(), aa)
		if !errors.Is(err, ErrNoAnswer) || len(heard) != 2 || heard[0].Outcome != Refused || heard[0].Why != string(RefusedResponds) || heard[1].Outcome != Silent {
			t.Errorf("%+v, %v", heard, err)
		}
	})
}

// TestExplainListsEachAnswer: one that is refused, and the one behind it that
// wins.
func TestExplainListsEachAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := Policy{Prefix: prefix, Members: []netip.Prefix{netip.PrefixFrom(ua1, 128)}}
		echo := &several{name: "icmp", rounds: [][]Answer{{{UA: ua2}, {UA: ua2}, {UA: ua1}}}}
		r := newTest(t, Config{Policies: []Policy{policy}, Probers: []Prober{echo}})
		heard, err := r.Explain(t.Context(), aa)
		if err != nil || len(heard) != 2 || heard[0].Outcome != Refused || heard[0].Member != ua2 || heard[1].Outcome != Won || heard[1].Member != ua1 {
			t.Errorf("%+v, %v", heard, err)
		}
	})
}

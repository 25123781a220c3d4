package resolver

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

var aa2 = netip.MustParseAddr("2001:db8:ab::1")

// Pins that other rules have led to go, the others stay.
func TestRulesDropWhatTheyDoNotSupport(t *testing.T) {
	other := netip.MustParsePrefix("2001:db8:ab::/64")
	first := Rules{Policies: []Policy{{Prefix: prefix}, {Prefix: other}}, TTL: 30 * time.Second}
	key := func(b byte) (key [32]byte) { key[0] = b; return key }
	for name, tc := range map[string]struct {
		change func(*Rules)
		kept   bool // of aa; that of aa2 always is
	}{
		"nothing": {func(*Rules) {}, true},
		"another prefix": {func(r *Rules) {
			r.Policies = append(r.Policies, Policy{Prefix: netip.MustParsePrefix("2001:db8:ac::/64")})
		}, true},
		"a longer TTL":    {func(r *Rules) { r.TTL = time.Minute }, true},
		"a longer prefix": {func(r *Rules) { r.Policies = append(r.Policies, Policy{Prefix: netip.PrefixFrom(aa, 128)}) }, false},
		"members":         {func(r *Rules) { r.Policies[0].Members = []netip.Prefix{netip.PrefixFrom(ua1, 128)} }, false},
		"proof":           {func(r *Rules) { r.Policies[0].Proof = PSK }, false},
		"keys":            {func(r *Rules) { r.Policies[0].Keys = key(1) }, false},
		"unresolved":      {func(r *Rules) { r.Policies[0].Unresolved = Reject }, false},
		"static":          {func(r *Rules) { r.Static = map[netip.Addr][]netip.Addr{aa: {ua2}} }, false},
		"it is gone":      {func(r *Rules) { r.Policies = r.Policies[1:] }, false},
		"it passes":       {func(r *Rules) { r.Policies = r.Policies[1:]; r.Passing = []netip.Prefix{prefix} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &script{name: "icmp", answer: after(time.Millisecond, ua1)}
				r := newTest(t, Config{Probers: []Prober{p}, Policies: first.Policies, Sticky: Source})
				for _, a := range []netip.Addr{aa, aa2} {
					if _, err := r.Resolve(t.Context(), ua2, a); err != nil {
						t.Fatal(err)
					}
				}
				next := *first.own()
				tc.change(&next)
				if err := r.SetRules(next); err != nil {
					t.Fatal(err)
				}
				pins := map[netip.Addr]bool{}
				for _, pin := range r.Pins() {
					pins[pin.Anycast] = true
				}
				if pins[aa] != tc.kept || !pins[aa2] || len(r.cache.pins) != len(pins) {
					t.Errorf("pins %v, of clients %v", pins, r.cache.pins)
				}
			})
		})
	}
}

func TestShorterTTLShortensPins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "icmp", answer: after(time.Millisecond, ua1, ua2)}
		r := newTest(t, Config{Probers: []Prober{p}, TTL: time.Hour})
		resolve(t, r)
		if err := r.SetRules(Rules{Policies: []Policy{{Prefix: prefix}}, TTL: 10 * time.Second}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Second)
		if got := resolve(t, r); got != ua1 {
			t.Errorf("within the new TTL: %v", got)
		}
		time.Sleep(2 * time.Second)
		if got := resolve(t, r); got != ua2 {
			t.Errorf("after it: %v", got)
		}
	})
}

// What was asked by earlier rules is judged by those that count when it ends.
func TestAnswerIsJudgedByTheRulesThatCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "icmp", answer: after(100*time.Millisecond, ua1, ua2)}
		r := newTest(t, Config{Probers: []Prober{p}})
		type result struct {
			ua  netip.Addr
			err error
		}
		done := make(chan result)
		go func() {
			ua, err := r.Resolve(t.Context(), nobody, aa)
			done <- result{ua, err}
		}()
		time.Sleep(50 * time.Millisecond)
		if err := r.SetRules(Rules{Policies: []Policy{{Prefix: prefix, Members: []netip.Prefix{netip.PrefixFrom(ua2, 128)}}}, TTL: time.Second}); err != nil {
			t.Fatal(err)
		}
		if got := <-done; got.err != nil || got.ua != ua2 || p.asked.Load() != 2 {
			t.Errorf("%v, %v after %d probes", got.ua, got.err, p.asked.Load())
		}
	})
}

func TestPassing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "icmp", answer: after(time.Millisecond, aa)}
		r := newTest(t, Config{Probers: []Prober{p}, Policies: []Policy{{Prefix: prefix}, {Prefix: netip.PrefixFrom(aa2, 128)}}})
		passing := Rules{Policies: []Policy{{Prefix: netip.PrefixFrom(aa2, 128)}}, Passing: []netip.Prefix{prefix}, TTL: time.Second}
		if err := r.SetRules(passing); err != nil {
			t.Fatal(err)
		}
		if ua, err := r.Resolve(t.Context(), nobody, aa); err != nil || ua != aa || p.asked.Load() != 0 || len(r.Pins()) != 0 {
			t.Errorf("%v, %v after %d probes", ua, err, p.asked.Load())
		}
		// A member in a prefix that leads here would be routed back into the TUN.
		if _, err := r.Resolve(t.Context(), nobody, aa2); !errors.Is(err, ErrUntrusted) {
			t.Errorf("a member in a passing prefix: %v", err)
		}
		passing.Passing = nil
		if err := r.SetRules(passing); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Resolve(t.Context(), nobody, aa); !errors.Is(err, ErrOutside) {
			t.Errorf("let go: %v", err)
		}
	})
}

// A flow that asks while its prefix begins to pass gets the address itself.
func TestPassingBeginsDuringAProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "icmp", answer: after(100*time.Millisecond, ua1)}
		r := newTest(t, Config{Probers: []Prober{p}})
		done := make(chan netip.Addr)
		go func() {
			ua, _ := r.Resolve(context.Background(), nobody, aa)
			done <- ua
		}()
		time.Sleep(50 * time.Millisecond)
		if err := r.SetRules(Rules{Policies: []Policy{{Prefix: netip.PrefixFrom(aa2, 128)}}, Passing: []netip.Prefix{prefix}, TTL: time.Second}); err != nil {
			t.Fatal(err)
		}
		if ua := <-done; ua != aa {
			t.Errorf("got %v", ua)
		}
	})
}

func TestWrongRulesChangeNothing(t *testing.T) {
	r := newTest(t, Config{Policies: []Policy{{Prefix: prefix}}})
	before := r.rules.Load()
	for name, rules := range map[string]Rules{
		"no policy":    {TTL: time.Second},
		"no TTL":       {Policies: []Policy{{Prefix: prefix}}},
		"host bits":    {Policies: []Policy{{Prefix: netip.PrefixFrom(aa, 64)}}, TTL: time.Second},
		"unknown rule": {Policies: []Policy{{Prefix: prefix, Proof: AllowList}}, TTL: time.Second},
	} {
		if err := r.SetRules(rules); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if r.rules.Load() != before {
		t.Error("the rules have changed")
	}
}

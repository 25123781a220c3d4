package resolver

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	aa     = netip.MustParseAddr("2001:db8:aa::1")
	ua1    = netip.MustParseAddr("2001:db8:1::1")
	ua2    = netip.MustParseAddr("2001:db8:2::1")
	prefix = netip.MustParsePrefix("2001:db8:aa::/64")
	nobody netip.Addr
)

// script is a prober that answers as it is told.
type script struct {
	name   string
	asked  atomic.Int64
	answer func(ctx context.Context, n int64) (Answer, error)
	proves Trust // 0 stands for Ed25519
}

func (s *script) Name() string           { return s.name }
func (s *script) Serves(netip.Addr) bool { return true }
func (s *script) Proves() Trust          { return cmp.Or(s.proves, Ed25519) }
func (s *script) Probe(ctx context.Context, _ netip.Addr, believe func(Answer) bool) (Answer, error) {
	return judged(ctx, believe)(s.answer(ctx, s.asked.Add(1)))
}

// judged is the end of a probe: an answer that is not believed has none behind
// it.
func judged(ctx context.Context, believe func(Answer) bool) func(Answer, error) (Answer, error) {
	return func(a Answer, err error) (Answer, error) {
		if err == nil && !believe(a) {
			<-ctx.Done()
			return Answer{}, ctx.Err()
		}
		return a, err
	}
}

func after(d time.Duration, uas ...netip.Addr) func(context.Context, int64) (Answer, error) {
	return func(ctx context.Context, n int64) (Answer, error) {
		ua := uas[min(int(n)-1, len(uas)-1)]
		select {
		case <-ctx.Done():
			return Answer{}, ctx.Err()
		case <-time.After(d):
			if !ua.IsValid() {
				<-ctx.Done()
				return Answer{}, ctx.Err()
			}
			return Answer{UA: ua, RTT: d}, nil
		}
	}
}

func newTest(t *testing.T, c Config) *Resolver {
	t.Helper()
	if c.Policies == nil {
		c.Policies = []Policy{{Prefix: prefix}}
	}
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func resolve(t *testing.T, r *Resolver) netip.Addr {
	t.Helper()
	ua, err := r.Resolve(t.Context(), nobody, aa)
	if err != nil {
		t.Fatal(err)
	}
	return ua
}

func TestPinLivesForItsTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "icmp", answer: after(time.Millisecond, ua1, ua2)}
		r := newTest(t, Config{Probers: []Prober{p}, TTL: 10 * time.Second})
		if got := resolve(t, r); got != ua1 {
			t.Fatalf("got %v", got)
		}
		time.Sleep(7 * time.Second)
		if got := resolve(t, r); got != ua1 || p.asked.Load() != 1 {
			t.Errorf("in its life: %v after %d probes", got, p.asked.Load())
		}
		pin := r.Pins()[0]
		if pin.Anycast != aa || pin.Member != ua1 || pin.Method != "icmp" || pin.Trust != Nonce || pin.RTT != time.Millisecond || pin.Expires.Sub(pin.Learned) != 10*time.Second {
			t.Errorf("pin: %+v", pin)
		}
		if m, unknown := r.MethodOf(aa, ua1), r.MethodOf(aa, ua2); m != "icmp" || unknown != "" {
			t.Errorf("%v was found by %q, and %v, that was not, by %q", ua1, m, ua2, unknown)
		}
		if h := r.Stats().RTT["icmp"]; h.Sum != time.Millisecond || h.Counts[slices.Index(h.Bounds, time.Millisecond)] != 1 {
			t.Errorf("RTT: %+v", h)
		}
		time.Sleep(4 * time.Second)
		if len(r.Pins()) != 0 {
			t.Error("an expired pin is listed")
		}
		if got := resolve(t, r); got != ua2 || p.asked.Load() != 2 {
			t.Errorf("after its life: %v after %d probes", got, p.asked.Load())
		}
	})
}

func TestBusyPinIsRenewedBeforeItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "icmp", answer: after(100*time.Millisecond, ua1, ua2)}
		r := newTest(t, Config{Probers: []Prober{p}, TTL: 10 * time.Second})
		resolve(t, r)
		time.Sleep(8500 * time.Millisecond)
		for range 50 { // one renewal, and nobody waits for it
			start := time.Now()
			if got := resolve(t, r); got != ua1 || time.Since(start) != 0 {
				t.Fatalf("got %v after %v", got, time.Since(start))
			}
		}
		time.Sleep(time.Second)
		if got := resolve(t, r); got != ua2 || p.asked.Load() != 2 {
			t.Errorf("after the renewal: %v, %d probes", got, p.asked.Load())
		}
	})
}

func TestFailedRenewalLeavesThePin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "icmp", answer: after(0, ua1, nobody)}
		r := newTest(t, Config{Probers: []Prober{p}, TTL: 20 * time.Second})
		resolve(t, r)
		time.Sleep(17 * time.Second)
		resolve(t, r)
		time.Sleep(2500 * time.Millisecond) // the renewal has failed by now
		if got := resolve(t, r); got != ua1 {
			t.Errorf("got %v", got)
		}
	})
}

// A busy host may not get to run for longer than a pin lives.
func TestAnAnswerThatIsHeardOfLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "icmp", answer: after(time.Millisecond, ua1)}
		r := newTest(t, Config{Probers: []Prober{p}, TTL: time.Second})
		// late is a probe of others, whose result comes when it has expired.
		late := func(pins []Pin, err error) {
			r.flight.DoChan(aa.String(), func() (any, error) {
				time.Sleep(time.Second)
				return pins, err
			})
			synctest.Wait()
		}
		late(nil, errNeedless)
		if got := resolve(t, r); got != ua1 || p.asked.Load() != 1 {
			t.Errorf("of a probe that was left out: %v after %d probes", got, p.asked.Load())
		}
		time.Sleep(2 * time.Second)
		late([]Pin{{Anycast: aa, Member: ua2, Learned: time.Now(), Expires: time.Now().Add(time.Millisecond)}}, nil)
		if got := resolve(t, r); got != ua2 || p.asked.Load() != 1 {
			t.Errorf("of a probe that found a member: %v after %d probes", got, p.asked.Load())
		}
	})
}

func TestManyCallersOneProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "icmp", answer: after(50*time.Millisecond, ua1)}
		r := newTest(t, Config{Probers: []Prober{p}})
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				if ua, err := r.Resolve(t.Context(), nobody, aa); ua != ua1 {
					t.Errorf("%v, %v", ua, err)
				}
			})
		}
		wg.Wait()
		if n := p.asked.Load(); n != 1 {
			t.Errorf("%d probes", n)
		}
	})
}

func TestCallerWhoLeavesDoesNotEndTheProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "icmp", answer: after(time.Second, ua1)}
		r := newTest(t, Config{Probers: []Prober{p}})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := r.Resolve(ctx, nobody, aa); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if got := resolve(t, r); got != ua1 || p.asked.Load() != 1 {
			t.Errorf("the next caller: %v, %d probes", got, p.asked.Load())
		}
	})
}

func TestFailureIsKeptForASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "icmp", answer: after(0, nobody, ua1)}
		r := newTest(t, Config{Probers: []Prober{p}})
		start := time.Now()
		_, err := r.Resolve(t.Context(), nobody, aa)
		if !errors.Is(err, ErrNoAnswer) || !errors.Is(err, syscall.EHOSTUNREACH) || time.Since(start) != 2*time.Second {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
		for range 10 {
			if _, err := r.Resolve(t.Context(), nobody, aa); !errors.Is(err, ErrNoAnswer) {
				t.Errorf("got %v", err)
			}
		}
		if p.asked.Load() != 1 {
			t.Errorf("%d probes for a dead address", p.asked.Load())
		}
		time.Sleep(1001 * time.Millisecond)
		if got := resolve(t, r); got != ua1 {
			t.Errorf("got %v", got)
		}
	})
}

func TestSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "icmp", answer: after(0, ua1, ua2)}
		r := newTest(t, Config{Probers: []Prober{p}})
		resolve(t, r)
		r.Suspect(aa, ua2) // not the pin's: it stays
		if got := resolve(t, r); got != ua1 {
			t.Errorf("got %v", got)
		}
		r.Suspect(aa, ua1)
		if got := resolve(t, r); got != ua2 {
			t.Errorf("after Suspect: %v", got)
		}
	})
}

func TestStatic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "icmp", answer: after(0, nobody)}
		r := newTest(t, Config{Probers: []Prober{p}, Static: map[netip.Addr][]netip.Addr{aa: {ua1, ua2}}})
		if got := resolve(t, r); got != ua1 || r.Pins()[0].Method != "static" {
			t.Errorf("got %v", got)
		}
		r.Suspect(aa, ua1)
		if got := resolve(t, r); got != ua2 {
			t.Errorf("after Suspect: %v", got)
		}
		r.Suspect(aa, ua2)
		if got := resolve(t, r); got != ua1 || p.asked.Load() != 0 {
			t.Errorf("after both: %v, %d probes", got, p.asked.Load())
		}
	})
}

func TestTrust(t *testing.T) {
	addr, pfx := netip.MustParseAddr, netip.MustParsePrefix
	aa4 := addr("198.51.100.1")
	allow := []netip.Prefix{pfx("2001:db8:1::/48"), pfx("192.0.2.0/25")}
	for _, tc := range []struct {
		name     string
		aa, ua   netip.Addr
		members  []netip.Prefix
		reject   bool
		want     Refusal
		wantSelf bool
	}{
		{name: "member", aa: aa, ua: ua1},
		{name: "allowed", aa: aa, ua: ua1, members: allow},
		{name: "IPv4 member", aa: aa4, ua: addr("192.0.2.1"), members: allow},
		{name: "not allowed", aa: aa, ua: ua2, members: allow, want: RefusedNotAllow},
		{name: "IPv4 not allowed", aa: aa4, ua: addr("192.0.2.200"), members: allow, want: RefusedNotAllow},
		{name: "none", aa: aa, ua: nobody, want: RefusedClass},
		{name: "unspecified", aa: aa, ua: addr("::"), want: RefusedClass},
		{name: "loopback", aa: aa, ua: addr("::1"), want: RefusedClass},
		{name: "link-local", aa: aa, ua: addr("fe80::1"), want: RefusedClass},
		{name: "multicast", aa: aa, ua: addr("ff02::1"), want: RefusedClass},
		{name: "IPv4 loopback", aa: aa4, ua: addr("127.0.0.1"), want: RefusedClass},
		{name: "IPv4 link-local", aa: aa4, ua: addr("169.254.1.1"), want: RefusedClass},
		{name: "IPv4 multicast", aa: aa4, ua: addr("224.0.0.1"), want: RefusedClass},
		{name: "IPv4 broadcast", aa: aa4, ua: addr("255.255.255.255"), want: RefusedClass},
		{name: "v4-mapped", aa: aa, ua: addr("::ffff:192.0.2.1"), want: RefusedFamily},
		{name: "other family", aa: aa, ua: addr("192.0.2.1"), want: RefusedFamily},
		{name: "other family, IPv4", aa: aa4, ua: ua1, want: RefusedFamily},
		{name: "own", aa: aa, ua: addr("2001:db8:c::1"), want: RefusedOwn},
		{name: "anycast", aa: aa, ua: addr("2001:db8:aa::2"), want: RefusedAnycast},
		{name: "other anycast", aa: aa, ua: addr("2001:db8:bb::1"), want: RefusedAnycast},
		{name: "self", aa: aa, ua: aa, wantSelf: true},
		{name: "self, reject", aa: aa, ua: aa, reject: true, want: RefusedSelf, wantSelf: true},
		{name: "self, allow-list", aa: aa, ua: aa, members: allow, want: RefusedSelf, wantSelf: true},
		{name: "not allowed even in the list: loopback", aa: aa, ua: addr("::1"), members: []netip.Prefix{pfx("::/0")}, want: RefusedClass},
	} {
		t.Run(tc.name, func(t *testing.T) {
			policy := Policy{Members: tc.members}
			if tc.reject {
				policy.Unresolved = Reject
			}
			var policies []Policy
			for _, p := range []netip.Prefix{prefix, pfx("2001:db8:bb::/64"), pfx("198.51.100.0/24")} {
				policy.Prefix = p
				policies = append(policies, policy)
			}
			r := newTest(t, Config{Policies: policies, IsLocal: func(a netip.Addr) bool { return a == addr("2001:db8:c::1") }})
			chosen, _ := r.rules.Load().policyFor(tc.aa)
			if got, self := r.judge(chosen, tc.aa, tc.ua); got != tc.want || self != tc.wantSelf {
				t.Errorf("judged %q, self-answer %v", got, self)
			}
		})
	}
}

func TestRefusedAnswerDoesNotStopTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		liar := &script{name: "liar", answer: after(time.Millisecond, netip.MustParseAddr("fe80::1"))}
		honest := &script{name: "icmp", answer: after(500*time.Millisecond, ua1)}
		r := newTest(t, Config{Probers: []Prober{liar, honest}})
		if got := resolve(t, r); got != ua1 {
			t.Errorf("got %v", got)
		}
		if n := r.Stats().Refused[RefusedClass]; n != 1 {
			t.Errorf("%d refusals counted", n)
		}
	})
}

func TestOnlyRefusedAnswers(t *testing.T) {
	for _, tc := range []struct {
		ua     netip.Addr
		policy Policy
		want   error
	}{
		{netip.MustParseAddr("::1"), Policy{Prefix: prefix}, ErrUntrusted},
		{aa, Policy{Prefix: prefix, Unresolved: Reject}, ErrSelfAnswer},
		{ua2, Policy{Prefix: prefix, Members: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/48")}}, ErrUntrusted},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newTest(t, Config{Policies: []Policy{tc.policy}, Probers: []Prober{&script{name: "icmp", answer: after(0, tc.ua)}}})
			if _, err := r.Resolve(t.Context(), nobody, aa); !errors.Is(err, tc.want) || !errors.Is(err, syscall.EHOSTUNREACH) {
				t.Errorf("%v: got %v, want %v", tc.ua, err, tc.want)
			}
		})
	}
}

func TestSelfAnswerIsDirect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTest(t, Config{Probers: []Prober{&script{name: "icmp", answer: after(0, aa)}}})
		pin, err := r.Lookup(t.Context(), aa)
		if err != nil || pin.Member != aa || !pin.SelfAnswer {
			t.Errorf("%+v, %v", pin, err)
		}
	})
}

func TestOutside(t *testing.T) {
	r := newTest(t, Config{})
	if _, err := r.Resolve(t.Context(), nobody, ua1); !errors.Is(err, ErrOutside) {
		t.Errorf("got %v", err)
	}
}

func TestLongestPrefixDecides(t *testing.T) {
	r := newTest(t, Config{Policies: []Policy{
		{Prefix: netip.MustParsePrefix("2001:db8::/32")},
		{Prefix: prefix, Unresolved: Reject},
	}})
	if p, _ := r.rules.Load().policyFor(aa); p.Unresolved != Reject {
		t.Errorf("policy: %+v", p)
	}
}

func TestCloseEndsTheProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "icmp", answer: after(time.Hour, ua1)}
		r := newTest(t, Config{Probers: []Prober{p}, ProbeTimeout: time.Hour})
		failed := make(chan error, 1)
		go func() {
			_, err := r.Resolve(t.Context(), nobody, aa)
			failed <- err
		}()
		synctest.Wait()
		start := time.Now()
		r.Close()
		if err := <-failed; !errors.Is(err, ErrNoAnswer) || time.Since(start) != 0 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if _, err := r.Resolve(t.Context(), nobody, aa); err == nil {
			t.Error("a closed resolver resolved")
		}
	})
}

func TestCacheIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "icmp", answer: after(0, ua1)}
		r := newTest(t, Config{Probers: []Prober{p}, MaxPins: 10, TTL: time.Second})
		ask := func(i byte) {
			a := aa.As16()
			a[15] = i
			if _, err := r.Resolve(t.Context(), nobody, netip.AddrFrom16(a)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range byte(20) {
			ask(i + 1)
		}
		if s := r.Stats(); s.Pins != 10 || s.CacheFull != 10 {
			t.Errorf("stats: %+v", s)
		}
		time.Sleep(2 * time.Second)
		ask(99) // the expired ones make room
		if s := r.Stats(); s.Pins != 1 || s.CacheFull != 10 {
			t.Errorf("stats: %+v", s)
		}
	})
}

func TestNewNamesWhatIsWrong(t *testing.T) {
	for _, c := range []Config{
		{},
		{Policies: []Policy{{}}},
		{Policies: []Policy{{Prefix: netip.MustParsePrefix("2001:db8::1/32")}}},
		{Policies: []Policy{{Prefix: prefix}}, TTL: -1},
		{Policies: []Policy{{Prefix: prefix, Unresolved: 7}}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

func BenchmarkResolveCached(b *testing.B) {
	r, err := New(Config{Policies: []Policy{{Prefix: prefix}}, Static: map[netip.Addr][]netip.Addr{aa: {ua1}}, TTL: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Resolve(b.Context(), nobody, aa); err != nil {
			b.Fatal(err)
		}
	}
}

func answers(d time.Duration, a Answer) func(context.Context, int64) (Answer, error) {
	return func(ctx context.Context, _ int64) (Answer, error) {
		select {
		case <-ctx.Done():
			return Answer{}, ctx.Err()
		case <-time.After(d):
			return a, nil
		}
	}
}

func TestProofIsRequired(t *testing.T) {
	for _, tc := range []struct {
		policy, answer, want Trust
	}{
		{0, 0, Nonce}, {0, PSK, PSK}, {0, Ed25519, Ed25519},
		{PSK, 0, 0}, {PSK, Nonce, 0}, {PSK, PSK, PSK}, {PSK, Ed25519, Ed25519},
		{Ed25519, Nonce, 0}, {Ed25519, PSK, 0}, {Ed25519, Ed25519, Ed25519},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := &script{name: "stun", answer: answers(0, Answer{UA: ua1, Proof: tc.answer})}
			r := newTest(t, Config{Policies: []Policy{{Prefix: prefix, Proof: tc.policy}}, Probers: []Prober{p}})
			pin, err := r.Lookup(t.Context(), aa)
			if tc.want == 0 && (!errors.Is(err, ErrUntrusted) || r.Stats().Refused[RefusedProof] != 1) || tc.want != 0 && (err != nil || pin.Trust != tc.want) {
				t.Errorf("%v answered to %v: %v, %v", tc.answer, tc.policy, pin.Trust, err)
			}
		})
	}
}

// TestWeakerAnswerFirst: an answer by echo is there first, and never wins.
func TestWeakerAnswerFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weak := &script{name: "icmp", answer: answers(time.Millisecond, Answer{UA: ua2})}
		strong := &script{name: "stun", answer: answers(time.Second, Answer{UA: ua1, Proof: PSK})}
		r := newTest(t, Config{Policies: []Policy{{Prefix: prefix, Proof: PSK}}, Probers: []Prober{weak, strong}})
		if pin, err := r.Lookup(t.Context(), aa); err != nil || pin.Member != ua1 || pin.Method != "stun" || pin.Trust != PSK {
			t.Errorf("%+v, %v", pin, err)
		}
	})
}

// TestWeakerIsNotAsked: its answers could only be refused.
func TestWeakerIsNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weak := &script{name: "icmp", proves: Nonce, answer: answers(0, Answer{UA: ua2})}
		strong := &script{name: "stun", answer: answers(time.Second, Answer{UA: ua1, Proof: PSK})}
		r := newTest(t, Config{Policies: []Policy{{Prefix: prefix, Proof: PSK}}, Probers: []Prober{weak, strong}})
		if got := resolve(t, r); got != ua1 || weak.asked.Load() != 0 {
			t.Errorf("%v, and the weaker one was asked %d times", got, weak.asked.Load())
		}
	})
}

func TestProofKeepsTheAllowList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "stun", answer: answers(0, Answer{UA: ua2, Proof: Ed25519})}
		policy := Policy{Prefix: prefix, Proof: Ed25519, Members: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/48")}}
		r := newTest(t, Config{Policies: []Policy{policy}, Probers: []Prober{p}})
		if _, err := r.Lookup(t.Context(), aa); !errors.Is(err, ErrUntrusted) {
			t.Errorf("%v", err)
		}
	})
}

// TestSelfAnswerWaits: a member with AA on its loopback answers an echo from AA
// itself before its responder names UA.
func TestSelfAnswerWaits(t *testing.T) {
	for _, tc := range []struct {
		stun   time.Duration
		want   netip.Addr
		within time.Duration
	}{
		{500 * time.Millisecond, ua1, 500 * time.Millisecond},
		{time.Second, aa, time.Millisecond + selfWait},
	} {
		synctest.Test(t, func(t *testing.T) {
			echo := &script{name: "icmp", answer: answers(time.Millisecond, Answer{UA: aa})}
			stun := &script{name: "stun", answer: answers(tc.stun, Answer{UA: ua1})}
			r := newTest(t, Config{Probers: []Prober{echo, stun}})
			start := time.Now()
			pin, err := r.Lookup(t.Context(), aa)
			if err != nil || pin.Member != tc.want || pin.SelfAnswer != (tc.want == aa) || time.Since(start) != tc.within {
				t.Errorf("%v: %+v, %v after %v", tc.stun, pin, err, time.Since(start))
			}
			if n := r.Stats().SelfAnswers; n != 0 && tc.want != aa || n != 1 && tc.want == aa {
				t.Errorf("%d self-answers counted", n)
			}
		})
	}
}

// TestSelfAnswerNeedNotWait: the host has said that it runs no responder.
func TestSelfAnswerNeedNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		echo := &script{name: "icmp", answer: answers(time.Millisecond, Answer{UA: aa})}
		stun := &script{name: "stun", answer: func(context.Context, int64) (Answer, error) {
			time.Sleep(2 * time.Millisecond)
			return Answer{}, syscall.ECONNREFUSED
		}}
		r := newTest(t, Config{Probers: []Prober{echo, stun}})
		start := time.Now()
		if pin, err := r.Lookup(t.Context(), aa); err != nil || pin.Member != aa || time.Since(start) != 2*time.Millisecond {
			t.Errorf("%+v, %v after %v", pin, err, time.Since(start))
		}
	})
}

func TestMemberMayShortenThePin(t *testing.T) {
	for lifetime, want := range map[time.Duration]time.Duration{0: 30 * time.Second, 10 * time.Second: 10 * time.Second, time.Hour: 30 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			p := &script{name: "stun", answer: answers(0, Answer{UA: ua1, Lifetime: lifetime})}
			r := newTest(t, Config{Probers: []Prober{p}})
			if pin, err := r.Lookup(t.Context(), aa); err != nil || pin.Expires.Sub(pin.Learned) != want {
				t.Errorf("%v: %+v, %v", lifetime, pin, err)
			}
			time.Sleep(want * 9 / 10)
			resolve(t, r)
			synctest.Wait()
			if n := r.Stats().Renewals; n != 1 {
				t.Errorf("%v: %d renewals in the last fifth of its life", lifetime, n)
			}
		})
	}
}

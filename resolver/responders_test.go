package resolver

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// several answers one probe with each of its answers in turn, a millisecond
// apart, and then is silent. Of the nth probe it is the nth list, or the last.
type several struct {
	name   string
	rounds [][]Answer
	asked  atomic.Int64
}

func (s *several) Name() string           { return s.name }
func (s *several) Serves(netip.Addr) bool { return true }
func (s *several) Proves() Trust          { return Ed25519 }

func (s *several) Probe(ctx context.Context, _ netip.Addr, believe func(Answer) bool) (Answer, error) {
	round := s.rounds[min(int(s.asked.Add(1)), len(s.rounds))-1]
	for _, a := range round {
		time.Sleep(ms)
		if ctx.Err() == nil && believe(a) {
			return a, nil
		}
	}
	<-ctx.Done()
	return Answer{}, ctx.Err()
}

// echoing answers each echo from AA itself, as a host does that has it on lo.
func echoing() *script {
	return &script{name: "icmp", proves: Nonce, answer: answers(ms, Answer{UA: aa})}
}

func serves(ua netip.Addr) Answer { return Answer{UA: ua, RTT: ms, Responder: true} }
func drained(ua netip.Addr) Answer {
	return Answer{UA: ua, RTT: ms, Responder: true, Draining: true}
}

// TestTheTrueAnswerBehindTheRefused: whoever answers first, and is refused, has
// not ended the question.
func TestTheTrueAnswerBehindTheRefused(t *testing.T) {
	allowed := []netip.Prefix{netip.PrefixFrom(ua1, 128)}
	for _, tc := range []struct {
		name   string
		policy Policy
		first  []Answer
		want   map[Refusal]uint64
	}{
		{"not on the list", Policy{Members: allowed}, []Answer{{UA: ua2}, {UA: ua3}}, map[Refusal]uint64{RefusedNotAllow: 2}},
		{"AA itself, where that is refused", Policy{Members: allowed}, []Answer{{UA: aa}}, map[Refusal]uint64{RefusedSelf: 1}},
		{"AA itself", Policy{}, []Answer{{UA: aa}}, map[Refusal]uint64{}},
		{"never a member", Policy{}, []Answer{{UA: netip.MustParseAddr("::1")}}, map[Refusal]uint64{RefusedClass: 1}},
		{"not proved", Policy{Proof: PSK}, []Answer{{UA: ua2}}, map[Refusal]uint64{RefusedProof: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc.policy.Prefix = prefix
				p := &several{name: "icmp", rounds: [][]Answer{append(tc.first, Answer{UA: ua1, Proof: Ed25519})}}
				nobody := &script{name: "stun", answer: after(0, netip.Addr{})}
				r := newTest(t, Config{Policies: []Policy{tc.policy}, Probers: []Prober{p, nobody}})
				start := time.Now()
				if got := resolve(t, r); got != ua1 || time.Since(start) != time.Duration(len(tc.first)+1)*ms {
					t.Errorf("%v after %v", got, time.Since(start))
				}
				refused := r.Stats().Refused
				for why, n := range tc.want {
					if refused[why] != n {
						t.Errorf("%s: counted %d times, not %d", why, refused[why], n)
					}
				}
				if len(refused) != len(tc.want) {
					t.Errorf("refused: %v", refused)
				}
			})
		})
	}
}

// TestASelfAnswerIsNotWaitedWithInVain: where one is refused and nobody else is
// there, the question is over before its time.
func TestASelfAnswerIsNotWaitedWithInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := &script{name: "stun", answer: func(context.Context, int64) (Answer, error) { return Answer{}, errors.New("port unreachable") }}
		r := newTest(t, Config{Policies: []Policy{{Prefix: prefix, Unresolved: Reject}}, Probers: []Prober{echoing(), gone}})
		start := time.Now()
		if _, err := r.Lookup(t.Context(), aa); !errors.Is(err, ErrSelfAnswer) || time.Since(start) != ms+selfWait {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// TestSelfAnswerCountsForNothingWhereAResponderIsKnown, for its time.
func TestSelfAnswerCountsForNothingWhereAResponderIsKnown(t *testing.T) {
	allowed := []netip.Prefix{netip.PrefixFrom(ua1, 128)}
	for _, tc := range []struct {
		name   string
		policy Policy
		then   error // when the responder is forgotten
	}{
		{"direct", Policy{}, nil},
		{"reject", Policy{Unresolved: Reject}, ErrSelfAnswer},
		{"allow-list", Policy{Members: allowed}, ErrSelfAnswer},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc.policy.Prefix = prefix
				stun := &several{name: "stun", rounds: [][]Answer{{serves(ua1)}, {}}}
				r := newTest(t, Config{Policies: []Policy{tc.policy}, Probers: []Prober{echoing(), stun}, TTL: 10 * time.Second, Stale: time.Minute})
				if got := resolve(t, r); got != ua1 {
					t.Fatalf("got %v", got)
				}
				if n := r.Stats().Refused[RefusedResponds]; n != 0 {
					t.Errorf("%d counted, and the responder answers", n)
				}
				began := time.Now()
				time.Sleep(11 * time.Second)
				if pin, err := r.Lookup(t.Context(), aa); err != nil || pin.Member != ua1 || !pin.Stale {
					t.Errorf("the responder is silent: %+v, %v", pin, err)
				}
				if n := r.Stats().Refused[RefusedResponds]; n != 1 && tc.name == "direct" {
					t.Errorf("%d counted", n)
				}
				time.Sleep(time.Minute)
				for time.Since(began) < respondsFor-5*time.Second {
					if pin, err := r.Lookup(t.Context(), aa); !errors.Is(err, ErrNoAnswer) {
						t.Fatalf("after %v: %+v, %v", time.Since(began), pin, err)
					}
					time.Sleep(10 * time.Second)
				}
				time.Sleep(20 * time.Second)
				if pin, err := r.Lookup(t.Context(), aa); !errors.Is(err, tc.then) || tc.then == nil && (err != nil || pin.Member != aa || !pin.SelfAnswer) {
					t.Errorf("the responder is forgotten: %+v, %v", pin, err)
				}
			})
		})
	}
}

// TestDrainingIsNoSilence: a member that says that it takes no new flows is not
// used for want of another, neither by its echo nor as stale; others are.
func TestDrainingIsNoSilence(t *testing.T) {
	for _, tc := range []struct {
		name string
		seen []netip.Addr // by earlier probes
		want netip.Addr
		err  error
	}{
		{"nobody was known", nil, nobody, ErrDraining},
		{"it is the only one", []netip.Addr{ua1}, nobody, ErrDraining},
		{"another is known", []netip.Addr{ua2, ua1}, ua2, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stun := &several{name: "stun"}
				for _, ua := range tc.seen {
					stun.rounds = append(stun.rounds, []Answer{serves(ua)})
				}
				stun.rounds = append(stun.rounds, []Answer{drained(ua1)})
				r := newTest(t, Config{Probers: []Prober{echoing(), stun}, TTL: 10 * time.Second, Stale: time.Minute})
				for range tc.seen {
					resolve(t, r)
					time.Sleep(11 * time.Second)
				}
				pin, err := r.Lookup(t.Context(), aa)
				if !errors.Is(err, tc.err) || pin.Member != tc.want || tc.err == nil && (err != nil || !pin.Stale) {
					t.Errorf("%+v, %v", pin, err)
				}
				if s := r.Stats(); s.Draining == 0 || s.SelfAnswers != 0 || s.Refused[RefusedResponds] != 1 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// TestDrainingEndsThePinAtOnce: what is left of its time is not used up, and
// the member is back with its next answer.
func TestDrainingEndsThePinAtOnce(t *testing.T) {
	for _, sticky := range []Sticky{Host, Source, Flow} {
		synctest.Test(t, func(t *testing.T) {
			stun := &several{name: "stun", rounds: [][]Answer{{serves(ua1)}, {drained(ua1), serves(ua2)}, {serves(ua1)}}}
			r := newTest(t, Config{Probers: []Prober{stun}, Sticky: sticky, TTL: 10 * time.Second})
			client := clientAddr(1)
			from(t, r, client)
			time.Sleep(8500 * ms)
			if got := from(t, r, client); got != ua1 { // the renewal begins
				t.Fatalf("%v: got %v", sticky, got)
			}
			time.Sleep(10 * ms)
			if got := from(t, r, client); got != ua2 {
				t.Errorf("%v: after the renewal %v", sticky, got)
			}
			time.Sleep(11 * time.Second)
			if got := from(t, r, client); got != ua1 {
				t.Errorf("%v: it answers again, and flows go to %v", sticky, got)
			}
		})
	}
}

// byPath is a network where each path leads to one host; one that answers
// nothing says that there is no responder.
type byPath struct{ several }

func (p *byPath) ProbePath(ctx context.Context, _ netip.Addr, path int, believe func(Answer) bool) (Answer, error) {
	round := p.rounds[path%len(p.rounds)]
	if len(round) == 0 {
		return Answer{}, syscall.ECONNREFUSED
	}
	one := several{rounds: [][]Answer{round}}
	return one.Probe(ctx, aa, believe)
}

// TestOtherPathsAreTriedWhereAResponderIsMissed: the host that is reached has AA
// and its responder is gone; over another path there is a member.
func TestOtherPathsAreTriedWhereAResponderIsMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := &byPath{}
		net.name, net.rounds = "stun", [][]Answer{{serves(ua1)}, {serves(ua2)}}
		r := newTest(t, Config{Probers: []Prober{echoing(), net}, TTL: 10 * time.Second})
		if got := resolve(t, r); got != ua1 {
			t.Fatalf("got %v", got)
		}
		net.rounds = [][]Answer{{}, {serves(ua2)}}
		time.Sleep(11 * time.Second)
		if got := resolve(t, r); got != ua2 {
			t.Errorf("got %v", got)
		}
	})
}

func TestRespondersAreBounded(t *testing.T) {
	c := newCache(10)
	now := time.Now()
	for i := range 20 {
		if kept := c.heardResponder(clientAddr(i), now); kept != (i < 10) {
			t.Errorf("the responder %d: kept %v", i, kept)
		}
	}
	if !c.heardResponder(clientAddr(3), now) || !c.responds(clientAddr(3), now) || c.responds(clientAddr(10), now) {
		t.Error("one that is kept is known, and no other")
	}
	later := now.Add(respondsFor)
	if c.responds(clientAddr(3), later) {
		t.Error("it is known for longer than its time")
	}
	if !c.heardResponder(clientAddr(11), later) || len(c.responders) != 1 {
		t.Errorf("those whose time is over make no room: %d", len(c.responders))
	}
}

package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var ua3 = netip.MustParseAddr("2001:db8:3::1")

// network is one with equal paths: path n leads to the member n modulo their
// number. It is a PathProber.
type network struct {
	mu    sync.Mutex
	paths []hop
	asked int
}

// hop is a member at the end of a path.
type hop struct {
	ua     netip.Addr
	rtt    time.Duration
	silent bool
}

func (*network) Name() string           { return "icmp" }
func (*network) Serves(netip.Addr) bool { return true }
func (*network) Proves() Trust          { return Ed25519 }

func (n *network) Probe(ctx context.Context, aa netip.Addr, believe func(Answer) bool) (Answer, error) {
	return n.ProbePath(ctx, aa, 0, believe)
}

func (n *network) ProbePath(ctx context.Context, _ netip.Addr, path int, believe func(Answer) bool) (Answer, error) {
	return judged(ctx, believe)(n.answer(ctx, path))
}

func (n *network) answer(ctx context.Context, path int) (Answer, error) {
	n.mu.Lock()
	n.asked++
	h := n.paths[path%len(n.paths)]
	n.mu.Unlock()
	if h.silent {
		<-ctx.Done()
		return Answer{}, ctx.Err()
	}
	select {
	case <-ctx.Done():
		return Answer{}, ctx.Err()
	case <-time.After(h.rtt):
		return Answer{UA: h.ua, RTT: h.rtt}, nil
	}
}

// lead makes the paths lead elsewhere.
func (n *network) lead(paths ...hop) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.paths = paths
}

func (n *network) probes() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}

const ms = time.Millisecond

func clientAddr(n int) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 0xc, 14: byte(n >> 8), 15: byte(n)})
}

// from resolves for a client, and wants no error.
func from(t *testing.T, r *Resolver, client netip.Addr) netip.Addr {
	t.Helper()
	ua, err := r.Resolve(t.Context(), client, aa)
	if err != nil {
		t.Fatal(err)
	}
	return ua
}

func TestSpread(t *testing.T) {
	for _, tc := range []struct {
		sticky Sticky
		count  func(seen map[netip.Addr]int) bool
	}{
		{Host, func(seen map[netip.Addr]int) bool { return len(seen) == 1 }},
		{Flow, func(seen map[netip.Addr]int) bool { return seen[ua1] == 500 && seen[ua2] == 500 }},
		{Source, func(seen map[netip.Addr]int) bool { return seen[ua1] > 400 && seen[ua2] > 400 }},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := &network{paths: []hop{{ua: ua1, rtt: ms}, {ua: ua2, rtt: 9 * ms}}}
			r := newTest(t, Config{Probers: []Prober{n}, Sticky: tc.sticky, Select: Spread})
			seen := map[netip.Addr]int{}
			for i := range 1000 {
				seen[from(t, r, clientAddr(i))]++
			}
			if !tc.count(seen) {
				t.Errorf("sticky %v: %v", tc.sticky, seen)
			}
			if n.probes() != Paths {
				t.Errorf("sticky %v: %d probes", tc.sticky, n.probes())
			}
		})
	}
}

// TestSourceKeepsItsMember: whatever the routes do, as long as the member lives.
func TestSourceKeepsItsMember(t *testing.T) {
	for _, how := range []Select{First, RTT, Spread} {
		synctest.Test(t, func(t *testing.T) {
			n := &network{paths: []hop{{ua: ua1, rtt: ms}, {ua: ua2, rtt: 9 * ms}}}
			r := newTest(t, Config{Probers: []Prober{n}, Sticky: Source, Select: how, TTL: 10 * time.Second})
			began := map[netip.Addr]netip.Addr{}
			for i := range 50 {
				began[clientAddr(i)] = from(t, r, clientAddr(i))
			}
			if how != First { // which would not see the other member
				n.lead(hop{ua: ua2, rtt: ms}, hop{ua: ua1, rtt: 9 * ms}) // which is the nearer one now
			}
			for range 20 {
				time.Sleep(4 * time.Second)
				for client, ua := range began {
					if got := from(t, r, client); got != ua {
						t.Fatalf("%v: %v went from %v to %v", how, client, ua, got)
					}
				}
			}
			n.lead(hop{ua: ua3, rtt: ms})
			for range 11 {
				time.Sleep(time.Second)
				from(t, r, clientAddr(0))
			}
			for client := range began {
				if got := from(t, r, client); got != ua3 {
					t.Errorf("%v: %v is still with %v after its time", how, client, got)
				}
			}
			if pins := r.Pins(); len(pins) != 50 || pins[3].Client != clientAddr(3) || pins[3].Member != ua3 {
				t.Errorf("pins: %+v", pins)
			}
		})
	}
}

// TestRendezvousMovesFew: a member that comes takes its share and no more.
func TestRendezvousMovesFew(t *testing.T) {
	s := newSelector(Source, Spread, 0)
	now := time.Now()
	group := func(uas ...netip.Addr) *group {
		var pins []Pin
		for _, ua := range uas {
			pins = append(pins, Pin{Anycast: aa, Member: ua, Learned: now, Expires: now.Add(time.Hour)})
		}
		g := &group{}
		g.learn(pins, now, 0)
		return g
	}
	two, three := group(ua1, ua2), group(ua3, ua2, ua1)
	moved := 0
	for i := range 3000 {
		before, after := s.choose(two, clientAddr(i), now, good).Member, s.choose(three, clientAddr(i), now, good).Member
		if before != after {
			moved++
			if after != ua3 {
				t.Fatalf("%v went from %v to %v, which was there before", clientAddr(i), before, after)
			}
		}
	}
	if moved < 850 || moved > 1150 {
		t.Errorf("%d of 3000 clients moved, a third would be right", moved)
	}
}

func TestRTTPicksTheNearer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{paths: []hop{{ua: ua2, rtt: 20 * ms}, {ua: ua1, rtt: 5 * ms}, {ua: ua2, rtt: 12 * ms}}}
		r := newTest(t, Config{Probers: []Prober{n}, Select: RTT})
		if got := resolve(t, r); got != ua1 {
			t.Errorf("got %v", got)
		}
		if got := r.Pins(); len(got) != 1 || got[0].RTT != 5*ms {
			t.Errorf("pins: %+v", got)
		}
		r.cache.mu.RLock()
		other := memberIn(r.cache.groups[aa].members, ua2)
		r.cache.mu.RUnlock()
		if other == nil || other.RTT != 12*ms {
			t.Errorf("the smallest of several samples is not kept: %+v", other)
		}
	})
}

// TestRTTHysteresis: a member must be nearer by a fifth, and by half a
// millisecond, to be preferred to the one that is in use.
func TestRTTHysteresis(t *testing.T) {
	for _, tc := range []struct {
		current, other time.Duration
		moves          bool
	}{
		{10 * ms, 9 * ms, false}, {10 * ms, 8 * ms, false}, {10 * ms, 8*ms - 1, true}, {10 * ms, 5 * ms, true},
		{ms, ms / 2, false}, {ms, ms/2 - 1, true}, {ms / 5, 1, false},
		{10 * ms, 30 * ms, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := &network{paths: []hop{{ua: ua1, rtt: ms / 10}, {ua: ua2, rtt: 90 * ms}}}
			r := newTest(t, Config{Probers: []Prober{n}, Select: RTT, TTL: 10 * time.Second})
			resolve(t, r)
			n.lead(hop{ua: ua1, rtt: tc.current}, hop{ua: ua2, rtt: tc.other})
			time.Sleep(9 * time.Second)
			resolve(t, r) // the renewal
			time.Sleep(time.Second)
			if got := resolve(t, r); (got == ua2) != tc.moves {
				t.Errorf("%v in use, %v elsewhere: got %v", tc.current, tc.other, got)
			}
		})
	}
}

// TestNoiseDoesNotFlap: two members at the same distance, with noise.
func TestNoiseDoesNotFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{paths: []hop{{ua: ua1, rtt: 10 * ms}, {ua: ua2, rtt: 10 * ms}}}
		r := newTest(t, Config{Probers: []Prober{n}, Select: RTT, TTL: time.Second})
		began := resolve(t, r)
		for i := range 100 {
			noise := time.Duration(i*7%19-9) * 100 * time.Microsecond
			n.lead(hop{ua: ua1, rtt: 10*ms + noise}, hop{ua: ua2, rtt: 10*ms - noise})
			time.Sleep(900 * ms)
			if got := resolve(t, r); got != began {
				t.Fatalf("it flapped in round %d", i)
			}
		}
	})
}

// TestBusySetNeverWaits, and an idle one is left alone.
func TestBusySetNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{paths: []hop{{ua: ua1, rtt: 100 * ms}, {ua: ua2, rtt: 200 * ms}}}
		r := newTest(t, Config{Probers: []Prober{n}, Sticky: Flow, Select: Spread, TTL: 10 * time.Second})
		resolve(t, r)
		for range 1000 {
			time.Sleep(100 * ms)
			start := time.Now()
			resolve(t, r)
			if waited := time.Since(start); waited != 0 {
				t.Fatalf("waited for %v", waited)
			}
		}
		busy := n.probes()
		if least, most := 9*Paths, 14*Paths; busy < least || busy > most {
			t.Errorf("%d probes in 100 s, %d to %d are right", busy, least, most)
		}
		time.Sleep(time.Hour)
		if n.probes() > busy+Paths {
			t.Errorf("%d probes while nobody asked", n.probes()-busy)
		}
	})
}

// TestDiscoveryIsPaced: whatever there is to discover.
func TestDiscoveryIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{paths: []hop{{ua: ua1, rtt: ms}}}
		r := newTest(t, Config{Probers: []Prober{n}, Select: Spread})
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				b := aa.As16()
				b[13] = byte(i)
				if _, err := r.Resolve(t.Context(), nobody, netip.AddrFrom16(b)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		further := time.Duration(200*(Paths-1) - Paths)
		if took := time.Since(start); took < further*time.Second/discoverRate {
			t.Errorf("%d probes in %v", n.probes(), took)
		}
	})
}

func TestSuspectGoesToTheNextMemberAtOnce(t *testing.T) {
	for _, how := range []Select{RTT, Spread} {
		for _, sticky := range []Sticky{Host, Source, Flow} {
			synctest.Test(t, func(t *testing.T) {
				n := &network{paths: []hop{{ua: ua1, rtt: ms}, {ua: ua2, rtt: 9 * ms}, {ua: ua3, rtt: 50 * ms}}}
				r := newTest(t, Config{Probers: []Prober{n}, Select: how, Sticky: sticky})
				client := clientAddr(1)
				suspects := map[netip.Addr]bool{}
				probes := 0
				for range 3 {
					start := time.Now()
					ua := from(t, r, client)
					if suspects[ua] {
						t.Fatalf("%v, %v: %v is suspected, and was returned", how, sticky, ua)
					}
					if len(suspects) > 0 && (time.Since(start) != 0 || n.probes() != probes) {
						t.Errorf("%v, %v: the next member took %v and %d probes", how, sticky, time.Since(start), n.probes()-probes)
					}
					probes = n.probes()
					suspects[ua] = true
					r.Suspect(aa, ua)
				}
				if len(suspects) != 3 {
					t.Errorf("%v, %v: only %v", how, sticky, suspects)
				}
			})
		}
	}
}

// TestFirstFailsOverToOneSeenBefore: the route has just changed, and the member
// it leads to now does not take flows.
func TestFirstFailsOverToOneSeenBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "icmp", answer: after(ms, ua1, ua2)}
		r := newTest(t, Config{Probers: []Prober{p}, TTL: 10 * time.Second})
		resolve(t, r)
		time.Sleep(9 * time.Second)
		resolve(t, r)
		time.Sleep(100 * ms) // the renewal has found ua2
		if got := resolve(t, r); got != ua2 {
			t.Fatalf("got %v", got)
		}
		r.Suspect(aa, ua2)
		if got := resolve(t, r); got != ua1 || p.asked.Load() != 2 {
			t.Errorf("after Suspect: %v, %d probes", got, p.asked.Load())
		}
	})
}

// TestSuspectComesBack once it has answered a probe after its time out.
func TestSuspectComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := hop{ua: ua1, rtt: ms}, hop{ua: ua2, rtt: 50 * ms}
		n := &network{paths: []hop{near, far}}
		r := newTest(t, Config{Probers: []Prober{n}, Select: RTT, TTL: 4 * time.Second})
		resolve(t, r)
		r.Suspect(aa, ua1)
		suspected := time.Now()
		n.lead(far, hop{silent: true})
		for time.Since(suspected) < 3*suspectFor {
			if got := resolve(t, r); got != ua2 {
				t.Fatalf("%v after %v of silence", got, time.Since(suspected))
			}
			time.Sleep(500 * ms)
		}
		n.lead(far, near)
		answered := time.Now()
		for resolve(t, r) != ua1 {
			if time.Since(answered) > 8*time.Second {
				t.Fatal("the member answers, and does not come back")
			}
			time.Sleep(100 * ms)
		}
		r.Suspect(aa, ua1) // it answers probes, and takes no flow
		suspected = time.Now()
		for time.Since(suspected) < suspectFor {
			if got := resolve(t, r); got != ua2 {
				t.Fatalf("%v after only %v", got, time.Since(suspected))
			}
			time.Sleep(500 * ms)
		}
	})
}

// TestOnlyMemberIsAskedAgain: there is no other, so its answer decides.
func TestOnlyMemberIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "icmp", answer: after(ms, ua1)}
		r := newTest(t, Config{Probers: []Prober{p}})
		for i := range int64(5) {
			if got := resolve(t, r); got != ua1 || p.asked.Load() != i+1 {
				t.Errorf("%v, %d probes", got, p.asked.Load())
			}
			time.Sleep(ms)
			r.Suspect(aa, ua1)
		}
	})
}

func TestStale(t *testing.T) {
	refused := netip.MustParseAddr("fe80::1")
	for _, tc := range []struct {
		name    string
		stale   time.Duration
		then    []netip.Addr // what the probes say after the first one; nobody is silence
		suspect bool
		at      time.Duration // after the pin's end
		err     error
	}{
		{name: "off", at: time.Second, err: ErrNoAnswer},
		{name: "on", stale: time.Minute, at: time.Second},
		{name: "to the end", stale: time.Minute, at: 57 * time.Second}, // 2 s are the probe's
		{name: "no longer", stale: time.Minute, at: time.Minute, err: ErrNoAnswer},
		{name: "not a suspect", stale: time.Minute, suspect: true, at: time.Second, err: ErrNoAnswer},
		{name: "not against a refusal", stale: time.Minute, then: []netip.Addr{refused}, at: time.Second, err: ErrUntrusted},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if tc.then == nil {
					tc.then = []netip.Addr{nobody}
				}
				p := &script{name: "icmp", answer: after(0, append([]netip.Addr{ua1}, tc.then...)...)}
				r := newTest(t, Config{Probers: []Prober{p}, TTL: 10 * time.Second, Stale: tc.stale})
				resolve(t, r)
				if tc.suspect {
					r.Suspect(aa, ua1)
				}
				time.Sleep(10*time.Second + tc.at)
				pin, err := r.Lookup(t.Context(), aa)
				if !errors.Is(err, tc.err) || (err == nil) != (tc.err == nil) {
					t.Fatalf("%+v, %v", pin, err)
				}
				if err != nil {
					return
				}
				if pin.Member != ua1 || !pin.Stale || r.Stats().Stale != 1 {
					t.Errorf("%+v, %d counted", pin, r.Stats().Stale)
				}
				if pins := r.Pins(); len(pins) != 1 || !pins[0].Stale {
					t.Errorf("pins: %+v", pins)
				}
			})
		})
	}
}

// TestStaleNeitherWaitsNorLasts: only the first flow waits for the silence, the
// address is asked on, and the answer ends it.
func TestStaleNeitherWaitsNorLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{paths: []hop{{ua: ua1, rtt: ms}}}
		r := newTest(t, Config{Probers: []Prober{n}, TTL: 10 * time.Second, Stale: time.Minute})
		resolve(t, r)
		n.lead(hop{silent: true})
		time.Sleep(11 * time.Second)
		resolve(t, r)
		probes := n.probes()
		for range 100 {
			start := time.Now()
			if got := resolve(t, r); got != ua1 || time.Since(start) != 0 {
				t.Fatalf("%v after %v", got, time.Since(start))
			}
			time.Sleep(100 * ms)
		}
		if asked := n.probes() - probes; asked < 3 || asked > 10 {
			t.Errorf("asked %d times in 10 s", asked)
		}
		n.lead(hop{ua: ua2, rtt: ms})
		for range 50 {
			resolve(t, r)
			time.Sleep(100 * ms)
		}
		if pin, err := r.Lookup(t.Context(), aa); err != nil || pin.Member != ua2 || pin.Stale {
			t.Errorf("%+v, %v", pin, err)
		}
	})
}

// TestStaticMembersAreASet, and no renewal asks the network for them.
func TestStaticMembersAreASet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{paths: []hop{{ua: ua3, rtt: ms}}}
		r := newTest(t, Config{
			Probers: []Prober{n}, Static: map[netip.Addr][]netip.Addr{aa: {ua1, ua2}},
			Sticky: Flow, Select: Spread, TTL: 10 * time.Second,
		})
		seen := map[netip.Addr]int{}
		for range 100 {
			seen[resolve(t, r)]++
			time.Sleep(time.Second)
		}
		if seen[ua1] != 50 || seen[ua2] != 50 || n.probes() != 0 {
			t.Errorf("%v, %d probes", seen, n.probes())
		}
	})
}

func TestClientPinsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{paths: []hop{{ua: ua1, rtt: ms}, {ua: ua2, rtt: ms}}}
		r := newTest(t, Config{Probers: []Prober{n}, Sticky: Source, Select: Spread, MaxPins: 10, TTL: time.Second})
		for i := range 20 {
			from(t, r, clientAddr(i))
		}
		if s := r.Stats(); s.Pins != 10 || s.CacheFull != 10 {
			t.Errorf("stats: %+v", s)
		}
		time.Sleep(2 * time.Second)
		from(t, r, clientAddr(99)) // the expired ones make room
		if s := r.Stats(); s.Pins != 1 || s.CacheFull != 10 {
			t.Errorf("stats: %+v", s)
		}
	})
}

func TestNewRefusesWrongSelection(t *testing.T) {
	for _, c := range []Config{{Sticky: 3}, {Select: 3}, {Stale: -1}} {
		c.Policies = []Policy{{Prefix: prefix}}
		if _, err := New(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

func BenchmarkResolve(b *testing.B) {
	for _, how := range []Select{First, RTT, Spread} {
		for _, sticky := range []Sticky{Host, Source, Flow} {
			b.Run(fmt.Sprintf("%v/%v", how, sticky), func(b *testing.B) {
				n := &network{paths: []hop{{ua: ua1, rtt: ms}, {ua: ua2, rtt: 2 * ms}}}
				r, err := New(Config{Policies: []Policy{{Prefix: prefix}}, Probers: []Prober{n}, TTL: time.Hour, Sticky: sticky, Select: how})
				if err != nil {
					b.Fatal(err)
				}
				defer r.Close()
				client := clientAddr(1)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := r.Resolve(b.Context(), client, aa); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

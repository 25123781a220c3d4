package resolver

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestUsedPinIsRenewedBeforeItEnds(t *testing.T) {
	for _, test := range []struct {
		name string
		at   time.Duration // of its life of 10 s
		ago  time.Duration // it was used
		want bool
	}{
		{"in the last part of its life", 8500 * time.Millisecond, 100 * time.Millisecond, true},
		{"right before that", 8500 * time.Millisecond, 1900 * time.Millisecond, true},
		{"too long ago", 8500 * time.Millisecond, 2100 * time.Millisecond, false},
		{"too early", 7 * time.Second, 0, false},
		{"too late", 11 * time.Second, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &script{name: "icmp", answer: after(100*time.Millisecond, ua1, ua2)}
				r := newTest(t, Config{Probers: []Prober{p}, TTL: 10 * time.Second})
				resolve(t, r)
				if renew := r.Pins()[0]; renew.Expires.Sub(renew.Renew) != 2*time.Second {
					t.Errorf("it is said to be renewed from %v before its end on", renew.Expires.Sub(renew.Renew))
				}
				hits := r.Stats().Hits
				time.Sleep(test.at)
				for i := range 50 { // one renewal, however often it is said
					if began := r.Used(aa, time.Now().Add(-test.ago)); began != (test.want && i == 0) {
						t.Fatalf("time %d: a renewal has begun: %v", i, began)
					}
				}
				time.Sleep(time.Second)
				s := r.Stats()
				if want := map[bool]uint64{true: 1}[test.want]; s.Renewals != want || s.Hits != hits {
					t.Errorf("%d renewals and %d look-ups, want %d and none", s.Renewals, s.Hits-hits, want)
				}
				if test.want {
					if pins := r.Pins(); len(pins) != 1 || pins[0].Member != ua2 {
						t.Errorf("pins: %v; another member has answered", pins)
					}
				}
			})
		})
	}
}

func TestUsedAsksForNothingNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "icmp", answer: after(0, ua1, nobody)}
		r := newTest(t, Config{Probers: []Prober{p}, TTL: 10 * time.Second})
		r.Used(aa, time.Now())
		r.Used(netip.MustParseAddr("2001:db8:bb::1"), time.Now())
		if n := p.asked.Load(); n != 0 {
			t.Fatalf("%d probes for what was never resolved", n)
		}
		resolve(t, r)
		// Nobody answers any more: it is asked again as often as with look-ups.
		var renewals int
		for range 1000 {
			time.Sleep(10 * time.Millisecond)
			if r.Used(aa, time.Now()) {
				renewals++
			}
		}
		if len(r.Pins()) != 0 || renewals == 0 || renewals > 2 {
			t.Errorf("%d renewals, and left are %v", renewals, r.Pins())
		}
	})
}

func TestUsedStaticIsKept(t *testing.T) {
	for sticky, want := range map[Sticky]int{Host: 1, Source: 1, Flow: 2} {
		synctest.Test(t, func(t *testing.T) {
			r := newTest(t, Config{Static: map[netip.Addr][]netip.Addr{aa: {ua1, ua2}}, TTL: 10 * time.Second, Sticky: sticky, Select: Spread})
			client := netip.MustParseAddr("2001:db8:1::2")
			member, err := r.Resolve(t.Context(), client, aa)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(9 * time.Second)
			if !r.Used(aa, time.Now()) {
				t.Errorf("%v: it is not renewed", sticky)
			}
			time.Sleep(2 * time.Second)
			pins := r.Pins()
			if len(pins) != want {
				t.Errorf("%v: pins: %v", sticky, pins)
			}
			if sticky == Source && (pins[0].Client != client || pins[0].Member != member) {
				t.Errorf("pins: %v, but %v was with %v", pins, client, member)
			}
		})
	}
}

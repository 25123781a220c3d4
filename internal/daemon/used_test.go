package daemon

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"aarptun/resolver"
	"aarptun/tun/nft"
)

func TestWhenToLookForUse(t *testing.T) {
	start := time.Now()
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	// Each may be renewed in the last 8 of 40 s.
	pin := func(learned float64) resolver.Pin {
		return resolver.Pin{Learned: at(learned), Renew: at(learned + 32), Expires: at(learned + 40)}
	}
	renewing := resolver.Pin{Learned: at(0), Renew: at(41), Expires: at(40)}
	for _, test := range []struct {
		name   string
		pins   []resolver.Pin
		looked float64
		want   float64 // 0: never
	}{
		{"nothing is pinned", nil, 0, 0},
		{"early in its life, not before the end is near", []resolver.Pin{pin(0)}, 0, 33},
		{"not used then, so again", []resolver.Pin{pin(0)}, 33.1, 36},
		{"and again", []resolver.Pin{pin(0)}, 36.1, 38},
		{"and then it ends", []resolver.Pin{pin(0)}, 38.1, 0},
		{"the first of several", []resolver.Pin{pin(20), pin(3), pin(5)}, 0, 36},
		{"it is being renewed", []resolver.Pin{renewing}, 33, 0},
		{"beside one that is being renewed", []resolver.Pin{renewing, pin(10)}, 33, 43},
	} {
		u := uses{looked: at(test.looked)}
		got, ok := u.next(test.pins, at(test.looked))
		if ok != (test.want != 0) || ok && !got.Equal(at(test.want)) {
			t.Errorf("%s: %v, %v, want %v s", test.name, got.Sub(start), ok, test.want)
		}
	}
}

// Many pins in use at once are no storm of probes.
func TestRenewalsOfUsedPinsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 2*renewAtOnce + 10
		static := make(map[netip.Addr][]netip.Addr)
		aa := netip.MustParseAddr("2001:db8:aa::")
		for range many {
			aa = aa.Next()
			static[aa] = []netip.Addr{netip.MustParseAddr("2001:db8:11::2")}
		}
		r, err := resolver.New(resolver.Config{Policies: []resolver.Policy{{Prefix: netip.MustParsePrefix("2001:db8:aa::/64")}}, Static: static, TTL: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		o := &offload{resolver: r}
		for aa := range static {
			if _, err := r.Lookup(t.Context(), aa); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(9 * time.Second)
		for aa := range static {
			o.uses.rest = append(o.uses.rest, nft.Use{Anycast: aa, Last: time.Now()})
		}
		for _, want := range []uint64{renewAtOnce, 2 * renewAtOnce, many} {
			o.tellUses()
			synctest.Wait()
			if got := r.Stats().Renewals; got != want {
				t.Errorf("%d renewals, want %d", got, want)
			}
			at, ok := o.uses.next(nil, time.Now())
			if more := want < many; ok != more || more && time.Until(at) != renewApart {
				t.Errorf("after %d of %d: goes on at %v, %v", want, many, at, ok)
			}
		}
	})
}

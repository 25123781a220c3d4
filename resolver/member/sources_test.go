package member

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// nth is an address of its own for each number.
func nth(n int) netip.Addr {
	a := addr("2001:db8::").As16()
	binary.BigEndian.PutUint32(a[4:], uint32(n))
	return netip.AddrFrom16(a)
}

func TestSources(t *testing.T) {
	now := goldenTime
	s := newSources(10)
	count := func(from netip.Addr, n int) (allowed int) {
		for range n {
			if s.allow(from, now) {
				allowed++
			}
		}
		return allowed
	}
	if n := count(asker6, 100); n != 10 {
		t.Errorf("%d of a burst of 10", n)
	}
	if n := count(addr("2001:db8:1:0:ffff::1"), 100); n != 0 {
		t.Errorf("the same /64 got %d more", n)
	}
	if n := count(addr("2001:db8:1:1::1"), 100); n != 10 {
		t.Errorf("the next /64 got %d", n)
	}
	if n := count(asker4, 100); n != 10 {
		t.Errorf("IPv4 got %d", n)
	}
	if n := count(addr("192.0.2.3"), 100); n != 10 {
		t.Errorf("the next IPv4 address got %d", n)
	}
	now = now.Add(500 * time.Millisecond)
	if n := count(asker6, 100); n != 5 {
		t.Errorf("%d in half a second", n)
	}
}

// TestSourcesAreBounded: a flood from forged sources neither grows the table
// nor takes the place of an asker that is in it.
func TestSourcesAreBounded(t *testing.T) {
	now := goldenTime
	s := newSources(10)
	s.allow(asker6, now)
	allowed := 0
	for i := range 2 * maxSources {
		if s.allow(nth(1<<20+i), now) {
			allowed++
		}
	}
	if len(s.seen) != maxSources {
		t.Errorf("%d sources are kept", len(s.seen))
	}
	if want := maxSources - 1 + 10*overflowRate; allowed != want {
		t.Errorf("%d answers, want one for each place and %d for the rest", allowed, 10*overflowRate)
	}
	if !s.allow(asker6, now) {
		t.Error("the asker that was there is shut out")
	}
	now = now.Add(2 * time.Second) // all have their tokens again
	s.allow(nth(1<<21), now)
	if len(s.seen) != 1 {
		t.Errorf("%d sources are kept after a pause", len(s.seen))
	}
}

func TestChosenUnicastsAreBounded(t *testing.T) {
	now := goldenTime
	u := newUnicasts([]netip.Addr{aa6}, nil)
	for i := range maxUAs + 10 {
		u.keep(nth(i), choice{ua6, now.Add(uaLifetime)}, now)
	}
	if len(u.chosen) != maxUAs {
		t.Errorf("%d are kept", len(u.chosen))
	}
	if ua := u.to(nth(1), now); ua != ua6 {
		t.Errorf("the kept one is %v", ua)
	}
	now = now.Add(uaLifetime)
	u.keep(asker6, choice{ua6, now.Add(uaLifetime)}, now)
	if len(u.chosen) != 1 {
		t.Errorf("%d are kept of those that have expired", len(u.chosen))
	}
}

func TestRTO(t *testing.T) {
	ms := time.Millisecond
	now := goldenTime
	e := estimates{of: map[netip.Addr]estimate{}}
	if got := e.rto(aa6, now); got != 500*ms {
		t.Errorf("at first: %v", got)
	}
	for _, step := range []struct{ rtt, want time.Duration }{
		{100 * ms, 300 * ms},          // RFC 6298 (2.2): srtt 100, rttvar 50
		{100 * ms, 250 * ms},          // (2.3): rttvar 37.5
		{200 * ms, 325 * ms},          // rttvar 53.125, srtt 112.5
		{10 * time.Second, 2000 * ms}, // no longer than maxRTO
	} {
		e.learn(aa6, step.rtt, now)
		if got := e.rto(aa6, now); got != step.want {
			t.Errorf("after %v: %v, want %v", step.rtt, got, step.want)
		}
	}
	for range 100 {
		e.learn(aa4, 100*time.Microsecond, now)
	}
	if got := e.rto(aa4, now); got != minRTO {
		t.Errorf("on a fast path: %v", got)
	}
	if got := e.rto(aa6, now.Add(staleRTO+1)); got != 500*ms {
		t.Errorf("ten minutes later: %v", got)
	}
	for i := range 2 * maxRTOs {
		e.learn(nth(i), ms, now)
	}
	if len(e.of) != maxRTOs {
		t.Errorf("%d are kept", len(e.of))
	}
	e.learn(asker6, ms, now.Add(staleRTO+time.Second))
	if len(e.of) != 1 {
		t.Errorf("%d are kept when all are stale", len(e.of))
	}
}

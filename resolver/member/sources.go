package member

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	maxSources   = 65536       // askers whose rate is known
	sweepPause   = time.Second // between two searches of a full table for what can go
	overflowRate = 10          // times the rate of one asker, for all that there is no room for
)

// sources limits how often each asker is answered. An IPv6 asker is its /64,
// since a host has that many addresses to ask from. The table is bounded: when
// it is full, those who are not in it share one limit, so that forged sources
// cannot shut out the askers who are.
type sources struct {
	rate  rate.Limit // answers a second
	burst int

	mu       sync.Mutex
	seen     map[netip.Addr]*rate.Limiter
	overflow *rate.Limiter
	swept    time.Time
}

func newSources(perSecond int) *sources {
	limit := rate.Limit(perSecond)
	return &sources{
		rate: limit, burst: perSecond, seen: make(map[netip.Addr]*rate.Limiter),
		overflow: rate.NewLimiter(limit*overflowRate, perSecond*overflowRate),
	}
}

// allow takes one answer out of what from may have.
func (s *sources) allow(from netip.Addr, now time.Time) bool {
	if from.Is6() {
		prefix, _ := from.Prefix(64) // an IPv6 address has 64 bits
		from = prefix.Addr()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	limiter, known := s.seen[from]
	if !known {
		if limiter = s.admit(from, now); limiter == nil {
			limiter = s.overflow
		}
	}
	return limiter.AllowN(now, 1)
}

// admit makes a place for from, or returns nil.
func (s *sources) admit(from netip.Addr, now time.Time) *rate.Limiter {
	if len(s.seen) >= maxSources && now.Sub(s.swept) >= sweepPause {
		s.swept = now
		for addr, limiter := range s.seen {
			// Whoever has all its tokens has not asked for a while and loses
			// nothing by being forgotten.
			if limiter.TokensAt(now) >= float64(s.burst) {
				delete(s.seen, addr)
			}
		}
	}
	if len(s.seen) >= maxSources {
		return nil
	}
	limiter := rate.NewLimiter(s.rate, s.burst)
	s.seen[from] = limiter
	return limiter
}

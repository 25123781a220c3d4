package resolver

import (
	"sync"
	"sync/atomic"
)

// Stats counts what the Resolver has done since it was made. Pins is a gauge;
// everything else only grows.
type Stats struct {
	Pins        int                `json:"pins"`         // alive now
	Hits        uint64             `json:"hits"`         // look-ups answered from the cache
	Misses      uint64             `json:"misses"`       // look-ups that waited for a probe
	Static      uint64             `json:"static"`       // pins taken from the configuration
	Probes      uint64             `json:"probes"`       // addresses asked, retransmissions not counted
	Renewals    uint64             `json:"renewals"`     // of those, ahead of a pin's end
	Failures    uint64             `json:"failures"`     // addresses for which no answer was believed
	SelfAnswers uint64             `json:"self_answers"` // believed answers from AA itself
	Suspected   uint64             `json:"suspected"`    // members that did not take a flow
	Draining    uint64             `json:"draining"`     // answers of members that take no new flows
	Stale       uint64             `json:"stale"`        // flows that got an expired pin since nobody answered
	Discoveries uint64             `json:"discoveries"`  // member sets looked for along several paths
	CacheFull   uint64             `json:"cache_full"`   // answers there was no room to keep
	Refused     map[Refusal]uint64 `json:"refused"`      // answers not believed, by reason
}

type counters struct {
	hits, misses, static, probes, renewals, failures, selfAnswers, suspected, draining, stale, discoveries, cacheFull atomic.Uint64

	mu      sync.Mutex
	refusal map[Refusal]uint64
}

func (c *counters) refused(why Refusal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refusal == nil {
		c.refusal = make(map[Refusal]uint64)
	}
	c.refusal[why]++
}

// Stats returns the counters as they stand now.
func (r *Resolver) Stats() Stats {
	c := &r.stats
	s := Stats{
		Pins: len(r.Pins()), Hits: c.hits.Load(), Misses: c.misses.Load(), Static: c.static.Load(),
		Probes: c.probes.Load(), Renewals: c.renewals.Load(), Failures: c.failures.Load(),
		SelfAnswers: c.selfAnswers.Load(), Suspected: c.suspected.Load(), Draining: c.draining.Load(), Stale: c.stale.Load(), Discoveries: c.discoveries.Load(),
		CacheFull: c.cacheFull.Load(),
		Refused:   map[Refusal]uint64{},
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for why, n := range c.refusal {
		s.Refused[why] = n
	}
	return s
}

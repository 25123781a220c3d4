package resolver

import (
	"sync"
	"sync/atomic"
	"time"
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

	RTT map[string]Histogram `json:"-"` // of the answers that were believed, by method
}

// Histogram says how many times were how long. It is a copy.
type Histogram struct {
	Bounds []time.Duration // upper, inclusive; ascending
	Counts []uint64        // of each bound, and one more for what is longer
	Sum    time.Duration
}

// rttBounds reach from a neighbour to the time that a probe has at most.
var rttBounds = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond,
	5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second,
}

// histogram counts durations; it costs two additions for each.
type histogram struct {
	counts [len(rttBounds) + 1]atomic.Uint64
	sum    atomic.Int64
}

func (h *histogram) observe(d time.Duration) {
	i := 0
	for i < len(rttBounds) && d > rttBounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

func (h *histogram) snapshot() Histogram {
	s := Histogram{Bounds: rttBounds[:], Counts: make([]uint64, len(h.counts)), Sum: time.Duration(h.sum.Load())}
	for i := range h.counts {
		s.Counts[i] = h.counts[i].Load()
	}
	return s
}

type counters struct {
	hits, misses, static, probes, renewals, failures, selfAnswers, suspected, draining, stale, discoveries, cacheFull atomic.Uint64

	rtt map[string]*histogram // of each method; the map does not change

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
		RTT:       map[string]Histogram{},
	}
	for method, h := range c.rtt {
		s.RTT[method] = h.snapshot()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for why, n := range c.refusal {
		s.Refused[why] = n
	}
	return s
}

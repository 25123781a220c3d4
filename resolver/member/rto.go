package member

import (
	"net/netip"
	"sync"
	"time"
)

// The retransmission timer of RFC 8489 section 6.2.1, computed as in RFC 6298
// without its rounding.
const (
	firstRTO         = 500 * time.Millisecond
	minRTO           = 20 * time.Millisecond // no shorter than a host may be busy with something else
	maxRTO           = 2 * time.Second
	maxTransmissions = 7  // Rc
	lastWait         = 16 // Rm: of the RTO, after the last transmission
	staleRTO         = 10 * time.Minute
	maxRTOs          = 16384 // addresses that an RTO is kept for
	clockGrain       = time.Millisecond
)

// estimate is what is known about the way to one address.
type estimate struct {
	srtt, rttvar time.Duration
	used         time.Time
}

func (e estimate) rto() time.Duration {
	return min(max(e.srtt+max(clockGrain, 4*e.rttvar), minRTO), maxRTO)
}

// estimates keep the RTO of each address that was asked.
type estimates struct {
	mu    sync.Mutex
	of    map[netip.Addr]estimate
	swept time.Time
}

func (e *estimates) rto(to netip.Addr, now time.Time) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	known, ok := e.of[to]
	if !ok || now.Sub(known.used) > staleRTO {
		return firstRTO
	}
	return known.rto()
}

// learn takes in one round trip, of a question that was sent once (Karn).
func (e *estimates) learn(to netip.Addr, rtt time.Duration, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	known, ok := e.of[to]
	switch {
	case !ok && len(e.of) >= maxRTOs && !e.forget(now):
		return
	case !ok || now.Sub(known.used) > staleRTO:
		known = estimate{srtt: rtt, rttvar: rtt / 2} // RFC 6298 (2.2)
	default: // RFC 6298 (2.3)
		known.rttvar = (3*known.rttvar + (known.srtt - rtt).Abs()) / 4
		known.srtt = (7*known.srtt + rtt) / 8
	}
	known.used = now
	e.of[to] = known
}

// forget drops what is stale, but not often, and reports whether there is room.
func (e *estimates) forget(now time.Time) bool {
	if now.Sub(e.swept) < sweepPause {
		return false
	}
	e.swept = now
	for to, known := range e.of {
		if now.Sub(known.used) > staleRTO {
			delete(e.of, to)
		}
	}
	return len(e.of) < maxRTOs
}

// drop forgets one address.
func (e *estimates) drop(to netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.of, to)
}

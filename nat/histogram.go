package nat

import (
	"sync/atomic"
	"time"
)

// Histogram says how many times were how long. It is a copy.
type Histogram struct {
	Bounds []time.Duration // upper, inclusive; ascending
	Counts []uint64        // of each bound, and one more for what is longer
	Sum    time.Duration
}

// dialBounds are those of how long a member took to accept a connection: from a
// neighbour to the last retransmission that anybody waits for.
var dialBounds = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// histogram counts durations; it costs two additions for each.
type histogram struct {
	counts [len(dialBounds) + 1]atomic.Uint64
	sum    atomic.Int64
}

func (h *histogram) observe(d time.Duration) {
	i := 0
	for i < len(dialBounds) && d > dialBounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

func (h *histogram) snapshot() Histogram {
	s := Histogram{Bounds: dialBounds[:], Counts: make([]uint64, len(h.counts)), Sum: time.Duration(h.sum.Load())}
	for i := range h.counts {
		s.Counts[i] = h.counts[i].Load()
	}
	return s
}

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// service is an anycast address and who stands behind it.
type service struct {
	aa      netip.Addr
	members []string
	probed  bool // the member is found by probe, and is not in the configuration
}

// flow is one flow as its client knows it.
type flow struct {
	proto   string
	id      string
	service service
	member  string    // who answered; "" while nobody has, and for echo
	began   time.Time // of the flow
	last    time.Time // when it last got what it wanted; began if it never has
}

// errCorrupt is a byte that is not the one that was sent.
var errCorrupt = errors.New("corrupt")

// errMoved is an answer from another member than before.
var errMoved = errors.New("moved")

// verdict is what became of a flow.
type verdict uint8

const (
	served  verdict = iota
	died            // its own member was killed, or was cut off for too long
	refused         // it never began, and there was nobody to be found
	broken          // anything else
	corrupt
	verdicts
)

// judge says why a flow ended. TCP that is established outlives every trouble
// but the death of its member; a flow that has not begun, and one that gave up
// waiting, may blame whatever was between it and its members.
func (f *flow) judge(err error, o *outages) verdict {
	switch {
	case err == nil:
		return served
	case errors.Is(err, errCorrupt):
		return corrupt
	case errors.Is(err, errMoved):
		return broken
	case f.last.Equal(f.began):
		if o.any(f.began, f.concerns) {
			return refused
		}
	case f.proto == "tcp":
		if o.any(f.began, func(o *outage) bool { return o.kind == killed && o.member == f.member }) {
			return died
		}
	default:
		if o.any(f.last, f.cutsOff) {
			return died
		}
	}
	return broken
}

// concerns reports whether an outage can keep a flow from beginning.
func (f *flow) concerns(o *outage) bool {
	switch o.kind {
	case uplink:
		return true
	case unasked:
		return f.service.probed
	}
	return slices.Contains(f.service.members, o.member)
}

// cutsOff reports whether an outage can keep the member of a flow of datagrams
// from answering. The client of an echo cannot tell which member it has.
func (f *flow) cutsOff(o *outage) bool {
	if o.kind == unasked {
		return false
	}
	return o.member == "" || o.member == f.member || f.member == "" && slices.Contains(f.service.members, o.member)
}

// tally counts flows and keeps what was said of the first that should not have
// ended.
type tally struct {
	mu       sync.Mutex
	started  map[string]int
	ended    map[verdict]map[string]int
	bytes    int64 // that went and came back the same
	messages []string
}

func newTally() *tally {
	t := &tally{started: map[string]int{}, ended: map[verdict]map[string]int{}}
	for v := range verdicts {
		t.ended[v] = map[string]int{}
	}
	return t
}

const maxMessages = 20

func (t *tally) begin(proto string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.started[proto]++
}

func (t *tally) end(f *flow, v verdict, err error, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended[v][f.proto]++
	t.bytes += bytes
	if (v == broken || v == corrupt) && len(t.messages) < maxMessages {
		t.messages = append(t.messages, fmt.Sprintf("%s %s to %v, member %q, after %v, silent for %v: %v",
			f.proto, f.id, f.service.aa, f.member, time.Since(f.began).Round(time.Millisecond), time.Since(f.last).Round(time.Millisecond), err))
	}
}

// pattern is a flow's own stream of bytes, the same every time.
type pattern struct{ rng *rand.ChaCha8 }

func newPattern(id string) *pattern {
	var seed [32]byte
	copy(seed[:], id)
	return &pattern{rand.NewChaCha8(seed)}
}

func (p *pattern) next(b []byte) { _, _ = p.rng.Read(b) } // never fails

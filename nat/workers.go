package nat

import (
	"sync"
	"sync/atomic"
)

// turn is what a worker runs when something has happened, never two at a time.
type turn struct {
	workers *workers
	step    func() (more, over bool)
	state   atomic.Uint32
	next    *turn // in the queue; guarded by workers.mu
}

// The states of a turn.
const (
	turnIdle    = iota // nothing to do
	turnQueued         // waits for a worker
	turnRunning        // is being run
	turnAgain          // is being run, and something has happened meanwhile
	turnOver           // never runs again
)

// notify has the turn run, or run once more. It does not wait. It runs it by
// itself if the caller is free to do that, which spares the way through the queue,
// up to half of the time of a request and its response (docs/adr, 12).
func (t *turn) notify(free bool) {
	if free && t.state.CompareAndSwap(turnIdle, turnRunning) {
		t.run()
		return
	}
	for {
		switch state := t.state.Load(); state {
		case turnIdle:
			if t.state.CompareAndSwap(turnIdle, turnQueued) {
				t.workers.push(t)
				return
			}
		case turnRunning:
			if t.state.CompareAndSwap(turnRunning, turnAgain) {
				return
			}
		default:
			return
		}
	}
}

// run does a turn whose state is turnRunning.
func (t *turn) run() {
	more, over := t.step()
	switch {
	case over:
		t.state.Store(turnOver)
	case more || !t.state.CompareAndSwap(turnRunning, turnIdle):
		t.state.Store(turnQueued)
		t.workers.push(t)
	}
}

// workers run turns in the order in which they were pushed.
type workers struct {
	mu          sync.Mutex
	wake        sync.Cond // of mu
	first, last *turn
	stopped     bool
}

func (w *workers) push(t *turn) {
	w.mu.Lock()
	if w.last == nil {
		w.first = t
	} else {
		w.last.next = t
	}
	w.last = t
	w.mu.Unlock()
	w.wake.Signal()
}

// work runs turns until stop.
func (w *workers) work() {
	for {
		w.mu.Lock()
		for w.first == nil && !w.stopped {
			w.wake.Wait()
		}
		t := w.first
		if t == nil {
			w.mu.Unlock()
			return
		}
		if w.first = t.next; w.first == nil {
			w.last = nil
		}
		t.next = nil
		w.mu.Unlock()
		t.state.Store(turnRunning) // what has happened while it was queued is seen by the step
		t.run()
	}
}

// stop ends the workers when the queue is empty.
func (w *workers) stop() {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	w.wake.Broadcast()
}

package nat

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// startWorkers starts so many, which end with stop.
func startWorkers(n int) (w *workers, stop func()) {
	w = new(workers)
	w.wake.L = &w.mu
	var wg sync.WaitGroup
	for range n {
		wg.Go(w.work)
	}
	return w, func() {
		w.stop()
		wg.Wait()
	}
}

// TestTurns has many notifiers tell few turns: none of them may run twice at
// once, and nothing that was told may be missed.
func TestTurns(t *testing.T) {
	const turns, notifiers, each = 8, 16, 5000
	w, stop := startWorkers(4)
	type counted struct {
		turn
		told    atomic.Int64
		seen    int64 // unguarded: the turn alone has it, which -race verifies
		running atomic.Bool
		again   int
	}
	all := make([]*counted, turns)
	for i := range all {
		c := new(counted)
		c.workers = w
		c.step = func() (more, over bool) {
			if c.running.Swap(true) {
				t.Error("a turn runs twice at once")
			}
			c.seen = c.told.Load()
			c.again++
			c.running.Store(false)
			return c.again%3 == 0, false
		}
		all[i] = c
	}
	var wg sync.WaitGroup
	for i := range notifiers {
		wg.Go(func() {
			for j := range each {
				c := all[(i+j)%turns]
				c.told.Add(1)
				c.notify(j%3 == 0)
			}
		})
	}
	wg.Wait()
	stop()
	for i, c := range all {
		if c.seen != notifiers*each/turns {
			t.Errorf("turn %d has seen %d of %d", i, c.seen, notifiers*each/turns)
		}
		if state := c.state.Load(); state != turnIdle {
			t.Errorf("turn %d ends in state %d", i, state)
		}
	}
}

func TestTurnsRunInTheOrderOfTheirNotices(t *testing.T) {
	w := new(workers)
	w.wake.L = &w.mu
	var order []string
	add := func(name string, again int) *turn {
		t := &turn{workers: w}
		t.step = func() (more, over bool) {
			order = append(order, name)
			again--
			return again >= 0, false
		}
		return t
	}
	busy, second, third := add("busy", 2), add("second", 0), add("third", 0)
	for _, t := range []*turn{busy, second, third, second} { // told twice before it runs is once
		t.notify(false)
	}
	w.stop()
	w.work() // what was told before the end is still done
	if want := []string{"busy", "second", "third", "busy", "busy"}; !slices.Equal(order, want) {
		t.Errorf("they ran as %v, want %v", order, want)
	}
}

// Who has nothing better to do runs the turn himself, if nobody else does.
func TestTurnRunsWhereItsCallerIsFree(t *testing.T) {
	w := new(workers) // whom nobody runs
	w.wake.L = &w.mu
	ran := 0
	var own turn
	own.workers = w
	own.step = func() (more, over bool) {
		if ran++; ran == 2 {
			own.notify(true) // meanwhile: never two at a time
		}
		return false, false
	}
	own.notify(true)
	if ran != 1 || w.first != nil {
		t.Errorf("it ran %d times", ran)
	}
	own.notify(true)
	if ran != 2 || w.first != &own {
		t.Errorf("it ran %d times, and once more by a worker: %v", ran, w.first == &own)
	}
	own.notify(true) // it waits for a worker already
	if ran != 2 {
		t.Errorf("it ran %d times", ran)
	}
	w.stop()
	w.work()
	if ran != 3 || own.state.Load() != turnIdle {
		t.Errorf("it ran %d times, and is in state %d", ran, own.state.Load())
	}
}

func TestTurnThatIsOverNeverRunsAgain(t *testing.T) {
	w, stop := startWorkers(2)
	ran := 0
	var over turn
	over.workers = w
	over.step = func() (bool, bool) {
		ran++
		over.notify(false) // meanwhile
		return true, true
	}
	over.notify(false)
	stop()
	over.notify(false)
	w.work()
	if ran != 1 {
		t.Errorf("it ran %d times", ran)
	}
}

func BenchmarkTurn(b *testing.B) {
	w, stop := startWorkers(2)
	defer stop()
	ran := make(chan struct{}, 1)
	turn := &turn{workers: w, step: func() (bool, bool) {
		ran <- struct{}{}
		return false, false
	}}
	for name, free := range map[string]bool{"queued": false, "free": true} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				turn.notify(free)
				<-ran
			}
		})
	}
}

package tun

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lookEvery is how often the host is looked at when the kernel says nothing:
	// not of every route that goes does it tell (that of an IPv4 route whose
	// device went down, for one).
	lookEvery = 30 * time.Second

	// A repair is made at once, but for one that follows another: ip(8) flushes in
	// rounds until nothing is left, and must not be kept busy.
	apart = time.Millisecond
	// So are burst repairs in burstIn. Whoever takes away more than that means it,
	// and then they are as far apart as slowFirst, and twice as far each time, up
	// to slowLast.
	burst     = 20
	burstIn   = time.Minute
	slowFirst = time.Second
	slowLast  = 30 * time.Second
)

// Stats counts what Watch has done.
type Stats struct {
	Repairs  uint64 `json:"repairs"`        // how often something was put back
	Failures uint64 `json:"repairs_failed"` // how often it could not be
	Resyncs  uint64 `json:"lost_notices"`   // how often the kernel had more to say than there was room for
	Contest  bool   `json:"contested"`      // what is put back is taken away again, so it is put back slowly
}

type watchCounters struct {
	repairs, failures, resyncs atomic.Uint64
	contest                    atomic.Bool
}

// Stats returns the counters as they stand now.
func (h *Host) Stats() Stats {
	c := &h.counters
	return Stats{Repairs: c.repairs.Load(), Failures: c.failures.Load(), Resyncs: c.resyncs.Load(), Contest: c.contest.Load()}
}

// Watch puts back what another program takes away of what AddRoutes has set:
// the device's MTU and that it is up, routes and rules. It does so at once, up to
// 20 times a minute, and then ever more slowly, so as not to fight for ever. It
// returns nil when ctx ends, and [ErrGone] when the device was deleted. It may be
// called once.
func (h *Host) Watch(ctx context.Context, log *slog.Logger) error {
	w := watcher{host: h, log: log, changes: make(chan change, 1)}
	deaf := make(chan error, len(h.notices))
	var listening sync.WaitGroup
	for _, n := range h.notices {
		listening.Go(func() { deaf <- w.listen(n) })
	}
	defer listening.Wait()
	defer h.unsubscribe()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		by := 0
		select {
		case <-ctx.Done():
			return nil
		case err := <-deaf:
			return err
		case c := <-w.changes:
			by = c.by
		case <-tick.C:
		case <-w.again:
		}
		if err := w.look(ctx, by); err != nil {
			return err
		}
	}
}

// watcher is one Watch.
type watcher struct {
	host    *Host
	log     *slog.Logger
	changes chan change // has room for one, which stands for all since
	pace    pace
	failed  string           // the last failure, said once
	again   <-chan time.Time // when to try again after it
}

// listen passes on that something has changed, until the notices are closed.
func (w *watcher) listen(n *notices) error {
	for {
		c, err := n.next()
		if err != nil {
			return err
		}
		if c.lost {
			w.host.counters.resyncs.Add(1)
		}
		select {
		case w.changes <- c:
		default: // one waits already, and whoever takes it looks at everything
		}
	}
}

// look puts back what is missing, when it is time to.
func (w *watcher) look(ctx context.Context, by int) error {
	if wait := w.pace.wait(time.Now()); wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
	counters := &w.host.counters
	w.again = nil
	back, err := w.host.repair()
	if err == nil && len(back) == 0 {
		w.failed = ""
		counters.contest.Store(w.pace.slow(time.Now()))
		return nil
	}
	if errors.Is(err, ErrGone) {
		return err
	}
	contest := w.pace.made(time.Now())
	if len(back) > 0 {
		counters.repairs.Add(1)
		w.log.Warn("another program had taken away what aarptun has set; it is back", "back", back, who(by))
	}
	if err != nil {
		counters.failures.Add(1)
		w.again = time.After(max(slowFirst, w.pace.wait(time.Now())))
		if text := err.Error(); text != w.failed {
			w.failed = text
			w.log.Error("what another program has taken away cannot be put back; it is tried again, ever less often", "err", err, who(by))
		}
	} else {
		w.failed = ""
	}
	if contest && !counters.contest.Swap(true) {
		w.log.Error("another program takes away again and again what aarptun sets, so it is put back ever less often, and flows break meanwhile: have NetworkManager or systemd-networkd (ManageForeignRoutes=no, ManageForeignRoutingPolicyRules=no) leave it alone, or stop the script that does it",
			"device", w.host.name, "table", w.host.table, "in_the_last_minute", len(w.pace.recent), who(by))
	}
	return nil
}

// who names a process in the log, if one is known.
func who(by int) slog.Attr {
	if by == 0 {
		return slog.Attr{}
	}
	return slog.Int("by_process", by)
}

// pace says when the next repair may be made.
type pace struct {
	recent []time.Time   // repairs in the last burstIn, oldest first
	next   time.Time     // not before then
	delay  time.Duration // between the last two; 0 if there was no need for it
}

// wait is how long the next repair has to wait.
func (p *pace) wait(now time.Time) time.Duration { return max(0, p.next.Sub(now)) }

// slow reports whether repairs have to wait, and forgets those that are old.
func (p *pace) slow(now time.Time) bool {
	p.recent = slices.DeleteFunc(p.recent, func(t time.Time) bool { return now.Sub(t) >= burstIn })
	if len(p.recent) == 0 {
		p.delay, p.next = 0, time.Time{}
	}
	return p.delay > 0
}

// made counts a repair, and reports whether the next one has to wait.
func (p *pace) made(now time.Time) bool {
	p.slow(now)
	p.recent = append(p.recent, now)
	switch {
	case p.delay > 0:
		p.delay = min(2*p.delay, slowLast)
	case len(p.recent) >= burst:
		p.delay = slowFirst
	}
	p.next = now.Add(max(p.delay, apart))
	return p.delay > 0
}

package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"aarptun/internal/admin"
	"aarptun/nat"
)

// watch asks a daemon again and again how it is, and looks at what it says.
type watch struct {
	client *admin.Client
	uas    []netip.Addr // of all members

	polls  int
	bound  map[uint64]netip.Addr // flow to member, of the flows that are there
	memory []int64               // resident bytes, once a second
	flows  []int64               // how many there were, likewise
	most   admin.Status          // with the most flows
}

func newWatch(socket string, uas []netip.Addr) *watch {
	return &watch{client: admin.NewClient(socket), uas: uas, bound: map[uint64]netip.Addr{}}
}

const pollEvery = 250 * time.Millisecond

// until polls status, flows and pins until ctx ends. An answer that is not one,
// or that cannot be, is an error.
func (w *watch) until(ctx context.Context) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		// ctx ends between polls, not in them.
		if err := w.poll(context.WithoutCancel(ctx), i%4 == 0); err != nil {
			return fmt.Errorf("admin socket: %w", err)
		}
	}
}

func (w *watch) poll(ctx context.Context, sample bool) error {
	w.polls++
	status, err := w.client.Status(ctx)
	if err != nil {
		return err
	}
	if sample {
		w.memory = append(w.memory, status.ResidentBytes)
		w.flows = append(w.flows, int64(status.NAT.Flows))
	}
	if status.NAT.Flows > w.most.NAT.Flows {
		w.most = status
	}
	flows, err := w.client.Flows(ctx)
	if err != nil {
		return err
	}
	if err := w.look(flows.Flows); err != nil {
		return err
	}
	pins, err := w.client.Pins(ctx)
	if err != nil {
		return err
	}
	for _, pin := range pins.Pins {
		if !slices.Contains(w.uas, pin.Member) {
			return fmt.Errorf("a pin names %v: %+v", pin.Member, pin)
		}
	}
	return nil
}

// look wants each flow that has been answered to be with one of the members, and
// with the same as the last time.
func (w *watch) look(flows []nat.FlowInfo) error {
	bound := make(map[uint64]netip.Addr, len(flows))
	for _, f := range flows {
		if f.State < nat.Established {
			continue
		}
		if before, known := w.bound[f.ID]; known && before != f.Member {
			return fmt.Errorf("the flow was with %v, and is now: %+v", before, f)
		}
		if !slices.Contains(w.uas, f.Member) {
			return fmt.Errorf("a flow is with none of the members: %+v", f)
		}
		bound[f.ID] = f.Member
	}
	w.bound = bound
	return nil
}

// state is what must be the same before and after.
type state struct{ flows, goroutines, files int }

func (s state) String() string {
	return fmt.Sprintf("%d flows, %d goroutines, %d open files", s.flows, s.goroutines, s.files)
}

// now asks for the state and the memory.
func (w *watch) now(ctx context.Context) (state, admin.Status, error) {
	status, err := w.client.Status(ctx)
	return state{flows: status.NAT.Flows, goroutines: status.Goroutines, files: status.OpenFiles}, status, err
}

// settle waits until the state is what it was, for so long at most, and returns
// the last that was seen and how long it took.
func (w *watch) settle(ctx context.Context, want state, limit time.Duration) (got state, took time.Duration, err error) {
	began := time.Now()
	for {
		got, _, err = w.now(ctx)
		took = time.Since(began)
		if err != nil || got == want || took > limit {
			return got, took, err
		}
		time.Sleep(time.Second)
	}
}

// median of values, which are not changed; 0 for none.
func median(values []int64) int64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// fifth returns the i-th fifth of the values, from 0.
func fifth(values []int64, i int) []int64 {
	return values[len(values)*i/5 : len(values)*(i+1)/5]
}

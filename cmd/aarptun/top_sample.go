package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"aarptun/internal/admin"
	"aarptun/nat"
)

// mostFlows is how many flows are read at each look.
const mostFlows = 1000

// rate is bytes a second; negative while it is not known.
type rate float64

func (r rate) String() string {
	if r < 0 {
		return "-"
	}
	return bytesText(uint64(r))
}

// topFlow is a flow, and how fast it is.
type topFlow struct {
	nat.FlowInfo
	out, in rate
}

// total is what both directions carry.
func (f topFlow) total() rate { return f.out + f.in }

// sample is what was seen at one look.
type sample struct {
	at      time.Time
	err     error // there is nothing else then
	status  admin.Status
	out, in rate // of all flows
	flows   []topFlow
	total   int // of flows
	matched int
	pins    []admin.Pin
	members []admin.Member
}

// want is what is to be looked at.
type want struct {
	everything bool
	view       view
	flows      admin.FlowQuery
}

// sampler looks, and remembers the counters of one look for the rates of the next.
// It is used by one goroutine at a time.
type sampler struct {
	client *admin.Client
	every  time.Duration

	at      time.Time
	started time.Time // of the daemon: another one counts anew
	out, in uint64
	flows   map[uint64]nat.FlowInfo
}

func newSampler(client *admin.Client, every time.Duration) *sampler {
	return &sampler{client: client, every: every}
}

// look asks the daemon for what is wanted.
func (s *sampler) look(ctx context.Context, w want) (seen sample) {
	seen.at = time.Now()
	if seen.status, seen.err = s.client.Status(ctx); seen.err != nil {
		*s = sampler{client: s.client, every: s.every}
		return seen
	}
	var flows admin.Flows
	if w.everything || w.view == viewFlows {
		w.flows.Limit = mostFlows
		flows, seen.err = s.client.FlowsBy(ctx, w.flows)
	}
	if seen.err == nil && (w.everything || w.view == viewPins) {
		var pins admin.Pins
		pins, seen.err = s.client.Pins(ctx)
		seen.pins = pins.Pins
	}
	if seen.err == nil && (w.everything || w.view == viewMembers) {
		var members admin.Members
		members, seen.err = s.client.Members(ctx)
		seen.members = members.Members
	}
	if seen.err != nil {
		*s = sampler{client: s.client, every: s.every}
		return sample{at: seen.at, err: seen.err}
	}
	seen.total, seen.matched = flows.Total, flows.Matched
	s.measure(&seen, flows.Flows)
	return seen
}

// measure finds the rates.
func (s *sampler) measure(seen *sample, flows []nat.FlowInfo) {
	known := s.started.Equal(seen.status.Started) && !s.at.IsZero()
	passed := seen.at.Sub(s.at).Seconds()
	per := func(now, before uint64) rate {
		if !known || passed <= 0 || now < before {
			return -1
		}
		return rate(float64(now-before) / passed)
	}
	seen.out, seen.in = per(seen.status.NAT.BytesOut, s.out), per(seen.status.NAT.BytesIn, s.in)
	latest := make(map[uint64]nat.FlowInfo, len(flows))
	for _, f := range flows {
		latest[f.ID] = f
		t := topFlow{FlowInfo: f, out: -1, in: -1}
		// One that has begun since has carried all of it since.
		if before, ok := s.flows[f.ID]; ok || f.Started.After(s.at) {
			t.out, t.in = per(f.Sent, before.Sent), per(f.Got, before.Got)
		}
		seen.flows = append(seen.flows, t)
	}
	s.at, s.started, s.out, s.in = seen.at, seen.status.Started, seen.status.NAT.BytesOut, seen.status.NAT.BytesIn
	s.flows = latest
}

// flowSort is an order of flows. The daemon picks the flows by query; order does the
// rest, where it knows more.
type flowSort struct {
	name  string
	query admin.FlowQuery
	rates func(a, b topFlow) int
}

var flowSorts = []flowSort{
	{"rate", admin.FlowQuery{Sort: "active"}, func(a, b topFlow) int { return cmp.Compare(b.total(), a.total()) }},
	{"out", admin.FlowQuery{Sort: "out"}, nil}, {"in", admin.FlowQuery{Sort: "in"}, nil},
	{"active", admin.FlowQuery{Sort: "active"}, nil}, {"age", admin.FlowQuery{Sort: "age"}, nil},
	{"client", admin.FlowQuery{Sort: "client"}, nil}, {"anycast", admin.FlowQuery{Sort: "anycast"}, nil},
	{"member", admin.FlowQuery{Sort: "member"}, nil},
}

func (o flowSort) order(flows []topFlow, reverse bool) {
	if o.rates == nil {
		return
	}
	slices.SortStableFunc(flows, func(a, b topFlow) int {
		if reverse {
			a, b = b, a
		}
		return cmp.Or(o.rates(a, b), cmp.Compare(a.ID, b.ID))
	})
}

// jsonFlow is a flow for a script; a rate that is not known is left out.
type jsonFlow struct {
	nat.FlowInfo
	Out *float64 `json:"out_per_second,omitempty"`
	In  *float64 `json:"in_per_second,omitempty"`
}

// jsonSample is what --json prints. The rates are bytes of payload a second.
type jsonSample struct {
	Time    time.Time      `json:"time"`
	Status  admin.Status   `json:"status"`
	Out     *float64       `json:"out_per_second,omitempty"`
	In      *float64       `json:"in_per_second,omitempty"`
	Total   int            `json:"total"` // flows there are; the list has the most active
	Flows   []jsonFlow     `json:"flows"`
	Pins    []admin.Pin    `json:"pins"`
	Members []admin.Member `json:"members"`
}

func (s sample) json() jsonSample {
	known := func(r rate) *float64 {
		if r < 0 {
			return nil
		}
		f := float64(r)
		return &f
	}
	j := jsonSample{Time: s.at, Status: s.status, Out: known(s.out), In: known(s.in), Total: s.total, Flows: []jsonFlow{}, Pins: s.pins, Members: s.members}
	for _, f := range s.flows {
		j.Flows = append(j.Flows, jsonFlow{f.FlowInfo, known(f.out), known(f.in)})
	}
	return j
}

// print prints all three lists, as wide as they are.
func (s sample) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, line := range headLines(s, nil) {
		fmt.Fprintln(t, line)
	}
	for v := viewFlows; v < views; v++ {
		head, rows := tableOf(v, s, "")
		fmt.Fprintln(t)
		for _, row := range append([][]string{head}, rows...) {
			fmt.Fprintln(t, strings.Join(row, "\t"))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}

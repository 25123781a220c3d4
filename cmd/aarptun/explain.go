package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"text/tabwriter"
	"time"

	"aarptun/resolver"
)

// explained is what `aarptun resolve --explain --json` says of one method.
type explained struct {
	Anycast    netip.Addr       `json:"anycast"`
	Method     string           `json:"method"`
	Outcome    resolver.Outcome `json:"outcome"`
	Member     netip.Addr       `json:"member,omitzero"`
	Trust      string           `json:"trust,omitempty"`
	RTT        int64            `json:"rtt_us"` // microseconds
	SelfAnswer bool             `json:"self_answer,omitempty"`
	Why        string           `json:"why"`
}

// printExplained says what each method answers. The error is that no answer can
// be used.
func (a *asking) printExplained(ctx context.Context, w io.Writer, r *resolver.Resolver, aa netip.Addr) error {
	heard, err := r.Explain(ctx, aa)
	if a.json {
		for _, h := range heard {
			e := explained{Anycast: aa, Method: h.Method, Outcome: h.Outcome, Member: h.Member, RTT: h.RTT.Microseconds(), SelfAnswer: h.Self, Why: h.Why}
			if h.Trust != 0 {
				e.Trust = h.Trust.String()
			}
			err = errors.Join(err, printJSON(w, e))
		}
		return err
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "METHOD\tOUTCOME\tMEMBER\tTRUST\tRTT\tWHY")
	for _, h := range heard {
		trust, rtt := "-", "-"
		if h.Trust != 0 {
			trust = h.Trust.String()
		}
		if h.RTT > 0 {
			rtt = h.RTT.Round(time.Microsecond).String()
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", h.Method, h.Outcome, addrOrDash(h.Member), trust, rtt, h.Why)
	}
	return errors.Join(err, t.Flush())
}

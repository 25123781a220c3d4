package main

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"aarptun/resolver"
	"aarptun/tun"
)

// checkAnycast looks at one anycast address, from here to the member.
func (d *doctor) checkAnycast(c *cobra.Command, aa netip.Addr) error {
	d.checkWayToAnycast(aa)
	var heard []resolver.Heard
	err := d.asking.with(c, aa, func(ctx context.Context, r *resolver.Resolver) (err error) {
		heard, err = r.Explain(ctx, aa)
		return err
	})
	if len(heard) == 0 {
		d.say("probe", problem, "", "it could not be asked: %v", err)
		return c.Context().Err()
	}
	for _, h := range heard {
		switch h.Outcome {
		case resolver.Won:
			l := fine
			if h.Self {
				l = warning
			}
			d.say("probe", l, "", "%s: %v answers after %v, trust %v: %s", h.Method, h.Member, h.RTT.Round(time.Microsecond), h.Trust, h.Why)
			if !h.Self {
				d.checkWayToMember(h.Member)
			}
		case resolver.Lost:
			d.say("probe", fine, "", "%s: %v answers after %v: %s", h.Method, h.Member, h.RTT.Round(time.Microsecond), h.Why)
		case resolver.Draining:
			d.say("probe", warning, "", "%s: %v answers after %v: %s", h.Method, h.Member, h.RTT.Round(time.Microsecond), h.Why)
		case resolver.Refused:
			d.say("probe", warning, "", "%s: the answer %v is refused: %s", h.Method, h.Member, h.Why)
		default:
			d.say("probe", fine, "", "%s: %s: %s", h.Method, h.Outcome, h.Why)
		}
	}
	if err != nil {
		d.say("probe", problem, "aarptun member --help", "flows to it are refused: %v", err)
	}
	return nil
}

// checkWayToAnycast wants unmarked packets to go into the TUN of a daemon that
// carries aa, and marked ones past it.
func (d *doctor) checkWayToAnycast(aa netip.Addr) {
	carried := d.daemon != nil && slices.ContainsFunc(d.daemon.Prefixes, func(p netip.Prefix) bool { return p.Contains(aa) })
	plain, plainErr := tun.WayTo(aa, 0)
	marked, err := tun.WayTo(aa, d.asking.mark)
	switch {
	case carried && plainErr != nil:
		d.say("route", problem, "start the daemon again", "the daemon carries it, and there is no route into %s: %v", d.daemon.Device, plainErr)
	case carried && plain.Device != d.daemon.Device:
		d.say("route", problem, "ip rule; ip -6 rule", "the daemon carries it, and its packets leave by %s, not by %s: another rule or a more special one comes first", plain.Device, d.daemon.Device)
	case carried:
		d.say("route", fine, "", "flows are led into %s, from %v", plain.Device, plain.Source)
	case d.daemon != nil:
		d.say("route", warning, "aarptun run -p "+netip.PrefixFrom(aa, aa.BitLen()).String(), "the daemon does not carry it: it is in none of its prefixes")
	}
	switch {
	case err != nil:
		d.say("route", problem, "ip route get "+aa.String(), "there is no route for probes: %v", err)
	case d.daemon != nil && marked.Device == d.daemon.Device:
		d.say("route", problem, "aarptun doctor --help", "probes with mark %#x would be led back into %s: is the daemon's --fwmark another one?", d.asking.mark, marked.Device)
	default:
		d.say("route", fine, "", "probes leave by %s, from %v", marked.Device, marked.Source)
	}
}

// checkWayToMember wants no packet to a member to go into the TUN, marked or
// not.
func (d *doctor) checkWayToMember(ua netip.Addr) {
	for _, mark := range []uint32{d.asking.mark, 0} {
		way, err := tun.WayTo(ua, mark)
		switch {
		case err != nil:
			d.say("member route", problem, "ip route get "+ua.String(), "there is no route to the member: %v", err)
			return
		case d.daemon != nil && way.Device == d.daemon.Device:
			d.say("member route", problem, "aarptun run with a prefix that does not hold it", "the member %v would be reached through %s, in a loop", ua, way.Device)
			return
		case mark == d.asking.mark:
			d.say("member route", fine, "", "the member %v is reached by %s, from %v", ua, way.Device, way.Source)
		}
	}
}

package main

import (
	"net/netip"
	"slices"

	"github.com/spf13/pflag"

	"aarptun/internal/config"
	"aarptun/nat"
)

// filter says which flows are shown: those of a client that is named and to an
// anycast address that is named; where none is, all are.
type filter struct{ clients, anycasts []netip.Prefix }

func (f *filter) addFlags(flags *pflag.FlagSet) {
	flags.Var(config.Prefixes(&f.clients), "client", "only flows of this client address, or of those in this prefix; may be repeated")
	flags.Var(config.Prefixes(&f.anycasts), "anycast", "only flows to this anycast address, or to those in this prefix; may be repeated")
}

// of returns the flows that are to be shown.
func (f *filter) of(flows []nat.FlowInfo) []nat.FlowInfo {
	return slices.DeleteFunc(flows, func(flow nat.FlowInfo) bool {
		return !named(f.clients, flow.Client.Addr()) || !named(f.anycasts, flow.Anycast.Addr())
	})
}

func named(list []netip.Prefix, a netip.Addr) bool {
	return len(list) == 0 || slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a.WithZone("")) })
}

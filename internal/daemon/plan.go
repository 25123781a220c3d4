package daemon

import (
	"crypto/sha256"
	"encoding/json"
	"net/netip"
	"slices"

	"aarptun/internal/config"
	"aarptun/nat"
	"aarptun/resolver"
	"aarptun/resolver/member"
)

// plan is what the rooms are told of a configuration, as far as they can be told
// something else while they run.
type plan struct {
	cfg    config.Config
	rings  []member.Keyring
	rules  resolver.Rules
	limits nat.Limits
	led    []netip.Prefix // into the device: the configured ones, and those that are passing
}

// newPlan makes a plan and reads the key files for it. passing are prefixes that
// are led here still and are not asked for.
func newPlan(cfg config.Config, passing []netip.Prefix) (plan, error) {
	p := plan{cfg: cfg, limits: limitsOf(cfg), led: slices.Concat(cfg.Prefixes, passing)}
	var err error
	if p.rings, err = ringsOf(cfg); err != nil {
		return p, err
	}
	p.rules = resolver.Rules{Static: cfg.Static, TTL: cfg.CacheTTL, Passing: passing}
	for i, prefix := range cfg.Prefixes {
		p.rules.Policies = append(p.rules.Policies, resolver.Policy{
			Prefix: prefix, Members: cfg.MemberPrefixes.For(prefix), Proof: proofOf(p.rings[i]),
			Unresolved: unresolveds[cfg.Unresolved.For(prefix)], Keys: digestOf(p.rings[i]),
		})
	}
	return p, nil
}

// ringsOf returns the keys of each prefix.
func ringsOf(cfg config.Config) (rings []member.Keyring, err error) {
	for _, prefix := range cfg.Prefixes {
		ring := member.Keyring{Prefix: prefix, Public: cfg.PublicKeys.For(prefix)}
		if path := cfg.PSKFiles.For(prefix); path != "" {
			if ring.PSKs, err = member.ReadPSKs(path); err != nil {
				return nil, err
			}
		}
		rings = append(rings, ring)
	}
	return rings, nil
}

// proofOf is what answers must be proved by.
func proofOf(ring member.Keyring) resolver.Trust {
	switch {
	case len(ring.Public) > 0:
		return resolver.Ed25519
	case len(ring.PSKs) > 0:
		return resolver.PSK
	}
	return 0
}

// digestOf stands for the keys by which answers are believed: the first shared
// one, and all public ones.
func digestOf(ring member.Keyring) [sha256.Size]byte {
	text, _ := json.Marshal([]any{ring.PSKs[:min(len(ring.PSKs), 1)], ring.Public}) // strings and bytes always can be
	return sha256.Sum256(text)
}

// limitsOf are the limits that the configuration asks for, or what the open
// files of the process leave of them.
func limitsOf(cfg config.Config) nat.Limits { return askedLimits(cfg).For(mayOpen()) }

func askedLimits(cfg config.Config) nat.Limits {
	l := cfg.Limits
	return nat.Limits{
		Flows: l.Flows, FlowsPerClient: l.FlowsPerClient, FlowsPerNetwork: l.FlowsPerNetwork, UDPFlows: l.UDPFlows,
		Opening: l.Opening, OpeningPerClient: l.OpeningPerClient, OpeningPerNetwork: l.OpeningPerNetwork, OpeningPerAnycast: l.OpeningPerAnycast,
		EchoesPerSecond: l.EchoesPerSecond, UDPFlowsPerSecond: l.UDPFlowsPerSecond,
	}
}

// tell has the rooms follow a plan. Nothing that can fail is left to the last
// but the routes, which put themselves back when they do.
func (h *house) tell(p plan) error {
	if h.member != nil {
		if err := h.member.SetRings(p.rings); err != nil {
			return err
		}
	}
	if err := h.resolver.SetRules(p.rules); err != nil {
		return err
	}
	if err := h.translator.SetLimits(p.limits); err != nil {
		return err
	}
	if err := h.offload.setPrefixes(p.led); err != nil {
		return err
	}
	h.stack.SetPrefixes(p.led)
	return h.host.AddPrefixes(p.led)
}

package resolver

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Rules are what of a Resolver can be replaced while it runs.
type Rules struct {
	Policies []Policy
	// Static names members that are not probed, in order of preference.
	Static map[netip.Addr][]netip.Addr
	// Passing are prefixes that still lead here and are not to be resolved any
	// more: new flows to them go to the address itself, unasked and unpinned, as
	// they would without us.
	Passing []netip.Prefix
	TTL     time.Duration // life of a pin, more than 0
}

func (r *Rules) validate() error {
	for _, p := range r.Policies {
		if err := p.validate(); err != nil {
			return err
		}
	}
	switch {
	case len(r.Policies) == 0:
		return errors.New("resolver: no anycast prefix to resolve")
	case r.TTL <= 0:
		return fmt.Errorf("resolver: TTL %v must be positive", r.TTL)
	}
	return nil
}

// own returns a copy that nobody changes, with the longest prefix first.
func (r *Rules) own() *Rules {
	own := &Rules{Policies: slices.Clone(r.Policies), Static: maps.Clone(r.Static), Passing: slices.Clone(r.Passing), TTL: r.TTL}
	slices.SortStableFunc(own.Policies, func(a, b Policy) int { return cmp.Compare(b.Prefix.Bits(), a.Prefix.Bits()) })
	return own
}

// policyFor returns the policy of the longest prefix that contains aa.
func (r *Rules) policyFor(aa netip.Addr) (Policy, bool) {
	i := slices.IndexFunc(r.Policies, func(p Policy) bool { return p.Prefix.Contains(aa) })
	if i < 0 {
		return Policy{}, false
	}
	return r.Policies[i], true
}

// passes reports whether flows to aa go to aa itself.
func (r *Rules) passes(aa netip.Addr) bool {
	if len(r.Passing) == 0 {
		return false
	}
	_, resolved := r.policyFor(aa)
	return !resolved && slices.ContainsFunc(r.Passing, func(p netip.Prefix) bool { return p.Contains(aa) })
}

// carries reports whether packets of ours to a lead here.
func (r *Rules) carries(a netip.Addr) bool {
	p, resolved := r.policyFor(a)
	return resolved && !p.passes() || r.passes(a)
}

// passing is the pin of an address that flows are carried on to. It is not kept.
func passing(aa netip.Addr, now time.Time) Pin {
	return Pin{Anycast: aa, Member: aa, Method: "passing", Trust: Nonce, SelfAnswer: true, Learned: now, Expires: now.Add(time.Second)}
}

// SetRules replaces the rules, or returns an error that says what is wrong with
// them. Pins and failures that other rules have led to are forgotten, and what
// is being asked is asked again; pins live no longer than the new TTL.
func (r *Resolver) SetRules(rules Rules) error {
	if err := rules.validate(); err != nil {
		return err
	}
	now := rules.own()
	c := &r.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	before := r.rules.Swap(now)
	for aa, g := range c.groups {
		if !now.sameFor(before, aa) {
			delete(c.groups, aa)
			continue
		}
		g.shorten(now.TTL)
	}
	for key := range c.pins {
		if c.groups[key.anycast] == nil {
			delete(c.pins, key)
		}
	}
	r.tellChange()
	return nil
}

// sameFor reports whether both rules lead to the same pins of aa.
func (r *Rules) sameFor(other *Rules, aa netip.Addr) bool {
	p, ok := r.policyFor(aa)
	q, otherOK := other.policyFor(aa)
	return ok && otherOK && p.Prefix == q.Prefix && p.Proof == q.Proof && p.Unresolved == q.Unresolved && p.Keys == q.Keys &&
		slices.Equal(p.Members, q.Members) && slices.Equal(r.Static[aa], other.Static[aa])
}

// shorten has no member of the group live for longer than ttl.
func (g *group) shorten(ttl time.Duration) {
	members := slices.Clone(g.members)
	for i := range members {
		if end := members[i].Learned.Add(ttl); end.Before(members[i].Expires) {
			members[i].Expires = end
			if g.renewAt.After(end) {
				g.renewAt = end
			}
		}
	}
	g.members = members
}

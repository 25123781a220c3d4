package resolver

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Pins returns where new flows would go now, sorted by anycast address: one
// member for each where [Host] is sticky, one for each client with [Source],
// and all that are in turn with [Flow].
func (r *Resolver) Pins() []Pin {
	pins := r.cache.list(&r.selector, time.Now())
	slices.SortFunc(pins, func(a, b Pin) int {
		return cmp.Or(a.Anycast.Compare(b.Anycast), a.Client.Compare(b.Client), a.Member.Compare(b.Member))
	})
	return pins
}

// Changed tells that [Resolver.Pins] may return others than before: one was
// found, renewed or taken back. One notice stands for all since the last that was
// taken. That a pin has expired is no change.
func (r *Resolver) Changed() <-chan struct{} { return r.changed }

func (r *Resolver) tellChange() {
	select {
	case r.changed <- struct{}{}:
	default: // one waits already
	}
}

func (c *cache) list(s *selector, now time.Time) []Pin {
	c.mu.RLock()
	defer c.mu.RUnlock()
	pins := []Pin{}
	if s.sticky == Source {
		for key, kept := range c.pins {
			g := c.groups[key.anycast]
			if g == nil {
				continue
			}
			if k := memberIn(g.members, kept.member); k != nil {
				if pin, ok := usable(s, g, k, now); ok {
					pin.Client = key.client
					pins = append(pins, pin)
				}
			}
		}
		return pins
	}
	for _, g := range c.groups {
		pins = append(pins, g.current(s, now)...)
	}
	return pins
}

// current returns the members that the next flow may go to.
func (g *group) current(s *selector, now time.Time) []Pin {
	for _, want := range [...]standing{good, returned, old} {
		if s.sticky == Host || s.how != Spread {
			if k := s.choose(g, netip.Addr{}, now, want); k != nil {
				if pin, ok := usable(s, g, k, now); ok {
					return []Pin{pin}
				}
			}
			continue
		}
		var pins []Pin
		for i := range g.members {
			if k := &g.members[i]; k.standing(now, s.stale) == want {
				if pin, ok := usable(s, g, k, now); ok {
					pins = append(pins, pin)
				}
			}
		}
		if len(pins) > 0 {
			return pins
		}
	}
	return nil
}

// usable returns k as a look-up would; an expired one serves only while nobody
// answers.
func usable(s *selector, g *group, k *known, now time.Time) (Pin, bool) {
	pin := k.Pin
	pin.Renew = g.renewAt
	switch k.standing(now, s.stale) {
	case good, returned:
		return pin, true
	case old:
		pin.Stale = true
		return pin, g.err != nil && isSilence(g.err)
	}
	return pin, false
}

// MethodOf returns how ua was found to be a member of aa: the prober's name, or
// "static". It is "" if that is not known, or not any more.
func (r *Resolver) MethodOf(aa, ua netip.Addr) string {
	r.cache.mu.RLock()
	defer r.cache.mu.RUnlock()
	if g := r.cache.groups[aa]; g != nil {
		if k := memberIn(g.members, ua); k != nil {
			return k.Method
		}
	}
	return ""
}

package resolver

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// entry is a pin or, with err set, a failure to get one.
type entry struct {
	pin     Pin
	err     error
	expires time.Time
	renewAt time.Time // from then on a look-up renews the pin
}

// cache holds a bounded number of entries. An expired entry is dropped when
// its room is wanted.
type cache struct {
	max int

	mu      sync.RWMutex
	entries map[netip.Addr]entry
	warned  map[netip.Addr]struct{} // self-answers that were told of
}

func newCache(n int) cache {
	return cache{max: n, entries: make(map[netip.Addr]entry), warned: make(map[netip.Addr]struct{})}
}

func (c *cache) get(aa netip.Addr, now time.Time) (entry, bool) {
	c.mu.RLock()
	e, ok := c.entries[aa]
	c.mu.RUnlock()
	return e, ok && now.Before(e.expires)
}

// put reports false when every place is taken by an entry that is alive. The
// entry is then not kept, which costs its flows a probe each.
func (c *cache) put(aa netip.Addr, e entry, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.entries[aa]; !ok && len(c.entries) >= c.max {
		for other, old := range c.entries {
			if !now.Before(old.expires) {
				delete(c.entries, other)
			}
		}
		if len(c.entries) >= c.max {
			return false
		}
	}
	c.entries[aa] = e
	return true
}

// claimRenewal lets one caller renew a pin and holds the others off until
// then.
func (c *cache) claimRenewal(aa netip.Addr, until time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[aa]
	if !ok || e.err != nil || !time.Now().After(e.renewAt) {
		return false
	}
	e.renewAt = until
	c.entries[aa] = e
	return true
}

func (c *cache) drop(aa netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, aa)
}

func (c *cache) dropMember(aa, ua netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries[aa]; ok && e.err == nil && e.pin.Member == ua {
		delete(c.entries, aa)
	}
}

func (c *cache) pins(now time.Time) []Pin {
	c.mu.RLock()
	defer c.mu.RUnlock()
	pins := make([]Pin, 0, len(c.entries))
	for _, e := range c.entries {
		if e.err == nil && now.Before(e.expires) {
			pins = append(pins, e.pin)
		}
	}
	return pins
}

// firstWarning reports true once for an address, for as many as are kept.
func (c *cache) firstWarning(aa netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.warned[aa]; ok || len(c.warned) >= c.max {
		return false
	}
	c.warned[aa] = struct{}{}
	return true
}

// statics are the members named in the configuration. The list of an address
// is turned when its first member is suspected.
type statics struct {
	mu      sync.Mutex
	members map[netip.Addr][]netip.Addr
}

func newStatics(given map[netip.Addr][]netip.Addr) statics {
	members := make(map[netip.Addr][]netip.Addr, len(given))
	for aa, uas := range given {
		members[aa] = slices.Clone(uas)
	}
	return statics{members: members}
}

func (s *statics) current(aa netip.Addr) (netip.Addr, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if uas := s.members[aa]; len(uas) > 0 {
		return uas[0], true
	}
	return netip.Addr{}, false
}

func (s *statics) rotate(aa, ua netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if uas := s.members[aa]; len(uas) > 1 && uas[0] == ua {
		s.members[aa] = append(slices.Clone(uas[1:]), ua)
	}
}

package resolver

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxMembers bounds the members kept of one anycast address.
	maxMembers = 64

	// suspectFor is how long a member that did not take a flow is passed over
	// when another is known, even if it answers probes.
	suspectFor = 10 * time.Second
)

// known is a member of a set.
type known struct {
	Pin
	suspected time.Time // when it last did not take a flow; zero if never
}

// standing is what a member can be used for.
type standing uint8

const (
	gone     standing = iota
	old               // expired, yet it may serve while nobody answers
	returned          // suspected, and has answered a probe since
	good
)

func (k *known) standing(now time.Time, stale time.Duration) standing {
	alive := now.Before(k.Expires)
	switch {
	case k.suspected.IsZero(), k.Learned.After(k.suspected) && now.After(k.suspected.Add(suspectFor)):
		if alive {
			return good
		}
		if now.Before(k.Expires.Add(stale)) {
			return old
		}
	case alive && k.Learned.After(k.suspected):
		return returned
	}
	return gone
}

// group is what is known of one anycast address: its member set, or why there
// is none. The cache's lock guards it; only turn may be used without.
type group struct {
	members  []known       // latest answer first; never changed, only replaced
	chosen   netip.Addr    // by RTT, or by Spread for the host, when the set was renewed
	turn     atomic.Uint32 // counts Spread's choices for flows
	err      error         // of the last probe
	errUntil time.Time     // until then err is an answer
	renewAt  time.Time     // from then on a look-up renews the set
	asked    time.Time     // when the last probe ended
}

// live says whether the group is of use for more than stale answers.
func (g *group) live(now time.Time) bool {
	if now.Before(g.errUntil) {
		return true
	}
	for i := range g.members {
		if now.Before(g.members[i].Expires) {
			return true
		}
	}
	return false
}

// learn puts what a probe has found before what was known, which stays for as
// long as it can be of use.
func (g *group) learn(pins []Pin, now time.Time, stale time.Duration) {
	members := make([]known, 0, len(pins)+len(g.members))
	for _, pin := range pins {
		k := known{Pin: pin}
		if before := memberIn(g.members, pin.Member); before != nil {
			k.suspected = before.suspected
		}
		members = append(members, k)
	}
	for _, k := range g.members {
		if len(members) < maxMembers && memberIn(members, k.Member) == nil && now.Before(k.Expires.Add(stale)) {
			members = append(members, k)
		}
	}
	shortest := pins[0].Expires
	for _, pin := range pins {
		if pin.Expires.Before(shortest) {
			shortest = pin.Expires
		}
	}
	g.members, g.err, g.errUntil, g.asked = members, nil, time.Time{}, now
	g.renewAt = shortest.Add(-shortest.Sub(now) / renewPart)
}

func memberIn(members []known, ua netip.Addr) *known {
	for i := range members {
		if members[i].Member == ua {
			return &members[i]
		}
	}
	return nil
}

// pinKey is whose pin it is.
type pinKey struct{ client, anycast netip.Addr }

// clientPin is the member that a client is kept on.
type clientPin struct {
	member  netip.Addr
	expires time.Time // from then on its room may be taken
}

// cache holds a bounded number of groups and of clients' pins. One that is
// expired is dropped when its room is wanted.
type cache struct {
	max int

	mu     sync.RWMutex
	groups map[netip.Addr]*group
	pins   map[pinKey]clientPin
	warned map[netip.Addr]struct{} // self-answers that were told of

	responders map[netip.Addr]time.Time // when one was heard; see [cache.responds]
}

func newCache(n int) cache {
	return cache{max: n, groups: make(map[netip.Addr]*group), pins: make(map[pinKey]clientPin), warned: make(map[netip.Addr]struct{}), responders: make(map[netip.Addr]time.Time)}
}

// group returns the group of aa, a new one if need be, or nil when every place
// is taken by one that is alive. The lock must be held.
func (c *cache) group(aa netip.Addr, now time.Time) *group {
	if g := c.groups[aa]; g != nil {
		return g
	}
	if len(c.groups) >= c.max {
		for other, g := range c.groups {
			if !g.live(now) {
				delete(c.groups, other)
			}
		}
		if len(c.groups) >= c.max {
			return nil
		}
	}
	g := &group{}
	c.groups[aa] = g
	return g
}

// keep remembers a client's member. It reports false when there is no room:
// the client's next flow then chooses anew.
func (c *cache) keep(key pinKey, pin clientPin, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.pins[key]; !ok && len(c.pins) >= c.max {
		for other, p := range c.pins {
			if !now.Before(p.expires) {
				delete(c.pins, other)
			}
		}
		if len(c.pins) >= c.max {
			return false
		}
	}
	c.pins[key] = pin
	return true
}

// claimRenewal lets one caller renew a set and holds the others off until then.
func (c *cache) claimRenewal(aa netip.Addr, now, until time.Time) (asked time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.groups[aa]
	if g == nil || !now.After(g.renewAt) {
		return time.Time{}, false
	}
	g.renewAt = until
	return g.asked, true
}

// askedSince says whether a probe of aa has ended after t.
func (c *cache) askedSince(aa netip.Addr, t time.Time) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	g := c.groups[aa]
	return g != nil && g.asked.After(t)
}

func (c *cache) drop(aa netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.groups, aa)
	delete(c.responders, aa)
	for key := range c.pins {
		if key.anycast == aa {
			delete(c.pins, key)
		}
	}
}

// dropAll forgets everything but what was warned of.
func (c *cache) dropAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.groups)
	clear(c.responders)
	clear(c.pins)
}

// suspect says that ua did not take a flow. What is expired of it is no longer
// of use either.
func (c *cache) suspect(aa, ua netip.Addr, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.groups[aa]
	if g == nil || memberIn(g.members, ua) == nil {
		return
	}
	members := append([]known(nil), g.members...)
	memberIn(members, ua).suspected = now
	g.members = members
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

package resolver

import (
	"net/netip"
	"time"
)

// respondsFor is how long a responder is taken to be there after its last
// answer. For so long an echo that AA answers from itself is no answer: what
// the responder says, or that it is silent, counts. A responder that is taken
// away for good leaves its AA unresolved for so long.
const respondsFor = 10 * time.Minute

// heardResponder notes that a responder of aa has answered. It reports false
// when there is no room: a self-answer of that address may then be used.
func (c *cache) heardResponder(aa netip.Addr, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.responders[aa]; !ok && len(c.responders) >= c.max {
		for other, heard := range c.responders {
			if now.Sub(heard) >= respondsFor {
				delete(c.responders, other)
			}
		}
		if len(c.responders) >= c.max {
			return false
		}
	}
	c.responders[aa] = now
	return true
}

// responds says whether aa is known to have a responder.
func (c *cache) responds(aa netip.Addr, now time.Time) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	heard, ok := c.responders[aa]
	return ok && now.Sub(heard) < respondsFor
}

// retire drops a member that takes no new flows: it is of no further use, not
// even while nobody answers. It comes back by its next answer.
func (c *cache) retire(aa, ua netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.groups[aa]
	if g == nil || memberIn(g.members, ua) == nil {
		return
	}
	members := make([]known, 0, len(g.members)-1)
	for _, k := range g.members {
		if k.Member != ua {
			members = append(members, k)
		}
	}
	g.members = members
}

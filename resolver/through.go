package resolver

import (
	"errors"
	"net/netip"
	"slices"
	"time"
)

// Where every address is asked, as the draft does, nearly all of them are
// ordinary ones, and each first flow to one waits for what the probe says. An
// address that answers echo requests costs one round trip. One that drops them,
// as many servers do, costs throughTimeout, and is then known for throughFor;
// while it is in use it is asked again in the background only.
const (
	// throughTimeout is how long an address has to answer: the longest round trip
	// on Earth, but for satellites, or a repetition after a loss nearby.
	throughTimeout = 300 * time.Millisecond
	throughFor     = 5 * time.Minute

	// A self-answer waits for what a responder may say, which was asked at the
	// same time by the same path: half as long again as the echo took, and this
	// much for a host that is busy.
	throughSelfWait = 20 * time.Millisecond

	// noMethod is the method of a pin that nobody has answered for.
	noMethod = "none"
)

// passes says whether an address that is not resolved is used itself.
func (p Policy) passes() bool { return p.Unresolved == Through || p.Unresolved == Straight }

// isStraight says whether aa is used without being asked.
func (r *Rules) isStraight(aa netip.Addr) bool {
	policy, ok := r.policyFor(aa)
	return ok && policy.Unresolved == Straight
}

// patienceFor is how long an answer is waited for.
func (r *Resolver) patienceFor(p Policy) time.Duration {
	if p.passes() {
		return min(throughTimeout, r.probeTimeout)
	}
	return r.probeTimeout
}

// selfWait is how long a self-answer that took rtt waits for a better one.
func (q *inquiry) selfWait(rtt time.Duration) time.Duration {
	if q.through {
		return min(rtt/2+throughSelfWait, selfWait)
	}
	return selfWait
}

// isPassable says whether a failure means that the address is likely to be no
// anycast address. One whose members are known and drain is none of those.
func isPassable(err error) bool {
	return !errors.Is(err, ErrDraining) && !errors.Is(err, errUnnamed)
}

// pinThrough says that aa is used itself.
func (r *Resolver) pinThrough(aa netip.Addr, method string, rtt time.Duration) Pin {
	now := time.Now()
	return Pin{Anycast: aa, Member: aa, Method: method, Trust: Nonce, SelfAnswer: true, RTT: rtt, Learned: now, Expires: now.Add(throughFor)}
}

// hasMember says whether a member of aa, not itself, is known that could still be
// of use.
func (c *cache) hasMember(aa netip.Addr, now time.Time, stale time.Duration) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	g := c.groups[aa]
	return g != nil && slices.ContainsFunc(g.members, func(k known) bool { return k.Member != aa && now.Before(k.Expires.Add(stale)) })
}

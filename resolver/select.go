package resolver

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// Sticky is for whom a choice of a member holds.
type Sticky uint8

// The ways to be sticky.
const (
	// Host: all of this host's new flows to an AA go to one member.
	Host Sticky = iota
	// Source: those of one client address do, and it keeps its member for as
	// long as that is known to be alive.
	Source
	// Flow: each new flow chooses anew among the known members.
	Flow
)

// String returns the way as it stands in messages.
func (s Sticky) String() string {
	if int(s) < len(stickies) {
		return stickies[s]
	}
	return fmt.Sprintf("sticky(%d)", uint8(s))
}

var stickies = [...]string{"host", "source", "flow"}

// Select is which member of a set is chosen.
type Select uint8

// The ways to select.
const (
	// First: the one that answered last. No further members are looked for,
	// and one that was seen before is used when it fails.
	First Select = iota
	// RTT: the nearest.
	RTT
	// Spread: all of them alike.
	Spread
)

// String returns the way as it stands in messages.
func (s Select) String() string {
	if int(s) < len(selects) {
		return selects[s]
	}
	return fmt.Sprintf("select(%d)", uint8(s))
}

var selects = [...]string{"first", "rtt", "spread"}

// Another member is nearer only if its RTT is shorter by a fifth and by this
// much; less is noise, and to follow it would make the choice flap.
const (
	nearerPart = 5
	nearerBy   = 500 * time.Microsecond
)

// selector chooses members.
type selector struct {
	sticky Sticky
	how    Select
	stale  time.Duration
	host   netip.Addr // random: stands for all clients where sticky is Host
}

func newSelector(sticky Sticky, how Select, stale time.Duration) selector {
	var id [16]byte
	_, _ = rand.Read(id[:]) // crypto/rand never fails (Go 1.24)
	return selector{sticky: sticky, how: how, stale: stale, host: netip.AddrFrom16(id)}
}

// choose returns the member of g with the wanted standing, or nil. The
// cache's lock must be held, at least for reading.
func (s *selector) choose(g *group, client netip.Addr, now time.Time, want standing) *known {
	switch {
	case s.how == RTT:
		return s.chooseNearest(g, now, want)
	case s.how == Spread && s.sticky == Flow:
		return s.chooseNext(g, now, want)
	case s.how == Spread && s.sticky == Host:
		if k := memberIn(g.members, g.chosen); k != nil && k.standing(now, s.stale) == want {
			return k
		}
		return s.chooseByHash(g, s.host, now, want)
	case s.how == Spread:
		return s.chooseByHash(g, client, now, want)
	}
	for i := range g.members {
		if k := &g.members[i]; k.standing(now, s.stale) == want {
			return k
		}
	}
	return nil
}

// chooseNearest keeps to what [selector.rankNearest] chose, if it can.
func (s *selector) chooseNearest(g *group, now time.Time, want standing) *known {
	var best *known
	for i := range g.members {
		k := &g.members[i]
		if k.standing(now, s.stale) != want {
			continue
		}
		if k.Member == g.chosen {
			return k
		}
		if best == nil || nearer(k, best) {
			best = k
		}
	}
	return best
}

// nearer compares RTTs; one that was not measured is the longest.
func nearer(a, b *known) bool { return a.RTT > 0 && (b.RTT == 0 || a.RTT < b.RTT) }

// rank chooses for a set that has just been renewed what need not be chosen at
// each look-up.
func (s *selector) rank(g *group, now time.Time) {
	switch {
	case s.how == RTT:
		s.rankNearest(g, now)
	case s.how == Spread && s.sticky == Host:
		if k := s.chooseByHash(g, s.host, now, good); k != nil {
			g.chosen = k.Member
		}
	}
}

func (s *selector) rankNearest(g *group, now time.Time) {
	var best, current *known
	for i := range g.members {
		k := &g.members[i]
		if k.standing(now, s.stale) != good {
			continue
		}
		if k.Member == g.chosen {
			current = k
		}
		if best == nil || nearer(k, best) {
			best = k
		}
	}
	switch {
	case best == nil:
	case current == nil, nearer(best, current) && current.RTT == 0,
		current.RTT-best.RTT > max(current.RTT/nearerPart, nearerBy):
		g.chosen = best.Member
	}
}

// chooseNext takes turns.
func (s *selector) chooseNext(g *group, now time.Time, want standing) *known {
	var n uint32
	for i := range g.members {
		if g.members[i].standing(now, s.stale) == want {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	turn := g.turn.Add(1) % n
	for i := range g.members {
		if g.members[i].standing(now, s.stale) != want {
			continue
		}
		if turn == 0 {
			return &g.members[i]
		}
		turn--
	}
	return nil
}

// chooseByHash is rendezvous hashing: a client has the same member on every
// host that asks and after every restart, and a member that comes or goes moves
// no more clients than it must.
func (s *selector) chooseByHash(g *group, client netip.Addr, now time.Time, want standing) *known {
	var best *known
	var most uint64
	for i := range g.members {
		k := &g.members[i]
		if k.standing(now, s.stale) != want {
			continue
		}
		if score := rendezvous(client, k.Anycast, k.Member); best == nil || score > most {
			best, most = k, score
		}
	}
	return best
}

func rendezvous(client, aa, ua netip.Addr) uint64 {
	var b [3 * 16]byte
	for i, a := range []netip.Addr{client, aa, ua} {
		if a.IsValid() {
			wide := a.As16()
			copy(b[16*i:], wide[:])
		}
	}
	sum := sha256.Sum256(b[:])
	return binary.BigEndian.Uint64(sum[:])
}

// found is what the cache says about one look-up.
type found struct {
	pin   Pin
	err   error
	ok    bool // pin or err is the answer
	stale bool // pin is past its time
	renew bool // and it is time to probe again
	keep  bool // the client is to be kept on it
}

// find looks aa up. It waits for nobody.
func (c *cache) find(s *selector, client, aa netip.Addr, now time.Time) (f found) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	g := c.groups[aa]
	if g == nil {
		return found{}
	}
	f.renew = now.After(g.renewAt)
	var kept netip.Addr
	if s.sticky == Source {
		kept = c.pins[pinKey{client, aa}].member
	}
	for _, want := range [...]standing{good, returned} {
		k := memberIn(g.members, kept)
		if k == nil || k.standing(now, s.stale) != want {
			k = s.choose(g, client, now, want)
		}
		if k != nil {
			f.pin, f.ok = k.Pin, true
			f.keep = s.sticky == Source && (k.Member != kept || !now.Before(c.pins[pinKey{client, aa}].expires))
			return f
		}
	}
	silent := g.err != nil && isSilence(g.err)
	if silent && s.stale > 0 {
		if k := s.choose(g, client, now, old); k != nil {
			f.pin, f.ok, f.stale = k.Pin, true, true
			return f
		}
	}
	if now.Before(g.errUntil) {
		return found{err: g.err, ok: true}
	}
	return found{}
}

package member

import (
	"context"
	"errors"
	"net/netip"
	"sync"

	"github.com/pion/stun/v3"
)

// maxConfirms bounds how many hosts one probe asks to confirm, so that whoever
// names many has not many asked.
const maxConfirms = 8

// step is what an answer makes of the wait for a better one.
type step uint8

const (
	waitOn    step = iota // it goes on
	timeOut               // its time is over
	otherLane             // a member that takes no new flows was reached: another one may be, from another port
	done                  // this answer is the one
)

// naming is one probe's answers as far as they name members. A host that is
// named without proof is asked whether it is one, side by side with the wait
// for other answers: whoever names one that does not confirm, or that is not
// believed, has not ended the question. It belongs to the goroutine that
// probes.
type naming struct {
	prober  *Prober
	ctx     context.Context // of the probe
	aa      netip.Addr
	lane    int
	believe func(Found) bool

	// Where there is proof there are no confirmations, and these are nil.
	confirming context.Context
	cancel     func()
	confirmed  chan confirmation // has room for all
	hosts      map[netip.Addr]standing
	asked      int // hosts, to confirm
	waiting    int // confirmations under way
	wg         sync.WaitGroup
}

// standing is what has become of a host that was named without proof.
type standing uint8

const (
	unknown    standing = iota
	waits               // for its confirmation
	drains              // it says so itself
	unbelieved          // it has confirmed, and the caller wants it not
)

// confirmation is what a host says that was named in an answer.
type confirmation struct {
	named    Found
	draining bool
	err      error
}

// take looks at an answer that has passed the check.
func (n *naming) take(found Found) step {
	if found.Proof > ProofNonce || found.UA == n.aa {
		return n.decide(found)
	}
	// Nobody vouches for this answer. The host that it names must at least
	// know of AA, or anybody on the path could turn our flows on anyone.
	switch s := n.hosts[found.UA]; {
	case s == drains && found.Draining:
		return otherLane
	case s == waits, s == unbelieved:
		return waitOn
	case n.asked == maxConfirms:
		n.prober.refuse(n.aa, found.UA, RefusedMany)
		return waitOn
	}
	if n.confirmed == nil {
		n.confirmed = make(chan confirmation, maxConfirms)
		n.confirming, n.cancel = context.WithCancel(n.ctx)
	}
	n.mark(found.UA, waits)
	n.asked++
	n.waiting++
	n.prober.stats.confirms.Add(1)
	q := question{kind: stun.BindingSuccess, to: netip.AddrPortFrom(found.UA, n.prober.port), aa: n.aa, ring: n.prober.ringFor(n.aa)}
	n.wg.Go(func() {
		said, err := n.prober.ask(n.confirming, q, n.lane, nil)
		n.confirmed <- confirmation{found, said.Draining, err}
	})
	return waitOn
}

func (n *naming) mark(ua netip.Addr, s standing) {
	if n.hosts == nil {
		n.hosts = make(map[netip.Addr]standing)
	}
	n.hosts[ua] = s
}

// settle looks at what a host has said that was asked to confirm. It knows
// best itself whether it drains.
func (n *naming) settle(c confirmation) (Found, step) {
	n.waiting--
	if c.err != nil {
		n.mark(c.named.UA, unknown)
		n.prober.refuse(n.aa, c.named.UA, RefusedUnconfirmed)
		return Found{}, waitOn
	}
	c.named.Draining = c.draining
	next := n.decide(c.named)
	switch next {
	case otherLane:
		n.mark(c.named.UA, drains)
	case waitOn:
		n.mark(c.named.UA, unbelieved)
	}
	return c.named, next
}

// decide asks the caller about an answer for which all is shown that can be.
func (n *naming) decide(found Found) step {
	believed := n.believe(found)
	switch {
	case found.Draining:
		return otherLane
	case believed:
		return done
	}
	return waitOn
}

// end gives up the confirmations that are under way, and waits for them.
func (n *naming) end() {
	if n.cancel != nil {
		n.cancel()
	}
	n.wg.Wait()
}

// over counts the hosts that have not confirmed, if the time of the question,
// which is theirs too, is over.
func (n *naming) over(cause error) {
	if !errors.Is(cause, context.DeadlineExceeded) {
		return
	}
	for ua, s := range n.hosts {
		if s == waits {
			n.prober.refuse(n.aa, ua, RefusedUnconfirmed)
		}
	}
}

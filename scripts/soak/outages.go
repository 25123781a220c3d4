package main

import (
	"sync"
	"time"
)

// trouble is what is done to the network on purpose.
type trouble uint8

const (
	killed   trouble = iota // a member's processes
	linkDown                // a member's link
	unasked                 // nobody answers for AA, or too late
	uplink                  // the client's link
)

// outage is one trouble for one member, or, with no name, for all.
type outage struct {
	kind     trouble
	member   string
	from, to time.Time // to is zero while it lasts
}

// outages is what the lab knows of its own doing. Whoever judges a flow that
// ended asks here whether there was a reason.
type outages struct {
	mu   sync.Mutex
	list []*outage
}

// begin is called before anything is done, and the function it returns after
// all of it has been undone.
func (o *outages) begin(kind trouble, member string) (end func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	added := &outage{kind: kind, member: member, from: time.Now()}
	o.list = append(o.list, added)
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		added.to = time.Now()
	}
}

// lag is how long an outage is felt after its end: a failure to find a member
// is kept for a second.
const lag = 1500 * time.Millisecond

// any reports whether there was such trouble at some time from from until now.
func (o *outages) any(from time.Time, matches func(*outage) bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, known := range o.list {
		if (known.to.IsZero() || known.to.Add(lag).After(from)) && matches(known) {
			return true
		}
	}
	return false
}

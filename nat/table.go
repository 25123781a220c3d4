package nat

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// table is the one place that knows which flows exist.
type table struct {
	mu         sync.Mutex
	limits     Limits
	echoes     bucket // requests
	udpOpen    bucket // new UDP flows
	flows      map[Tuple]*flow
	peak       int                       // the most flows since fewer last had an item
	rest       bool                      // of many, some are left since then
	fewer      chan struct{}             // has an item when far fewer flows are left than there were
	count      int                       // of flows, those that are ending after another took their tuple too
	protos     [Echo + 1]int             // of those, each transport
	lost       func(f *flow, how string) // told of Echo flows that have ended, without the lock
	lastID     uint64
	perClient  map[netip.Addr]int
	atLimit    int                  // clients in it that may not have another
	perNetwork map[netip.Prefix]int // of IPv6 clients
	opening    int
	openClient map[netip.Addr]int
	openNet    map[netip.Prefix]int // of IPv6 clients
	openAA     map[netip.Addr]int
	draining   bool
	empty      chan struct{} // closed when draining and no flow is left
}

func newTable(l Limits) *table {
	return &table{
		limits:     l,
		echoes:     newBucket(l.EchoesPerSecond),
		udpOpen:    newBucket(l.UDPFlowsPerSecond),
		flows:      make(map[Tuple]*flow),
		perClient:  make(map[netip.Addr]int),
		perNetwork: make(map[netip.Prefix]int),
		openClient: make(map[netip.Addr]int),
		openNet:    make(map[netip.Prefix]int),
		openAA:     make(map[netip.Addr]int),
		empty:      make(chan struct{}),
		fewer:      make(chan struct{}, 1),
		lost:       func(*flow, string) {},
	}
}

// setLimits counts for flows that are yet to come.
func (t *table) setLimits(l Limits) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.EchoesPerSecond != t.limits.EchoesPerSecond {
		t.echoes = newBucket(l.EchoesPerSecond)
	}
	if l.UDPFlowsPerSecond != t.limits.UDPFlowsPerSecond {
		t.udpOpen = newBucket(l.UDPFlowsPerSecond)
	}
	t.limits = l
	t.atLimit = 0
	for _, n := range t.perClient {
		if n >= l.FlowsPerClient {
			t.atLimit++
		}
	}
}

// most returns how many flows there may be.
func (t *table) most() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.limits.Flows
}

// within counts the flows to addresses in a prefix.
func (t *table) within(p netip.Prefix) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for tuple := range t.flows {
		if p.Contains(tuple.Anycast.Addr()) {
			n++
		}
	}
	return n
}

// open enters a new flow, in state Resolving, or says why it may not be.
func (t *table) open(tuple Tuple, cut context.CancelFunc) (*flow, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.openLocked(tuple, cut)
}

func (t *table) openLocked(tuple Tuple, cut context.CancelFunc) (*flow, error) {
	client, aa := tuple.Client.Addr(), tuple.Anycast.Addr()
	if limit, reached := t.reachedLocked(tuple); reached {
		return nil, limit
	}
	if tuple.Proto == UDP {
		t.udpOpen.take(time.Now())
	}
	if old := t.flows[tuple]; old != nil {
		// The client has begun anew with its old port, and the room that reads
		// packets knows the old flow no more: it is over, whether it has
		// noticed or not.
		old.cut()
	}
	t.lastID++
	t.count++
	t.protos[tuple.Proto]++
	t.peak = max(t.peak, t.count)
	f := &flow{tuple: tuple, id: t.lastID, started: time.Now(), cut: cut, opening: true}
	f.setState(Resolving)
	t.flows[tuple] = f
	if t.perClient[client]++; t.perClient[client] == t.limits.FlowsPerClient {
		t.atLimit++
	}
	t.opening++
	t.openClient[client]++
	t.openAA[aa]++
	if network, ok := networkOf(client); ok {
		t.perNetwork[network]++
		t.openNet[network]++
	}
	return f, nil
}

// reached says which limit stands in the way of a new flow, if any does.
func (t *table) reached(tuple Tuple) (Limit, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.reachedLocked(tuple)
}

func (t *table) reachedLocked(tuple Tuple) (limit Limit, reached bool) {
	client, aa := tuple.Client.Addr(), tuple.Anycast.Addr()
	network, _ := networkOf(client)
	switch {
	case t.draining:
		return LimitDraining, true
	case t.count >= t.limits.Flows:
		return LimitFlows, true
	case t.perClient[client] >= t.limits.FlowsPerClient:
		return LimitFlowsPerClient, true
	case t.perNetwork[network] >= t.limits.FlowsPerNetwork:
		return LimitFlowsPerNetwork, true
	case tuple.Proto == UDP && t.protos[UDP] >= t.limits.UDPFlows:
		return LimitUDPFlows, true
	case t.opening >= t.limits.Opening:
		return LimitOpening, true
	case t.openClient[client] >= t.limits.OpeningPerClient:
		return LimitOpeningPerClient, true
	case t.openNet[network] >= t.limits.OpeningPerNetwork:
		return LimitOpeningPerNetwork, true
	case t.openAA[aa] >= t.limits.OpeningPerAnycast:
		return LimitOpeningPerAnycast, true
	case tuple.Proto == UDP && !t.udpOpen.has(time.Now()):
		return LimitUDPRate, true
	}
	return 0, false
}

// answered notes that the client has been answered: the flow no longer counts
// against the opening limits.
func (t *table) answered(f *flow) {
	f.setState(Established)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answeredLocked(f)
}

func (t *table) answeredLocked(f *flow) {
	if !f.opening {
		return
	}
	f.opening = false
	t.opening--
	decrement(t.openClient, f.tuple.Client.Addr())
	decrement(t.openAA, f.tuple.Anycast.Addr())
	if network, ok := networkOf(f.tuple.Client.Addr()); ok {
		decrement(t.openNet, network)
	}
}

// close removes the flow. It is called once for each flow that open returned.
func (t *table) close(f *flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closeLocked(f)
}

func (t *table) closeLocked(f *flow) {
	t.answeredLocked(f)
	if f.life != nil {
		f.cut() // frees the context
	}
	if t.flows[f.tuple] == f {
		delete(t.flows, f.tuple)
	}
	t.count--
	t.noteFewerLocked()
	t.protos[f.tuple.Proto]--
	client := f.tuple.Client.Addr()
	if t.perClient[client] == t.limits.FlowsPerClient {
		t.atLimit--
	}
	decrement(t.perClient, client)
	if network, ok := networkOf(client); ok {
		decrement(t.perNetwork, network)
	}
	t.signalEmptyLocked()
}

// manyFlows is from how many flows on it is worth while to give memory back.
const manyFlows = 100

// noteFewerLocked notes that most of many flows have gone, or the last of them.
func (t *table) noteFewerLocked() {
	most := t.peak >= manyFlows && t.count <= t.peak/4
	if !most && (t.count > 0 || !t.rest) {
		return
	}
	t.peak, t.rest = t.count, t.count > 0
	if t.count == 0 {
		t.flows = make(map[Tuple]*flow) // a map never shrinks
	}
	select {
	case t.fewer <- struct{}{}:
	default:
	}
}

// use enters an Echo flow or finds the one that is there, and counts one more
// request being served; release takes that back. Echo has no end of its own,
// so the entry stays for lifetime after the last request (RFC 5508 section
// 3.2, REQ-1: at least 60 seconds).
func (t *table) use(tuple Tuple) (*flow, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.echoes.take(time.Now()) {
		return nil, LimitEchoRate
	}
	f := t.flows[tuple]
	if f == nil {
		life, cut := context.WithCancel(context.Background())
		var err error
		if f, err = t.openLocked(tuple, cut); err != nil {
			cut()
			return nil, err
		}
		f.life = life
	} else if t.draining {
		return nil, LimitDraining
	}
	if f.idle != nil {
		f.idle.Stop()
		f.idle = nil
	}
	f.uses++
	return f, nil
}

func (t *table) release(f *flow, lifetime time.Duration) {
	if t.releaseFor(f, lifetime) {
		t.lost(f, endCut)
	}
}

// releaseFor reports whether the flow has ended.
func (t *table) releaseFor(f *flow, lifetime time.Duration) (ended bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f.uses--
	if f.uses > 0 {
		return false
	}
	if t.draining || f.member.Load() == nil {
		t.closeLocked(f)
		return true
	}
	// The timer is compared under the lock: a request that came in while it
	// fired has put another in its place, or none.
	var timer *time.Timer
	timer = time.AfterFunc(lifetime, func() {
		t.mu.Lock()
		ended := f.idle == timer
		if ended {
			f.idle = nil
			t.closeLocked(f)
		}
		t.mu.Unlock()
		if ended {
			t.lost(f, endIdle)
		}
	})
	f.idle = timer
	return false
}

// drain makes open refuse from now on, and returns a channel that is closed
// when the last flow has gone. Echo flows that wait for nothing go now.
func (t *table) drain() <-chan struct{} {
	for _, f := range t.drainIdle() {
		t.lost(f, endCut)
	}
	return t.empty
}

// drainIdle returns the flows that it has ended.
func (t *table) drainIdle() (ended []*flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draining = true
	for _, f := range t.flows {
		if f.idle != nil {
			f.idle.Stop()
			f.idle = nil
			t.closeLocked(f)
			ended = append(ended, f)
		}
	}
	t.signalEmptyLocked()
	return ended
}

func (t *table) signalEmptyLocked() {
	if !t.draining || t.count > 0 {
		return
	}
	select {
	case <-t.empty:
	default:
		close(t.empty)
	}
}

// cutAll ends every flow that is left.
func (t *table) cutAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.flows {
		f.cut()
	}
}

// snapshot returns the flows, oldest first.
func (t *table) snapshot() []FlowInfo {
	t.mu.Lock()
	infos := make([]FlowInfo, 0, len(t.flows))
	for _, f := range t.flows {
		infos = append(infos, f.info())
	}
	t.mu.Unlock()
	slices.SortFunc(infos, func(a, b FlowInfo) int { return cmp.Compare(a.ID, b.ID) })
	return infos
}

// size returns the number of flows, how many of them are opening, and how many
// clients may not have another, and how many there are of each transport.
func (t *table) size() (flows, opening, atLimit int, protos [Echo + 1]int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count, t.opening, t.atLimit, t.protos
}

// decrement keeps the maps from growing with every address ever seen.
func decrement[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}

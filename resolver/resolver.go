package resolver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

// Prober asks an anycast address who stands behind it.
type Prober interface {
	// Name is the method's name in pins and messages.
	Name() string
	// Serves says whether the method can be used for aa's family.
	Serves(aa netip.Addr) bool
	// Proves is the level that its answers can reach at best. It is not asked
	// where more is required.
	Proves() Trust
	// Probe calls believe with each answer until it says that one will do, and
	// returns that, or returns an error when ctx ends or nobody can answer.
	Probe(ctx context.Context, aa netip.Addr, believe func(Answer) bool) (Answer, error)
}

// Answer is what a prober was told. Whether it is believed is for the Policy.
type Answer struct {
	UA  netip.Addr
	RTT time.Duration
	// Lifetime is how long the member wants the answer to be used; 0 if it
	// did not say.
	Lifetime time.Duration
	// Proof is the level that the answer was shown to reach, AllowList apart;
	// 0 stands for Nonce.
	Proof Trust
	// Responder: a responder says so, and not only where an echo came from.
	Responder bool
	// Draining: UA is a member, and takes no new flows.
	Draining bool
}

// Pin says that new flows to an anycast address go to a member, for a while.
type Pin struct {
	Anycast    netip.Addr
	Member     netip.Addr
	Method     string // the prober's name, or "static"
	Trust      Trust
	SelfAnswer bool          // AA answered from itself: Member is AA
	Client     netip.Addr    // whose pin it is, where that is kept; see [Source]
	Stale      bool          // past its time, and used since nobody answers
	RTT        time.Duration // 0 where nothing was measured
	Learned    time.Time
	Expires    time.Time
	Renew      time.Time // from then on a look-up renews it; of [Resolver.Pins] alone
}

// Config is what a Resolver is made of. Zero durations and MaxPins stand for
// the defaults.
type Config struct {
	Policies []Policy
	// Static names members that are not probed, in order of preference.
	Static  map[netip.Addr][]netip.Addr
	Probers []Prober

	TTL          time.Duration // life of a pin; default 30 s
	NegativeTTL  time.Duration // life of a failure; default 1 s
	ProbeTimeout time.Duration // of all probers together; default 2 s
	MaxPins      int           // addresses kept, and clients' pins; default 65,536

	Sticky Sticky
	Select Select
	// Stale is how long after its end a pin still serves while nobody answers
	// the probes; 0 is not at all.
	Stale time.Duration

	// IsLocal says whether an address is one of this host's own; nil says no.
	IsLocal func(netip.Addr) bool
	Log     *slog.Logger // nil discards
}

// Paths is how many paths are asked along to discover a member set. Two equally
// likely members are then both found but for one time in 32,768.
const Paths = 16

const (
	defaultTTL          = 30 * time.Second
	defaultNegativeTTL  = time.Second
	defaultProbeTimeout = 2 * time.Second
	defaultMaxPins      = 65536

	staticMethod = "static"

	// renewPart is the last part of a pin's life in which a look-up renews
	// it in the background.
	renewPart = 5

	// discoverRate is how many further paths may be asked along in a second,
	// whatever is to be discovered.
	discoverRate = 1000

	// pathTimeout is how long one of the further paths has to answer.
	pathTimeout = 500 * time.Millisecond
)

// Resolver resolves anycast addresses. Its methods may be called from many
// goroutines. Probes run in goroutines of their own that [Resolver.Close]
// waits for.
type Resolver struct {
	rules    atomic.Pointer[Rules] // replaced whole, under the cache's lock
	probers  []Prober
	isLocal  func(netip.Addr) bool
	log      *slog.Logger
	refusals *rate.Limiter // of log lines

	negativeTTL, probeTimeout time.Duration

	life   context.Context // of the probes
	end    context.CancelFunc
	flight singleflight.Group

	closing sync.Mutex // no probe begins once closed is set
	closed  bool
	probes  sync.WaitGroup

	selector selector
	pace     *rate.Limiter // of discovery
	cache    cache
	stats    counters
	changed  chan struct{} // has room for one
}

// New returns a Resolver, or an error that names what is wrong with c.
func New(c Config) (*Resolver, error) {
	rules := Rules{Policies: c.Policies, Static: c.Static, TTL: cmp.Or(c.TTL, defaultTTL)}
	if err := rules.validate(); err != nil {
		return nil, err
	}
	if c.NegativeTTL < 0 || c.ProbeTimeout < 0 || c.MaxPins < 0 {
		return nil, fmt.Errorf("resolver: negative TTL %v, probe timeout %v and %d pins must not be negative", c.NegativeTTL, c.ProbeTimeout, c.MaxPins)
	}
	if c.Sticky > Flow || c.Select > Spread || c.Stale < 0 {
		return nil, fmt.Errorf("resolver: %v, %v and stale for %v: there are host, source and flow; first, rtt and spread; and stale must not be negative", c.Sticky, c.Select, c.Stale)
	}
	r := &Resolver{
		probers: c.Probers, isLocal: c.IsLocal, log: c.Log,
		refusals:     rate.NewLimiter(rate.Every(time.Second), 10),
		negativeTTL:  cmp.Or(c.NegativeTTL, defaultNegativeTTL),
		probeTimeout: cmp.Or(c.ProbeTimeout, defaultProbeTimeout),
		cache:        newCache(cmp.Or(c.MaxPins, defaultMaxPins)),
		selector:     newSelector(c.Sticky, c.Select, c.Stale),
		pace:         rate.NewLimiter(discoverRate, Paths),
		changed:      make(chan struct{}, 1),
	}
	r.rules.Store(rules.own())
	r.stats.rtt = make(map[string]*histogram)
	for _, p := range r.probers {
		r.stats.rtt[p.Name()] = new(histogram)
	}
	if r.isLocal == nil {
		r.isLocal = func(netip.Addr) bool { return false }
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.life, r.end = context.WithCancel(context.Background())
	return r, nil
}

// Run keeps the Resolver until ctx ends, then closes it.
func (r *Resolver) Run(ctx context.Context) error {
	<-ctx.Done()
	r.Close()
	return nil
}

// Close ends the probes under way and waits for them. Look-ups that need one
// fail from then on.
func (r *Resolver) Close() {
	r.closing.Lock()
	r.closed = true
	r.closing.Unlock()
	r.end()
	r.probes.Wait()
}

// begin counts a probe that Close is to wait for, unless it is too late.
func (r *Resolver) begin() bool {
	r.closing.Lock()
	defer r.closing.Unlock()
	if !r.closed {
		r.probes.Add(1)
	}
	return !r.closed
}

// Resolve returns the member for a new flow of client to aa.
func (r *Resolver) Resolve(ctx context.Context, client, aa netip.Addr) (netip.Addr, error) {
	pin, err := r.lookup(ctx, client, aa)
	return pin.Member, err
}

// Lookup returns the pin of aa for a client that is not named, from the cache
// or by asking. It waits no longer than the probe timeout, and no longer than
// ctx.
func (r *Resolver) Lookup(ctx context.Context, aa netip.Addr) (Pin, error) {
	return r.lookup(ctx, netip.Addr{}, aa)
}

func (r *Resolver) lookup(ctx context.Context, client, aa netip.Addr) (Pin, error) {
	now := time.Now()
	if r.rules.Load().passes(aa) {
		return passing(aa, now), nil
	}
	if r.rules.Load().isStraight(aa) {
		return r.pinThrough(aa, noMethod, 0), nil
	}
	if f := r.cache.find(&r.selector, client, aa, now); f.ok {
		r.stats.hits.Add(1)
		if f.renew && f.err == nil {
			r.renew(aa, now)
		}
		return r.settle(f, client, now)
	}
	r.stats.misses.Add(1)
	for {
		select {
		case result := <-r.ask(aa, func() bool { return r.cache.find(&r.selector, client, aa, time.Now()).ok }):
			if pin, err := r.answered(client, aa, result); err != errNeedless {
				return pin, err
			}
			// What made the probe needless has expired since.
		case <-ctx.Done():
			return Pin{}, fmt.Errorf("resolver: gave up waiting for %v: %w", aa, ctx.Err())
		}
	}
}

// errNeedless is the result of a probe that was left out: what it could have
// found is in the cache.
var errNeedless = errors.New("resolver: needless")

// settle makes a pin of what was found, and keeps the client on it.
func (r *Resolver) settle(f found, client netip.Addr, now time.Time) (Pin, error) {
	if f.err != nil {
		return Pin{}, f.err
	}
	if f.stale {
		r.stats.stale.Add(1)
		f.pin.Stale = true
	}
	if f.keep {
		if r.cache.keep(pinKey{client, f.pin.Anycast}, clientPin{f.pin.Member, f.pin.Expires}, now) {
			r.tellChange()
		} else {
			r.stats.cacheFull.Add(1)
		}
	}
	return f.pin, nil
}

// answered is the end of a wait for a probe. What it has found is in the
// cache, unless there was no room, or it took so long to hear of it that it has
// expired: it was asked for and is used all the same.
func (r *Resolver) answered(client, aa netip.Addr, result singleflight.Result) (Pin, error) {
	now := time.Now()
	if f := r.cache.find(&r.selector, client, aa, now); f.ok {
		return r.settle(f, client, now)
	}
	if result.Err != nil {
		return Pin{}, result.Err
	}
	var g group
	pins := result.Val.([]Pin)
	then := slices.MinFunc(pins, func(a, b Pin) int { return a.Learned.Compare(b.Learned) }).Learned
	g.learn(pins, then, 0)
	r.selector.rank(&g, then)
	k := r.selector.choose(&g, client, then, good)
	if k == nil {
		return Pin{}, fmt.Errorf("%w: %v", ErrNoAnswer, aa) // a member that answered for no time at all
	}
	return k.Pin, nil
}

// renew probes aa in the background, and reports true, unless somebody else does.
func (r *Resolver) renew(aa netip.Addr, now time.Time) bool {
	asked, ok := r.cache.claimRenewal(aa, now, now.Add(r.probeTimeout))
	if !ok {
		return false
	}
	r.stats.renewals.Add(1)
	r.ask(aa, func() bool { return r.cache.askedSince(aa, asked) })
	return true
}

// ask probes aa, once for all who ask at the same time. The probe does not
// depend on any of them. It is left out if it has become needless: between a
// caller's miss and this call an earlier one may have ended.
func (r *Resolver) ask(aa netip.Addr, needless func() bool) <-chan singleflight.Result {
	return r.flight.DoChan(aa.String(), func() (any, error) {
		if !r.begin() {
			return []Pin{}, ErrNoAnswer
		}
		defer r.probes.Done()
		if needless() {
			return []Pin{}, errNeedless
		}
		for {
			rules := r.rules.Load()
			if rules.passes(aa) {
				return []Pin{passing(aa, time.Now())}, nil
			}
			policy, ok := rules.policyFor(aa)
			if !ok {
				return []Pin{}, ErrOutside
			}
			pins, err := r.discover(policy, aa)
			if r.life.Err() != nil || r.remember(rules, aa, pins, err) {
				r.tellChange()
				return pins, err
			}
			// What was found was judged by rules that count no more.
		}
	})
}

// remember reports whether the rules by which the pins were judged still count;
// only then are they kept.
func (r *Resolver) remember(rules *Rules, aa netip.Addr, pins []Pin, err error) bool {
	now := time.Now()
	r.cache.mu.Lock()
	defer r.cache.mu.Unlock()
	if r.rules.Load() != rules {
		return false
	}
	if err != nil {
		r.stats.failures.Add(1)
	}
	g := r.cache.group(aa, now)
	switch {
	case g == nil:
		r.stats.cacheFull.Add(1)
	case err != nil:
		// What is known of the members lives out its time.
		g.err, g.errUntil, g.asked = err, now.Add(r.negativeTTL), now
		g.renewAt = g.errUntil
	default:
		g.learn(pins, now, r.selector.stale)
		r.selector.rank(g, now)
	}
	return true
}

// Suspect passes over ua for a while, because a flow could not be had there;
// the next look-up takes another member that is known, at once, or asks afresh.
// It comes back when it has answered a probe since.
func (r *Resolver) Suspect(aa, ua netip.Addr) {
	r.stats.suspected.Add(1)
	r.cache.suspect(aa, ua, time.Now())
	r.tellChange()
}

// Flush forgets what is known about aa, failures too; about all addresses, if aa
// is the zero Addr.
func (r *Resolver) Flush(aa netip.Addr) {
	if aa.IsValid() {
		r.cache.drop(aa)
	} else {
		r.cache.dropAll()
	}
	r.tellChange()
}

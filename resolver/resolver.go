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
	// Probe returns the first answer, or an error when ctx ends.
	Probe(ctx context.Context, aa netip.Addr) (Answer, error)
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
}

// Pin says that new flows to an anycast address go to a member, for a while.
type Pin struct {
	Anycast    netip.Addr
	Member     netip.Addr
	Method     string // the prober's name, or "static"
	Trust      Trust
	SelfAnswer bool          // AA answered from itself: Member is AA
	RTT        time.Duration // 0 where nothing was measured
	Learned    time.Time
	Expires    time.Time
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
	MaxPins      int           // pins and failures kept; default 65,536

	// IsLocal says whether an address is one of this host's own; nil says no.
	IsLocal func(netip.Addr) bool
	Log     *slog.Logger // nil discards
}

const (
	defaultTTL          = 30 * time.Second
	defaultNegativeTTL  = time.Second
	defaultProbeTimeout = 2 * time.Second
	defaultMaxPins      = 65536

	staticMethod = "static"

	// renewPart is the last part of a pin's life in which a look-up renews
	// it in the background.
	renewPart = 5
)

// Resolver resolves anycast addresses. Its methods may be called from many
// goroutines. Probes run in goroutines of their own that [Resolver.Close]
// waits for.
type Resolver struct {
	policies []Policy // longest prefix first
	probers  []Prober
	isLocal  func(netip.Addr) bool
	log      *slog.Logger
	refusals *rate.Limiter // of log lines

	ttl, negativeTTL, probeTimeout time.Duration

	life   context.Context // of the probes
	end    context.CancelFunc
	flight singleflight.Group

	closing sync.Mutex // no probe begins once closed is set
	closed  bool
	probes  sync.WaitGroup

	cache  cache
	static statics
	stats  counters
}

// New returns a Resolver, or an error that names what is wrong with c.
func New(c Config) (*Resolver, error) {
	for _, p := range c.Policies {
		if err := p.validate(); err != nil {
			return nil, err
		}
	}
	if len(c.Policies) == 0 {
		return nil, errors.New("resolver: no anycast prefix to resolve")
	}
	if c.TTL < 0 || c.NegativeTTL < 0 || c.ProbeTimeout < 0 || c.MaxPins < 0 {
		return nil, fmt.Errorf("resolver: TTL %v, negative TTL %v, probe timeout %v and %d pins must not be negative", c.TTL, c.NegativeTTL, c.ProbeTimeout, c.MaxPins)
	}
	r := &Resolver{
		policies: slices.Clone(c.Policies), probers: c.Probers, isLocal: c.IsLocal, log: c.Log,
		refusals: rate.NewLimiter(rate.Every(time.Second), 10),
		ttl:      cmp.Or(c.TTL, defaultTTL), negativeTTL: cmp.Or(c.NegativeTTL, defaultNegativeTTL),
		probeTimeout: cmp.Or(c.ProbeTimeout, defaultProbeTimeout),
		cache:        newCache(cmp.Or(c.MaxPins, defaultMaxPins)),
		static:       newStatics(c.Static),
	}
	slices.SortStableFunc(r.policies, func(a, b Policy) int { return cmp.Compare(b.Prefix.Bits(), a.Prefix.Bits()) })
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
func (r *Resolver) Resolve(ctx context.Context, _, aa netip.Addr) (netip.Addr, error) {
	pin, err := r.Lookup(ctx, aa)
	return pin.Member, err
}

// Lookup returns the pin of aa, from the cache or by asking. It waits no
// longer than the probe timeout, and no longer than ctx.
func (r *Resolver) Lookup(ctx context.Context, aa netip.Addr) (Pin, error) {
	now := time.Now()
	if e, ok := r.cache.get(aa, now); ok {
		r.stats.hits.Add(1)
		if e.err == nil && now.After(e.renewAt) && r.cache.claimRenewal(aa, now.Add(r.probeTimeout)) {
			r.stats.renewals.Add(1)
			r.ask(aa, e.pin.Learned)
		}
		return e.pin, e.err
	}
	policy, ok := r.policyFor(aa)
	if !ok {
		return Pin{}, ErrOutside
	}
	if ua, ok := r.static.current(aa); ok {
		return r.pinStatic(policy, aa, ua, now)
	}
	r.stats.misses.Add(1)
	select {
	case result := <-r.ask(aa, time.Time{}):
		if result.Err != nil {
			return Pin{}, result.Err
		}
		return result.Val.(Pin), nil
	case <-ctx.Done():
		return Pin{}, fmt.Errorf("resolver: gave up waiting for %v: %w", aa, ctx.Err())
	}
}

// ask probes aa, once for all who ask at the same time. The probe does not
// depend on any of them. A pin learned after known makes it needless.
func (r *Resolver) ask(aa netip.Addr, known time.Time) <-chan singleflight.Result {
	return r.flight.DoChan(aa.String(), func() (any, error) {
		if !r.begin() {
			return Pin{}, ErrNoAnswer
		}
		defer r.probes.Done()
		// Between a caller's miss and this call an earlier probe may have
		// ended and left its answer.
		if e, ok := r.cache.get(aa, time.Now()); ok && (e.err != nil || e.pin.Learned.After(known)) {
			return e.pin, e.err
		}
		policy, ok := r.policyFor(aa)
		if !ok {
			return Pin{}, ErrOutside
		}
		pin, err := r.probe(policy, aa)
		if r.life.Err() == nil {
			r.remember(aa, pin, err)
		}
		return pin, err
	})
}

func (r *Resolver) remember(aa netip.Addr, pin Pin, err error) {
	e := entry{pin: pin, err: err, expires: pin.Expires, renewAt: pin.Expires.Add(-pin.Expires.Sub(pin.Learned) / renewPart)}
	if err != nil {
		e.expires = time.Now().Add(r.negativeTTL)
		r.stats.failures.Add(1)
		if old, ok := r.cache.get(aa, time.Now()); ok && old.err == nil {
			return // a renewal that failed: the pin lives out its time
		}
	}
	if !r.cache.put(aa, e, time.Now()) {
		r.stats.cacheFull.Add(1)
	}
}

func (r *Resolver) pinStatic(policy Policy, aa, ua netip.Addr, now time.Time) (Pin, error) {
	if refusal, _ := r.judge(policy, aa, ua); refusal != "" {
		r.refuse(aa, staticMethod, ua, refusal)
		return Pin{}, ErrUntrusted
	}
	r.stats.static.Add(1)
	pin := Pin{Anycast: aa, Member: ua, Method: staticMethod, Trust: policy.Trust(), Learned: now, Expires: now.Add(r.ttl)}
	r.remember(aa, pin, nil)
	return pin, nil
}

// Suspect takes away a pin that names ua, because a flow could not be had
// there; the next look-up asks afresh, or takes the next static member.
func (r *Resolver) Suspect(aa, ua netip.Addr) {
	r.stats.suspected.Add(1)
	r.static.rotate(aa, ua)
	r.cache.dropMember(aa, ua)
}

// Flush forgets what is known about aa, failures too.
func (r *Resolver) Flush(aa netip.Addr) { r.cache.drop(aa) }

// Pins returns the pins that are alive, sorted by anycast address.
func (r *Resolver) Pins() []Pin {
	pins := r.cache.pins(time.Now())
	slices.SortFunc(pins, func(a, b Pin) int { return a.Anycast.Compare(b.Anycast) })
	return pins
}

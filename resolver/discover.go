package resolver

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"
)

// PathProber is a [Prober] that can ask over different ones of several equal
// paths, which may lead to different members (ECMP).
type PathProber interface {
	Prober
	// ProbePath is Probe along the path of that number, from 0. Numbers stand
	// for what a router may tell flows apart by, not for true paths: two of
	// them may be the same one.
	ProbePath(ctx context.Context, aa netip.Addr, path int, believe func(Answer) bool) (Answer, error)
}

func probeOn(ctx context.Context, p Prober, aa netip.Addr, path int, believe func(Answer) bool) (Answer, error) {
	if pp, ok := p.(PathProber); ok {
		return pp.ProbePath(ctx, aa, path, believe)
	}
	return p.Probe(ctx, aa, believe)
}

// isSilence says whether a failure means that nobody is heard, rather than
// that somebody is not believed. A member that says that it drains speaks for
// itself alone: of the others nothing is heard.
func isSilence(err error) bool { return errors.Is(err, ErrNoAnswer) || errors.Is(err, ErrDraining) }

// discover returns the members of aa that can be found now, at least one: the
// static ones, or the first that answers, and where more are of use also those
// on other paths.
func (r *Resolver) discover(policy Policy, aa netip.Addr) ([]Pin, error) {
	if uas := r.rules.Load().Static[aa]; len(uas) > 0 {
		return r.pinStatic(policy, aa, uas)
	}
	first, err := r.probe(policy, aa, 0, r.patienceFor(policy))
	if errors.Is(err, errMissed) {
		// The host that is reached has AA and no responder any more. Another
		// path may lead to a member that has one; the responder's own prober
		// tries them only where there is silence.
		r.stats.discoveries.Add(1)
		if pins := r.gather(policy, aa, nil); len(pins) > 0 {
			return pins, nil
		}
	}
	if err != nil && policy.passes() && isPassable(err) && !r.cache.hasMember(aa, time.Now(), r.selector.stale) {
		return []Pin{r.pinThrough(aa, noMethod, 0)}, nil
	}
	if err != nil {
		return nil, err
	}
	if first.SelfAnswer && policy.passes() {
		return []Pin{r.pinThrough(aa, first.Method, first.RTT)}, nil
	}
	if r.selector.how == First || first.SelfAnswer {
		return []Pin{first}, nil
	}
	r.stats.discoveries.Add(1)
	return r.gather(policy, aa, []Pin{first}), nil
}

// gather asks along the other paths for more members. Of the answers of one
// member it keeps the shortest RTT.
func (r *Resolver) gather(policy Policy, aa netip.Addr, members []Pin) []Pin {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for path := 1; path < Paths; path++ {
		if r.pace.Wait(r.life) != nil {
			break // the end
		}
		wg.Go(func() {
			pin, err := r.probe(policy, aa, path, min(pathTimeout, r.probeTimeout))
			if err != nil || pin.SelfAnswer {
				return // it was counted where it was judged
			}
			mu.Lock()
			defer mu.Unlock()
			members = merge(members, pin)
		})
	}
	wg.Wait()
	return members
}

func merge(members []Pin, pin Pin) []Pin {
	for i := range members {
		if members[i].Member == pin.Member {
			if pin.RTT < members[i].RTT {
				pin.Method, pin.Trust = members[i].Method, members[i].Trust
				members[i] = pin
			}
			return members
		}
	}
	return append(members, pin)
}

func (r *Resolver) pinStatic(policy Policy, aa netip.Addr, uas []netip.Addr) ([]Pin, error) {
	now := time.Now()
	var pins []Pin
	for _, ua := range uas {
		if refusal, _ := r.judge(policy, aa, ua); refusal != "" {
			r.refuse(aa, staticMethod, ua, refusal)
			continue
		}
		r.stats.static.Add(1)
		pins = append(pins, Pin{Anycast: aa, Member: ua, Method: staticMethod, Trust: policy.Trust(), Learned: now, Expires: now.Add(r.rules.Load().TTL)})
	}
	if len(pins) == 0 {
		return nil, ErrUntrusted
	}
	return pins, nil
}

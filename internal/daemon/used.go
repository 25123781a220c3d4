package daemon

import (
	"time"

	"aarptun/resolver"
	"aarptun/tun/nft"
)

// uses has the resolver renew the pins that the kernel uses ahead of their end, as it
// does those that it is asked for. What the kernel has noted is read in the last part
// of a pin's life alone, so where nothing is pinned, nothing is read.
type uses struct {
	looked time.Time // when it was read
	rest   []nft.Use // what of that the resolver has not been told yet
	failed string    // the last failure, said once
}

const (
	// The last part of a pin's life, in which it may be renewed, has so many parts.
	// It is looked for its use after the first, so that the pins whose time comes
	// meanwhile need no look of their own, and if there was none, later again.
	windowParts = 8

	// Of the pins that a look finds in use, so many are renewed at once, and the next
	// so much later.
	renewAtOnce = 64
	renewApart  = 50 * time.Millisecond
)

// looksAt are the parts of the window after which it is looked.
var looksAt = [...]time.Duration{1, 4, 6}

// next returns when the kernel is to be asked, or the resolver to be told more. It
// reports false if no pin has so little time left that it will matter.
func (u *uses) next(pins []resolver.Pin, now time.Time) (at time.Time, ok bool) {
	if len(u.rest) > 0 {
		return now.Add(renewApart), true
	}
	for _, p := range pins {
		window := p.Expires.Sub(p.Renew)
		for _, part := range looksAt {
			due := p.Renew.Add(window * part / windowParts)
			if window <= 0 || !due.After(u.looked) {
				continue // it is being renewed, or was looked for
			}
			if !ok || due.Before(at) {
				at, ok = due, true
			}
			break
		}
	}
	return at, ok
}

// tellUses tells the resolver which pins the kernel uses.
func (o *offload) tellUses() {
	u := &o.uses
	if len(u.rest) == 0 {
		u.looked = time.Now()
		var err error
		u.rest, err = o.table.Used()
		switch {
		case err == nil:
			u.failed = ""
		case err.Error() != u.failed:
			u.failed = err.Error()
			o.log.Warn("it cannot be seen which pins the kernel uses, so they are not renewed ahead of their end", "err", err)
		}
	}
	begun := 0
	for i, use := range u.rest {
		if !o.resolver.Used(use.Anycast, use.Last) {
			continue
		}
		if begun++; begun == renewAtOnce {
			u.rest = u.rest[i+1:]
			return
		}
	}
	u.rest = nil
}

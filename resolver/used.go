package resolver

import (
	"net/netip"
	"time"
)

// Used tells that flows to aa go where [Resolver.Pins] says without being looked
// up, the last of them since last. If the end of the pin is as near as after a
// look-up that renews it, and last lies back no longer than that, it is renewed as
// then. Used reports whether that has begun. An address that is not pinned stays so.
func (r *Resolver) Used(aa netip.Addr, last time.Time) bool {
	now := time.Now()
	f := r.cache.find(&r.selector, netip.Addr{}, aa, now)
	if !f.ok || f.err != nil || f.stale || !f.renew {
		return false
	}
	life := f.pin.Expires.Sub(f.pin.Learned)
	return now.Sub(last) <= life/renewPart && r.renew(aa, now)
}

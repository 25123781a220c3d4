package tun

import (
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
)

// localFor is how long a list of the host's addresses is used. An address that
// came since is then taken for a stranger's for a second, once.
const localFor = time.Second

// Locals knows the host's own addresses, in the namespace of the Host that
// made it, or of the thread.
type Locals struct {
	list func() ([]netlink.Addr, error)

	mu    sync.Mutex
	until time.Time
	addrs map[netip.Addr]struct{}
}

// Locals returns a list of the host's own addresses that keeps itself fresh.
// It is of use until the Host is closed.
func (h *Host) Locals() *Locals { return &Locals{list: h.addresses} }

// LocalsHere is [Host.Locals] of the namespace that the caller is in, on every
// thread.
func LocalsHere() *Locals {
	return &Locals{list: func() ([]netlink.Addr, error) {
		return whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	}}
}

// Contains reports whether a is one of the host's own addresses. When the
// kernel cannot be asked, the last list serves.
func (l *Locals) Contains(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.After(l.until) {
		if list, err := l.list(); err == nil {
			l.addrs = make(map[netip.Addr]struct{}, len(list))
			for _, entry := range list {
				if own, ok := netip.AddrFromSlice(entry.IP); ok {
					l.addrs[own.Unmap()] = struct{}{}
				}
			}
		}
		l.until = now.Add(localFor)
	}
	_, own := l.addrs[a.Unmap().WithZone("")]
	return own
}

// addresses lists the addresses of the Host's namespace.
func (h *Host) addresses() ([]netlink.Addr, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, os.ErrClosed
	}
	return whole(func() ([]netlink.Addr, error) { return h.handle.AddrList(nil, netlink.FAMILY_ALL) })
}

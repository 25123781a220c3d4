package tun

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// ErrGone says that the device is no longer there, or no longer in its
// namespace: it cannot be put back, because flows hang on it.
var ErrGone = errors.New("tun: the device is gone")

// gone is the error for a device that is not there.
func (h *Host) gone() error {
	return fmt.Errorf("%w: another program has deleted %s, or moved it: start aarptun again, and see that nothing else manages that device", ErrGone, h.name)
}

// Missing returns [ErrGone] if the device is not there any more, and nil if it
// is, or if that cannot be told.
func (h *Host) Missing() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	var none netlink.LinkNotFoundError
	if _, err := h.handle.LinkByIndex(h.link.Attrs().Index); errors.As(err, &none) {
		return h.gone()
	}
	return nil
}

// repair puts back what AddRoutes has set and is not there, and says in words
// what that was; nothing between RemoveRoutes and AddRoutes. It returns ErrGone
// if the device is not there.
func (h *Host) repair() (back []string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || !h.routed {
		return nil, nil
	}
	if back, err = h.repairLink(); err != nil {
		return back, err
	}
	addresses, err := h.repairAddresses()
	back = append(back, addresses...)
	if err != nil {
		return back, err
	}
	routes, err := h.repairRoutes()
	back = append(back, routes...)
	if err != nil {
		return back, err
	}
	rules, err := h.repairRules()
	back = append(back, rules...)
	if err != nil {
		return back, err
	}
	returns, err := h.returns.repair()
	return append(back, returns...), err
}

// uses reports whether a routing table is one of the Host's.
func (h *Host) uses(table int) bool {
	return table == h.table || h.returns != nil && table == h.returns.spec.Table
}

func (h *Host) repairLink() (back []string, err error) {
	link, err := h.handle.LinkByIndex(h.link.Attrs().Index)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		return nil, h.gone()
	}
	if err != nil {
		return nil, fmt.Errorf("tun: find %s: %w", h.name, err)
	}
	if mtu := link.Attrs().MTU; mtu != h.mtu {
		if err := h.handle.LinkSetMTU(link, h.mtu); err != nil {
			return nil, fmt.Errorf("tun: set the MTU of %s to %d again: %w", h.name, h.mtu, err)
		}
		back = append(back, fmt.Sprintf("MTU %d of %s, which was %d", h.mtu, h.name, mtu))
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := h.handle.LinkSetUp(link); err != nil {
			return back, fmt.Errorf("tun: set %s up again: %w", h.name, err)
		}
		back = append(back, h.name+" up")
	}
	return back, nil
}

// repairAddresses puts back what was lent: an IPv6 address goes when its device is
// set down.
func (h *Host) repairAddresses() (back []string, err error) {
	if len(h.lent) == 0 {
		return nil, nil
	}
	there, err := whole(func() ([]netlink.Addr, error) { return h.handle.AddrList(h.link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("tun: list the addresses of %s: %w", h.name, err)
	}
	for _, a := range h.lent {
		if slices.ContainsFunc(there, func(t netlink.Addr) bool { return t.IP.Equal(a.AsSlice()) }) {
			continue
		}
		if err := addAddress(h.handle, h.link, a); err != nil {
			return back, err
		}
		back = append(back, fmt.Sprintf("address %v of %s", a, h.name))
	}
	return back, nil
}

func (h *Host) repairRoutes() (back []string, err error) {
	there, err := routesIn(h.handle, h.table)
	if err != nil {
		return nil, err
	}
	for _, p := range h.prefixes {
		if !slices.ContainsFunc(there, func(r netlink.Route) bool { return h.leads(r, p) }) {
			if err := h.setRoute(p); err != nil {
				return back, err
			}
			back = append(back, fmt.Sprintf("route %v dev %s table %d", p, h.name, h.table))
		}
	}
	return back, nil
}

// leads reports whether r leads the prefix into the device.
func (h *Host) leads(r netlink.Route, p netip.Prefix) bool {
	dst := prefixOf(r.Dst)
	if r.Dst == nil && r.Family == familyOf(p) {
		dst = netip.PrefixFrom(p.Addr(), 0).Masked()
	}
	return r.LinkIndex == h.link.Attrs().Index && dst == p
}

func (h *Host) repairRules() (back []string, err error) {
	for _, spec := range h.rules {
		rules, err := rulesOf(h.handle, spec.Family)
		if err != nil {
			return back, err
		}
		if slices.ContainsFunc(rules, spec.matches) {
			continue
		}
		if err := addRule(h.handle, spec); err != nil {
			return back, err
		}
		back = append(back, spec.String())
	}
	return back, nil
}

package tun

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Inspection is what a host's rules and routes are with regard to an aarptun.
type Inspection struct {
	// Ours are the rules that only an aarptun can have made, as ip-rule(8)
	// writes them.
	Ours []string
	// Before are the rules of others that come before ours and may lead a
	// packet to an address of the prefixes elsewhere.
	Before []string
	// Routes are the destinations that the table holds, and by which device.
	Routes []string
}

// Inspect looks at the rules and at a table, in the network namespace of the
// calling thread; 0 stands for the table that is used by default. It needs no
// privilege and changes nothing.
func Inspect(table int, prefixes []netip.Prefix) (Inspection, error) {
	if table == 0 {
		table = defaultTable
	}
	var found Inspection
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return found, fmt.Errorf("tun: netlink: %w", err)
	}
	defer h.Close()
	for _, family := range []int{netlink.FAMILY_V6, netlink.FAMILY_V4} {
		rules, err := rulesOf(h, family)
		if err != nil {
			return found, err
		}
		for _, rule := range rules {
			text := fmt.Sprintf("%s rule priority %d lookup %d", ipCommand(family), rule.Priority, rule.Table)
			switch {
			case ours(rule):
				found.Ours = append(found.Ours, text)
			case rule.Priority > 0 && rule.Priority < defaultPriority && rule.Table != unix.RT_TABLE_LOCAL && mayCatch(rule, family, prefixes):
				found.Before = append(found.Before, text)
			}
		}
	}
	routes, err := routesIn(h, table)
	for _, r := range routes {
		device := fmt.Sprint("device ", r.LinkIndex)
		if link, err := h.LinkByIndex(r.LinkIndex); err == nil {
			device = link.Attrs().Name
		}
		found.Routes = append(found.Routes, fmt.Sprintf("%v dev %s", r.Dst, device))
	}
	return found, err
}

// mayCatch says whether a rule is about some packet to the prefixes, or to any
// address if none are given.
func mayCatch(rule netlink.Rule, family int, prefixes []netip.Prefix) bool {
	dst := prefixOf(rule.Dst)
	for _, p := range prefixes {
		if familyOf(p) == family && (!dst.IsValid() || dst.Overlaps(p)) {
			return true
		}
	}
	return len(prefixes) == 0
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits)
}

// Way is how the host would send a packet.
type Way struct {
	Device string     // the interface it leaves by
	Source netip.Addr // the source it would have; the zero Addr if the kernel does not say
}

// WayTo returns how a packet to a with the given mark would be sent. That there
// is no route is [syscall.ENETUNREACH] or [syscall.EHOSTUNREACH].
func WayTo(a netip.Addr, mark uint32) (Way, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return Way{}, fmt.Errorf("tun: netlink: %w", err)
	}
	defer h.Close()
	routes, err := h.RouteGetWithOptions(a.AsSlice(), &netlink.RouteGetOptions{Mark: mark})
	if err == nil && len(routes) == 0 {
		err = unix.ENETUNREACH
	}
	if err != nil {
		return Way{}, fmt.Errorf("tun: route to %v: %w", a, err)
	}
	way := Way{}
	way.Source, _ = netip.AddrFromSlice(routes[0].Src)
	way.Source = way.Source.Unmap()
	link, err := h.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return way, errors.Join(fmt.Errorf("tun: route to %v", a), err)
	}
	way.Device = link.Attrs().Name
	return way, nil
}

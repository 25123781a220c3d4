package tun

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The addresses of a device in a namespace that has none of its own. Neither is
// anybody's on any network, so nothing out there is hidden by them; and to who
// chooses between IPv6 and IPv4 (RFC 6724) they are as good as true ones, which
// an address of fc00::/7 is not. RFC 7335: for the IPv4 of a host behind a
// translator of its own. RFC 6666: what is sent to it by mistake is discarded.
var (
	Address4 = netip.MustParseAddr("192.0.0.1")
	Address6 = netip.MustParseAddr("100::1")
)

// addressOf returns the device's own address of a family.
func addressOf(family int) netip.Addr {
	if family == netlink.FAMILY_V6 {
		return Address6
	}
	return Address4
}

// lendAddresses gives the device an address of each family of the prefixes in
// which the namespace has none that could be a client's source.
func (h *Host) lendAddresses() error {
	for _, family := range familiesOf(h.prefixes) {
		own, err := whole(func() ([]netlink.Addr, error) { return h.handle.AddrList(nil, family) })
		if err != nil {
			return fmt.Errorf("tun: list the addresses: %w", err)
		}
		if hasSource(own) {
			continue
		}
		if err := addAddress(h.handle, h.link, addressOf(family)); err != nil {
			return err
		}
		h.lent = append(h.lent, addressOf(family))
	}
	return nil
}

// hasSource says whether one of the addresses could be the source of a packet
// to any place.
func hasSource(own []netlink.Addr) bool {
	for _, a := range own {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.IsGlobalUnicast() {
			return true
		}
	}
	return false
}

// addAddress gives a device one address alone. Nobody else can have it there,
// so nothing waits for the detection of a double.
func addAddress(h *netlink.Handle, link netlink.Link, a netip.Addr) error {
	address := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}}
	if a.Is6() {
		address.Flags = unix.IFA_F_NODAD
	}
	if err := h.AddrReplace(link, address); err != nil {
		return fmt.Errorf("tun: give %s the address %v: %w", link.Attrs().Name, a, err)
	}
	return nil
}

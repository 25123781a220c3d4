package tun

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"
)

const (
	clonePath   = "/dev/net/tun"
	defaultMTU  = 1500
	minimumMTU  = 1280 // RFC 8200 section 5
	maximumMTU  = 65535
	defaultMark = 0xaa

	// queueLength is how many packets may wait for us; a TUN drops the rest.
	// The kernel's 500 are over when a busy host does not let us run for a few
	// milliseconds: 20 bulk flows on two busy processors had 5,146 segments
	// sent again in 12 s with it, and 113 with this.
	queueLength = 2000
)

// createDevice makes the device and returns it down, without an address.
//
// It is opened here and not by wgtun.CreateTUN because that one attaches to a
// device that exists already, which IFF_TUN_EXCL forbids, and runs a listener
// for link events that nobody here would read.
func createDevice(name string) (*Device, error) {
	fd, err := openDevice(name)
	if err != nil {
		return nil, err
	}
	return hold(fd)
}

// openDevice makes the device behind a descriptor.
func openDevice(name string) (fd int, err error) {
	fd, err = unix.Open(clonePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return -1, fmt.Errorf("%w: %s: load the module with 'modprobe tun', or give the container that device: %w", ErrNoTUN, clonePath, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return -1, fmt.Errorf("tun: %s may not be opened: run as root, or allow it with 'chmod 0666 %s': %w", clonePath, clonePath, os.ErrPermission)
	case err != nil:
		return -1, fmt.Errorf("tun: open %s: %w", clonePath, err)
	}
	if err := attach(fd, name); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// hold sets up what is behind a descriptor, which it owns, also when it fails.
func hold(fd int) (*Device, error) {
	opened, name, err := wgtun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		err = fmt.Errorf("tun: set up %s: %w", name, err)
		if opened != nil {
			err = errors.Join(err, opened.Close())
		}
		return nil, err
	}
	device, err := newDevice(opened)
	if err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	return device, nil
}

// checkName refuses what the kernel would refuse as a name, or take for a
// pattern, and what would lead the journal out of its directory.
func checkName(name string) error {
	if name == "" || len(name) >= unix.IFNAMSIZ || name == "." || name == ".." || strings.ContainsFunc(name, notInName) {
		return fmt.Errorf("%w: device name %q: it must have 1 to %d bytes, without space, '/', ':' or '%%'", ErrConfig, name, unix.IFNAMSIZ-1)
	}
	return nil
}

func notInName(r rune) bool {
	return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune("/:%", r)
}

// attach makes the device behind fd.
func attach(fd int, name string) error {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("%w: device name %q: %w", ErrConfig, name, err)
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
	switch err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return nameTaken(name)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("tun: the kernel does not let us create %s: run as root or with CAP_NET_ADMIN: %w", name, os.ErrPermission)
	case err != nil:
		return fmt.Errorf("tun: create %s: %w", name, err)
	}
	return nil
}

func nameTaken(name string) error {
	return fmt.Errorf("%w: there is a device %s already: choose another name with --tun", ErrNameTaken, name)
}

// raise gives the device its MTU and sets it up. A link-local address, which
// the kernel would add by itself, is kept off first.
func raise(h *netlink.Handle, name string, mtu int) (netlink.Link, error) {
	link, err := h.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("tun: find %s: %w", name, err)
	}
	if err := h.LinkSetMTU(link, mtu); err != nil {
		return nil, fmt.Errorf("%w: set the MTU of %s to %d: %w", ErrConfig, name, mtu, err)
	}
	if err := h.LinkSetTxQLen(link, queueLength); err != nil {
		return nil, fmt.Errorf("tun: set the queue length of %s: %w", name, err)
	}
	// Without IPv6 on this host there is nothing to keep off.
	if err := h.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return nil, fmt.Errorf("tun: keep %s without an address: %w", name, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("tun: set %s up: %w", name, err)
	}
	return link, nil
}

// uplinkMTU is the smallest MTU among the links of the default routes: then
// the kernel, which knows the device as the way to AA, tells clients a size
// that fits the way to UA too.
func uplinkMTU(h *netlink.Handle) int {
	smallest := maximumMTU + 1
	for _, route := range defaultRoutes(h) {
		if route.MTU > 0 { // its own, from ip-route(8)
			smallest = min(smallest, route.MTU)
		}
		links := []int{route.LinkIndex}
		for _, hop := range route.MultiPath {
			links = append(links, hop.LinkIndex)
		}
		for _, index := range links {
			link, err := h.LinkByIndex(index)
			if err != nil {
				continue // gone since it was listed, or the hops have it
			}
			smallest = min(smallest, link.Attrs().MTU)
		}
	}
	if smallest > maximumMTU {
		return defaultMTU
	}
	return max(smallest, minimumMTU)
}

// defaultRoutes lists those that lead anywhere. A list that changes all the
// time it is read is used as it is: this is about the best size only.
func defaultRoutes(h *netlink.Handle) []netlink.Route {
	var all []netlink.Route
	for _, family := range []int{netlink.FAMILY_V6, netlink.FAMILY_V4} {
		filter := &netlink.Route{Dst: nil, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}
		mask := netlink.RT_FILTER_DST | netlink.RT_FILTER_TABLE | netlink.RT_FILTER_TYPE
		routes, _ := whole(func() (found []netlink.Route, err error) {
			err = h.RouteListFilteredIter(family, filter, mask, func(route netlink.Route) bool {
				found = append(found, route)
				return true
			})
			return found, err
		}) // a family that is not there has no default route
		all = append(all, routes...)
	}
	return all
}

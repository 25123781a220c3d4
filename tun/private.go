package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Private is what a namespace gets that was made for the device, and has nothing
// else. Nothing of it has to be put back: it goes with the namespace.
type Private struct {
	Name      string         `json:"name"` // of the device, 1 to 15 bytes
	MTU       int            `json:"mtu"`  // bytes
	Addresses []netip.Addr   `json:"addresses"`
	Routes    []netip.Prefix `json:"routes"` // into the device, in the main table
}

// Furnish sets up the network namespace of the calling thread: its loopback, the
// device, addresses and routes. It returns the descriptor of the device, for
// [Adopt], here or in another process. A family that this kernel does not have is
// left out.
func Furnish(p Private) (*os.File, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("tun: netlink: %w", err)
	}
	defer h.Close()
	loopback, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(loopback)
	}
	if err != nil {
		return nil, fmt.Errorf("tun: set the loopback up: %w", err)
	}
	fd, err := openDevice(p.Name)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), clonePath)
	link, err := raise(h, p.Name, p.MTU)
	if err == nil {
		err = furnish(h, link, p)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func furnish(h *netlink.Handle, link netlink.Link, p Private) error {
	for _, a := range p.Addresses {
		if err := addAddress(h, link, a); err != nil && !noFamily(err) {
			return err
		}
	}
	for _, r := range p.Routes {
		if err := h.RouteReplace(routeOf(r, unix.RT_TABLE_MAIN, link.Attrs().Index)); err != nil && !noFamily(err) {
			return fmt.Errorf("tun: add the route of %v: %w", r, err)
		}
	}
	return nil
}

// noFamily says whether IPv6 or IPv4 is not to be had (disable_ipv6 is EACCES).
func noFamily(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

// Adopt takes over a device that was made by [Furnish], in whatever namespace; it
// owns file from here.
func Adopt(file *os.File, mode OffloadMode) (*Device, Offload, error) {
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, Offload{}, fmt.Errorf("tun: take over the device: %w", err)
	}
	device, err := hold(fd)
	if err != nil {
		return nil, Offload{}, err
	}
	offload, err := device.offload(mode)
	if err != nil {
		return nil, Offload{}, errors.Join(err, device.Close())
	}
	return device, offload, nil
}

// UplinkMTU is the smallest MTU among the links of the default routes, in the
// namespace of the calling thread; 1,500 if there are none.
func UplinkMTU() (int, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return 0, fmt.Errorf("tun: netlink: %w", err)
	}
	defer h.Close()
	return uplinkMTU(h), nil
}

package nat

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
)

// Numbers that package syscall lacks (linux/in.h, linux/in6.h).
const (
	ipTransparent       = 19
	ipv6Transparent     = 75
	ipBindAddressNoPort = 24
)

// bindAs gives a socket a source address, which may be another host's.
func bindAs(fd int, from netip.Addr) error {
	if err := setAnySource(fd, from.Is4()); err != nil {
		return err
	}
	if err := syscall.Bind(fd, sockaddr(netip.AddrPortFrom(from, 0))); err != nil {
		return fmt.Errorf("nat: bind to the client's address %v: %w", from, err)
	}
	return nil
}

// setAnySource lets a socket be bound to other hosts' addresses (ip(7),
// IP_TRANSPARENT), and has its port chosen when it is connected, so that ports
// are used up towards one member, and not for all.
func setAnySource(fd int, v4 bool) error {
	level, option := syscall.IPPROTO_IPV6, ipv6Transparent
	if v4 {
		level, option = syscall.IPPROTO_IP, ipTransparent
	}
	if err := syscall.SetsockoptInt(fd, level, option, 1); err != nil {
		return fmt.Errorf("nat: setsockopt IP_TRANSPARENT: %w", err)
	}
	if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, ipBindAddressNoPort, 1); err != nil {
		return fmt.Errorf("nat: setsockopt IP_BIND_ADDRESS_NO_PORT: %w", err)
	}
	return nil
}

// MayUseAnySource returns an error if this process may not send from other hosts'
// addresses of a family, which needs CAP_NET_ADMIN or CAP_NET_RAW.
func (*Kernel) MayUseAnySource(v4 bool) error {
	family := syscall.AF_INET6
	if v4 {
		family = syscall.AF_INET
	}
	fd, err := syscall.Socket(family, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("nat: socket: %w", err)
	}
	return errors.Join(setAnySource(fd, v4), syscall.Close(fd))
}

package nat

import (
	"fmt"
	"syscall"
)

func setRecvErr(fd int, v4 bool, on int) error {
	level, option := syscall.IPPROTO_IPV6, syscall.IPV6_RECVERR
	if v4 {
		level, option = syscall.IPPROTO_IP, syscall.IP_RECVERR
	}
	if err := syscall.SetsockoptInt(fd, level, option, on); err != nil {
		return fmt.Errorf("nat: setsockopt RECVERR: %w", err)
	}
	return nil
}

// commonHops is the hop limit that nearly every host sends with, ours too
// (RFC 1700, "IP TTL"; Linux's ip_default_ttl).
const commonHops = 64

func setHops(fd int, v4 bool, hops uint8) error {
	if hops == 0 || hops == commonHops {
		return nil
	}
	level, option := syscall.IPPROTO_IPV6, syscall.IPV6_UNICAST_HOPS
	if v4 {
		level, option = syscall.IPPROTO_IP, syscall.IP_TTL
	}
	if err := syscall.SetsockoptInt(fd, level, option, int(hops)); err != nil {
		return fmt.Errorf("nat: set the hop limit %d: %w", hops, err)
	}
	return nil
}

func setClass(fd int, v4 bool, class uint8) error {
	if class == 0 {
		return nil // the default
	}
	level, option := syscall.IPPROTO_IPV6, syscall.IPV6_TCLASS
	if v4 {
		level, option = syscall.IPPROTO_IP, syscall.IP_TOS
	}
	if err := syscall.SetsockoptInt(fd, level, option, int(class)); err != nil {
		return fmt.Errorf("nat: set the traffic class %#x: %w", class, err)
	}
	return nil
}

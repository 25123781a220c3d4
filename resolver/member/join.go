package member

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Membership holds an anycast address on an interface until it is closed.
type Membership struct {
	file *os.File
	aa   netip.Addr
	dev  string
}

// Join joins aa on the interface dev, in the network namespace of the calling
// thread. It needs CAP_NET_ADMIN. An error says why the kernel refuses and what
// to do; it wraps the kernel's own.
func Join(aa netip.Addr, dev string) (*Membership, error) {
	if !aa.Is6() || aa.Is4In6() || aa.Zone() != "" || !aa.IsGlobalUnicast() {
		return nil, fmt.Errorf("member: %v is no IPv6 address that can be joined: name a global one, such as 2001:db8:aa::1", aa)
	}
	link, err := net.InterfaceByName(dev)
	if err != nil {
		return nil, fmt.Errorf("member: no interface %q here: see 'ip link': %w", dev, err)
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("member: no IPv6 socket: is IPv6 disabled on this host? %w", os.NewSyscallError("socket", err))
	}
	m := &Membership{file: os.NewFile(uintptr(fd), "anycast "+aa.String()), aa: aa, dev: dev}
	mreq := &unix.IPv6Mreq{Multiaddr: aa.As16(), Interface: uint32(link.Index)}
	if err := unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_ANYCAST, mreq); err != nil {
		return nil, errors.Join(explain(err, aa, link), m.file.Close())
	}
	joined, err := isJoined(aa, dev)
	if err == nil && !joined {
		err = fmt.Errorf("member: the kernel accepted %v on %s and yet does not list it in /proc/net/anycast6", aa, dev)
	}
	if err != nil {
		return nil, errors.Join(err, m.file.Close())
	}
	return m, nil
}

// minMTU is the least MTU of a link that carries IPv6 (RFC 8200 section 5); the
// kernel has no IPv6 on others.
const minMTU = 1280

// explain says what the kernel means (ipv6_sock_ac_join in net/ipv6/anycast.c).
// It says some things with an error that means another.
func explain(err error, aa netip.Addr, link *net.Interface) error {
	dev := link.Name
	refused := fmt.Sprintf("member: the kernel refuses %v on %s", aa, dev)
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("member: joining %v needs CAP_NET_ADMIN: run as root: %w", aa, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%s, because the address is configured as an ordinary one on this host ('ip -6 addr show to %v'): %w", refused, aa, err)
	case isDisabled(dev):
		return fmt.Errorf("%s, because IPv6 is disabled there: 'sysctl -w net.ipv6.conf.%s.disable_ipv6=0': %w", refused, strings.ReplaceAll(dev, ".", "/"), err)
	case errors.Is(err, unix.ENODEV) && link.MTU < minMTU:
		return fmt.Errorf("%s, because its MTU is %d, and IPv6 needs %d: 'ip link set %s mtu %d': %w", refused, link.MTU, minMTU, dev, minMTU, err)
	case link.Flags&net.FlagUp == 0:
		return fmt.Errorf("%s, because the interface is down: 'ip link set %s up': %w", refused, dev, err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("%s, because a host may only join an address in an on-link prefix of that interface: give the interface an address in that prefix ('ip addr add PREFIX dev %s'), or make the host a router ('sysctl -w net.ipv6.conf.all.forwarding=1'): %w", refused, dev, err)
	}
	return fmt.Errorf("%s: %w", refused, err)
}

func isDisabled(dev string) bool {
	value, err := os.ReadFile(filepath.Join(sysctlRoot, "conf", dev, "disable_ipv6"))
	return err == nil && strings.TrimSpace(string(value)) == "1"
}

// isJoined looks the address up in the thread's own namespace.
func isJoined(aa netip.Addr, dev string) (joined bool, err error) {
	list, err := os.Open("/proc/thread-self/net/anycast6")
	if err != nil {
		return false, fmt.Errorf("member: %w", err)
	}
	defer func() { err = errors.Join(err, list.Close()) }()
	wanted := hex.EncodeToString(aa.AsSlice())
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		// index, device, address, users
		fields := strings.Fields(lines.Text())
		if len(fields) >= 3 && fields[1] == dev && fields[2] == wanted {
			return true, nil
		}
	}
	return false, lines.Err()
}

// Close leaves the anycast address.
func (m *Membership) Close() error {
	if err := m.file.Close(); err != nil {
		return fmt.Errorf("member: leave %v: %w", m.aa, err)
	}
	return nil
}

// String returns AA%DEV.
func (m *Membership) String() string { return m.aa.String() + "%" + m.dev }

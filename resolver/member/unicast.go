package member

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	uaLifetime = 10 * time.Second // of a chosen UA
	maxUAs     = 16384            // askers whose UA is kept
)

// unicasts chooses the unicast address that an asker is told. Without a given
// one it is the source address that the kernel would take on the way back to
// the asker: the asker's flows then arrive on the interface that leads to it.
type unicasts struct {
	anycast []netip.Addr
	given   []netip.Addr // at most one of each family

	mu     sync.Mutex
	chosen map[netip.Addr]choice // by asker
	swept  time.Time
}

type choice struct {
	ua    netip.Addr
	until time.Time
}

func newUnicasts(anycast, given []netip.Addr) *unicasts {
	return &unicasts{anycast: anycast, given: given, chosen: make(map[netip.Addr]choice)}
}

// to returns the UA for an asker; it is not valid if there is none.
func (u *unicasts) to(asker netip.Addr, now time.Time) netip.Addr {
	for _, ua := range u.given {
		if ua.Is4() == asker.Is4() {
			return ua
		}
	}
	if len(u.given) > 0 {
		return netip.Addr{}
	}
	u.mu.Lock()
	c, ok := u.chosen[asker]
	u.mu.Unlock()
	if ok && now.Before(c.until) {
		return c.ua
	}
	ua := u.choose(asker)
	u.keep(asker, choice{ua, now.Add(uaLifetime)}, now)
	return ua
}

func (u *unicasts) keep(asker netip.Addr, c choice, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, known := u.chosen[asker]; !known && len(u.chosen) >= maxUAs {
		if now.Sub(u.swept) < sweepPause {
			return // this one is looked up again each time
		}
		u.swept = now
		for other, old := range u.chosen {
			if !now.Before(old.until) {
				delete(u.chosen, other)
			}
		}
		if len(u.chosen) >= maxUAs {
			return
		}
	}
	u.chosen[asker] = c
}

// choose asks the kernel. Where interfaces have no addresses of their own, as
// with unnumbered BGP, it may name AA, which is on lo; then the only other
// global address of this host is meant. If there are several, nobody can say.
func (u *unicasts) choose(asker netip.Addr) netip.Addr {
	if ua, err := sourceTo(asker); err == nil && u.usable(ua, asker) {
		return ua
	}
	candidates := u.locals(asker)
	if len(candidates) != 1 {
		return netip.Addr{}
	}
	return candidates[0]
}

// usable says whether an address can be named to an asker.
func (u *unicasts) usable(ua, asker netip.Addr) bool {
	return ua.IsGlobalUnicast() && ua.Is4() == asker.Is4() && !slices.Contains(u.anycast, ua)
}

// locals are the addresses of this host that can be named to an asker.
func (u *unicasts) locals(asker netip.Addr) []netip.Addr {
	var found []netip.Addr
	for _, ua := range Locals() {
		if u.usable(ua, asker) && !slices.Contains(found, ua) {
			found = append(found, ua)
		}
	}
	return found
}

// Locals returns the addresses of this host.
func Locals() []netip.Addr {
	var own []netip.Addr
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil // without the list no address is known to be ours
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, p.Addr().Unmap())
		}
	}
	return own
}

// sourceTo returns the source address of datagrams to an address, by connecting
// a socket to it, which sends nothing.
func sourceTo(to netip.Addr) (netip.Addr, error) {
	domain := unix.AF_INET6
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: to.As16(), Port: DefaultPort, ZoneId: zoneID(to)}
	if to.Is4() {
		domain, sa = unix.AF_INET, &unix.SockaddrInet4{Addr: to.As4(), Port: DefaultPort}
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("member: %w", os.NewSyscallError("socket", err))
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written to it
	if err := unix.Connect(fd, sa); err != nil {
		return netip.Addr{}, fmt.Errorf("member: no route to %v: %w", to, err)
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("member: %w", os.NewSyscallError("getsockname", err))
	}
	switch local := local.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(local.Addr), nil
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(local.Addr), nil
	}
	return netip.Addr{}, fmt.Errorf("member: no route to %v", to)
}

func zoneID(a netip.Addr) uint32 {
	if a.Zone() == "" {
		return 0
	}
	link, err := net.InterfaceByName(a.Zone())
	if err != nil {
		return 0 // the connect then says what is wrong
	}
	return uint32(link.Index)
}

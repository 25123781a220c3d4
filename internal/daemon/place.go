package daemon

import (
	"context"
	"net/netip"
	"syscall"

	"aarptun/internal/config"
	"aarptun/nat"
	"aarptun/resolver"
	"aarptun/tun"
)

// place is where the packets come from.
type place struct {
	host    *tun.Host // nil if the device is a command's
	name    string    // of the device
	mtu     int       // bytes
	device  *tun.Device
	offload tun.Offload
	isLocal func(netip.Addr) bool // addresses that no member can have; nil if there are none

	// everything: the device is the only way out of a namespace, so that packets to
	// any address come.
	everything bool
	// resolvers are the addresses that stand there for name servers which only
	// our own namespace can reach.
	resolvers map[netip.Addr]netip.Addr
}

func hostPlace(cfg config.Config, h *tun.Host) place {
	return place{host: h, name: h.Name(), mtu: h.MTU(), device: h.Device(), offload: h.Offload(), isLocal: isLocal(cfg, h)}
}

// policies are those for the addresses that no configured prefix has.
func (p place) policies(cfg config.Config) []resolver.Policy {
	if !p.everything {
		return nil
	}
	unresolved := resolver.Through
	if len(cfg.Prefixes) > 0 {
		unresolved = resolver.Straight
	}
	var policies []resolver.Policy
	for _, all := range []string{"::/0", "0.0.0.0/0"} {
		policies = append(policies, resolver.Policy{
			Prefix: netip.MustParsePrefix(all), Members: cfg.MemberPrefixes.For(config.AllPrefixes), Unresolved: unresolved,
		})
	}
	return policies
}

func (p place) resolver(r *resolver.Resolver) nat.Resolver {
	if len(p.resolvers) == 0 {
		return r
	}
	return namingResolver{r, p.resolvers}
}

func (p place) outside(k *nat.Kernel) nat.Outside {
	if len(p.resolvers) == 0 {
		return k
	}
	return namingOutside{k}
}

// namingResolver leads what is sent to a stand-in to the name server that it
// stands for.
type namingResolver struct {
	nat.Resolver
	stands map[netip.Addr]netip.Addr
}

// Resolve implements [nat.Resolver].
func (r namingResolver) Resolve(ctx context.Context, client, aa netip.Addr) (netip.Addr, error) {
	if server, ok := r.stands[aa]; ok {
		return server, nil
	}
	return r.Resolver.Resolve(ctx, client, aa)
}

// Suspect implements [nat.Resolver].
func (r namingResolver) Suspect(aa, ua netip.Addr) {
	if _, ok := r.stands[aa]; !ok {
		r.Resolver.Suspect(aa, ua)
	}
}

// namingOutside keeps the loopback of this host to itself, but for its name
// server: only DNS gets there.
type namingOutside struct{ nat.Outside }

const portDNS = 53

// isNaming says whether a stand-in may lead to ua; no other address is refused.
func isNaming(ua netip.AddrPort) bool {
	own := ua.Addr().IsLoopback() || ua.Addr().IsUnspecified() || ua.Addr().IsLinkLocalUnicast()
	return !own || ua.Port() == portDNS
}

// DialTCP implements [nat.Outside].
func (o namingOutside) DialTCP(ctx context.Context, from netip.Addr, ua netip.AddrPort, m nat.Meta) (nat.OutsideTCP, error) {
	if !isNaming(ua) {
		return nil, syscall.ECONNREFUSED
	}
	return o.Outside.DialTCP(ctx, from, ua, m)
}

// DialUDP implements [nat.Outside].
func (o namingOutside) DialUDP(ctx context.Context, from netip.Addr, ua netip.AddrPort) (nat.UDPConn, error) {
	if !isNaming(ua) {
		return nil, syscall.ECONNREFUSED
	}
	return o.Outside.DialUDP(ctx, from, ua)
}

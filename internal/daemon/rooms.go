package daemon

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"aarptun/internal/admin"
	"aarptun/internal/config"
	"aarptun/nat"
	"aarptun/resolver"
	"aarptun/resolver/member"
	"aarptun/resolver/ping"
)

// newMember returns what asks the members' responders, or nil if nothing is to
// be asked.
func newMember(cfg config.Config, rings []member.Keyring, log *slog.Logger) (*member.Prober, error) {
	if cfg.STUNPort == 0 {
		return nil, nil
	}
	return member.OpenProber(member.ProberConfig{Mark: cfg.SocketMark(), Port: cfg.STUNPort, Lanes: lanesFor(cfg.Select), Rings: rings, Log: log})
}

// lanesFor is how many source ports ask responders: as many as there are paths
// to be looked for, where any are.
func lanesFor(s config.Select) int {
	if s == config.SelectFirst {
		return 0 // the default
	}
	return resolver.Paths
}

var (
	stickies    = map[config.Sticky]resolver.Sticky{config.StickyHost: resolver.Host, config.StickySource: resolver.Source, config.StickyFlow: resolver.Flow}
	unresolveds = map[config.Unresolved]resolver.Unresolved{config.Direct: resolver.Direct, config.Reject: resolver.Reject}
	selects     = map[config.Select]resolver.Select{config.SelectFirst: resolver.First, config.SelectRTT: resolver.RTT, config.SelectSpread: resolver.Spread}
)

// newResolver resolves by the plan's rules, with every prober there is.
func newResolver(p plan, socket *ping.Socket, stun *member.Prober, isLocal func(netip.Addr) bool, log *slog.Logger) (*resolver.Resolver, error) {
	probers := []resolver.Prober{resolver.NewICMP(socket)}
	if stun != nil {
		probers = append(probers, resolver.NewSTUN(stun))
	}
	return resolver.New(resolver.Config{
		Policies: p.rules.Policies, Static: p.rules.Static, Probers: probers,
		TTL: p.rules.TTL, Stale: p.cfg.Stale, Sticky: stickies[p.cfg.Sticky], Select: selects[p.cfg.Select], IsLocal: isLocal, Log: log,
	})
}

// sourceOf returns what tells which address the member is to see for a client, or
// nil if it is always this host's.
func sourceOf(cfg config.Config, k *nat.Kernel, isLocal func(netip.Addr) bool) (func(client netip.Addr) netip.Addr, error) {
	if !cfg.PreserveSource {
		return nil, nil
	}
	for _, p := range cfg.Prefixes {
		if err := k.MayUseAnySource(p.Addr().Is4()); err != nil {
			return nil, fmt.Errorf("daemon: no socket may bear a client's address: run as root or with CAP_NET_ADMIN, or do without --preserve-source: %w", err)
		}
	}
	return func(client netip.Addr) netip.Addr {
		// What is this host's own, the kernel knows best which to use; and no
		// member could answer to a link-local one.
		if !client.IsGlobalUnicast() || isLocal(client) {
			return netip.Addr{}
		}
		return client
	}, nil
}

// source answers the admin socket.
type source struct {
	house   *house
	version string
	started time.Time
}

// Status implements [admin.Source].
func (s *source) Status() admin.Status {
	rooms := map[string]any{"ping": s.house.ping.Stats(), "stack": s.house.stack.Stats()}
	if s.house.host != nil {
		rooms["tun"] = s.house.host.Stats()
	}
	if s.house.member != nil {
		rooms["stun"] = s.house.member.Stats()
	}
	if s.house.offload != nil {
		rooms["nft"] = s.house.offload.stats()
	}
	if s.house.capture != nil {
		rooms["capture"] = s.house.capture.Stats()
	}
	goroutines, files, resident := ownUse()
	return admin.Status{
		Version: s.version, PID: os.Getpid(), Started: s.started,
		Device: s.house.place.name, MTU: s.house.place.mtu, Prefixes: s.house.now.config().Prefixes, Config: s.house.configStatus(), PreserveSource: s.house.now.config().PreserveSource,
		Goroutines: goroutines, OpenFiles: files, ResidentBytes: resident,
		NAT: s.house.translator.Stats(), Resolver: s.house.resolver.Stats(),
		Rooms: rooms,
	}
}

// Flows implements [admin.Source].
func (s *source) Flows() []nat.FlowInfo {
	return append(s.house.translator.Flows(), s.house.offload.flows()...)
}

// Flush implements [admin.Source].
func (s *source) Flush(aa netip.Addr, cut bool) (flushed admin.Flushed, err error) {
	for _, p := range s.house.resolver.Pins() {
		if !aa.IsValid() || p.Anycast == aa {
			flushed.Pins++
		}
	}
	s.house.resolver.Flush(aa)
	if cut {
		flushed.Cut, err = s.house.offload.cut(aa)
	}
	return flushed, err
}

// Pins implements [admin.Source].
func (s *source) Pins() []admin.Pin {
	pins := []admin.Pin{}
	for _, p := range s.house.resolver.Pins() {
		pins = append(pins, admin.Pin{
			Anycast: p.Anycast, Member: p.Member, Method: p.Method, Trust: p.Trust.String(), SelfAnswer: p.SelfAnswer,
			Client: p.Client, Stale: p.Stale,
			RTT: p.RTT.Microseconds(), TTL: time.Until(p.Expires).Milliseconds(),
		})
	}
	return pins
}

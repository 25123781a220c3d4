package daemon

import (
	"log/slog"
	"os"
	"time"

	"aarptun/internal/admin"
	"aarptun/internal/config"
	"aarptun/nat"
	"aarptun/resolver"
	"aarptun/resolver/ping"
	"aarptun/tun"
)

// newResolver gives each prefix the policy that the configuration asks for.
func newResolver(cfg config.Config, socket *ping.Socket, locals *tun.Locals, log *slog.Logger) (*resolver.Resolver, error) {
	unresolved := resolver.Direct
	if cfg.Unresolved == config.Reject {
		unresolved = resolver.Reject
	}
	var policies []resolver.Policy
	for _, p := range cfg.Prefixes {
		policies = append(policies, resolver.Policy{Prefix: p, Members: cfg.MemberPrefixes, Unresolved: unresolved})
	}
	return resolver.New(resolver.Config{
		Policies: policies, Static: cfg.Static, Probers: []resolver.Prober{resolver.NewICMP(socket)},
		TTL: cfg.CacheTTL, IsLocal: locals.Contains, Log: log,
	})
}

// source answers the admin socket.
type source struct {
	house   *house
	cfg     config.Config
	version string
	started time.Time
}

// Status implements [admin.Source].
func (s *source) Status() admin.Status {
	return admin.Status{
		Version: s.version, PID: os.Getpid(), Started: s.started,
		Device: s.house.host.Name(), MTU: s.house.host.MTU(), Prefixes: s.cfg.Prefixes,
		NAT: s.house.translator.Stats(), Resolver: s.house.resolver.Stats(),
		Rooms: map[string]any{"ping": s.house.ping.Stats(), "stack": s.house.stack.Stats()},
	}
}

// Flows implements [admin.Source].
func (s *source) Flows() []nat.FlowInfo { return s.house.translator.Flows() }

// Pins implements [admin.Source].
func (s *source) Pins() []admin.Pin {
	pins := []admin.Pin{}
	for _, p := range s.house.resolver.Pins() {
		pins = append(pins, admin.Pin{
			Anycast: p.Anycast, Member: p.Member, Method: p.Method, Trust: p.Trust.String(), SelfAnswer: p.SelfAnswer,
			RTT: p.RTT.Microseconds(), TTL: time.Until(p.Expires).Milliseconds(),
		})
	}
	return pins
}

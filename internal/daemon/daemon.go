package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"aarptun/internal/admin"
	"aarptun/internal/capture"
	"aarptun/internal/config"
	"aarptun/internal/metrics"
	"aarptun/nat"
	"aarptun/resolver"
	"aarptun/resolver/member"
	"aarptun/resolver/ping"
	"aarptun/stack"
	"aarptun/tun"
)

// Run carries the configured prefixes until ctx ends, then puts everything
// back; it returns nil if that was all there was to say. ready is called once,
// when flows are carried. cfg must be valid. On SIGHUP it takes on what reload
// loads then, but for the keys that are Fixed; the zero Reload loads nothing. Its
// file and those that cfg names can still be read then: others are closed to
// the process.
func Run(ctx context.Context, cfg config.Config, version string, log *slog.Logger, ready func() error, reload Reload) (err error) {
	hangups, stop := hangups()
	defer stop()
	on := openTerminal()
	defer on.close()
	ctx, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	raiseFiles(cfg)
	host, followed, leave, err := open(ctx, cfg)
	if errors.Is(err, tun.ErrCarried) && cfg.Offload == config.OffloadMaybe {
		log.Warn("the kernel carries flows for another aarptun, so all go through the device", "err", err)
		cfg.Offload, cfg.KeepFlows = config.OffloadNone, false
		host, followed, leave, err = open(ctx, cfg)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close(), leave()) }()
	house, err := build(cfg, version, hostPlace(cfg, host), log, reload)
	if err != nil {
		return err
	}
	return house.run(followed, ready, func(ctx context.Context) error {
		return house.reloads(ctx, hangups, on, func() { lost(errHangUp) })
	})
}

// house is the assembled rooms.
type house struct {
	host       *tun.Host // nil for a command's device, of which nothing is to be put back
	ping       *ping.Socket
	kernel     *nat.Kernel
	member     *member.Prober // nil if responders are not asked
	resolver   *resolver.Resolver
	translator *nat.Translator
	stack      *stack.Stack
	admin      *admin.Server   // nil if nobody is to be answered
	offload    *offload        // nil if the kernel carries nothing
	metrics    *metrics.Server // nil if nobody may ask
	capture    *capture.Tap    // nil if nothing is written
	confined   *confinement
	log        *slog.Logger

	place     place
	reloading Reload
	now       current

	carries chan struct{} // is closed when flows are carried
}

func build(cfg config.Config, version string, at place, log *slog.Logger, reload Reload) (h *house, err error) {
	h = &house{host: at.host, place: at, log: log, reloading: reload, carries: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.discard())
		}
	}()
	p, err := newPlan(cfg, nil)
	if err != nil {
		return h, err
	}
	p.rules.Policies = append(p.rules.Policies, at.policies(cfg)...)
	h.now.plan, h.now.loaded = p, time.Now()
	if h.ping, err = ping.Open(ping.Config{Mark: cfg.SocketMark()}); err != nil {
		return h, err
	}
	if h.member, err = newMember(cfg, p.rings, log); err != nil {
		return h, err
	}
	if h.resolver, err = newResolver(p, h.ping, h.member, at.isLocal, log); err != nil {
		return h, err
	}
	if h.kernel, err = nat.NewKernel(tun.Control(cfg.SocketMark())); err != nil {
		return h, err
	}
	sourceFor, err := sourceOf(cfg, h.kernel, at.isLocal)
	if err != nil {
		return h, err
	}
	h.translator, err = nat.New(nat.Config{
		Resolver: at.resolver(h.resolver), Outside: at.outside(h.kernel), Pinger: h.ping, Source: sourceFor, Limits: p.limits, Log: log,
	})
	if err != nil {
		return h, err
	}
	device, err := h.tapped(cfg, version)
	if err != nil {
		return h, err
	}
	h.stack, err = stack.New(device, h.translator, stack.Config{
		MTU: at.mtu, Prefixes: p.led, Everything: at.everything, Log: log,
		TCPOffload: at.offload.TCP, UDPOffload: at.offload.UDP,
	})
	if err != nil || cfg.AdminSocket == "" {
		return h, err
	}
	if h.offload, err = openOffload(cfg, h.resolver, log); err != nil {
		return h, err
	}
	if err := h.listenMetrics(cfg, version, log); err != nil {
		return h, err
	}
	h.admin, err = admin.Listen(cfg.AdminSocket, &source{house: h, version: version, started: time.Now()}, log)
	if err != nil || h.host == nil {
		return h, err // what carries one command has only what its user has
	}
	h.confined, err = confine(cfg, reload.files())
	return h, err
}

// discard frees the rooms of a house that never ran, those that were built.
func (h *house) discard() error {
	errs := []error{h.offload.discard(h.host)}
	if h.admin != nil {
		errs = append(errs, h.admin.Close())
	}
	if h.stack != nil {
		errs = append(errs, h.stack.Close())
	}
	if h.member != nil {
		errs = append(errs, h.member.Close())
	}
	if h.ping != nil {
		errs = append(errs, h.ping.Close())
	}
	if h.kernel != nil {
		errs = append(errs, h.kernel.Close())
	}
	if h.capture != nil {
		errs = append(errs, h.capture.Discard())
	}
	if h.metrics != nil {
		errs = append(errs, h.metrics.Close())
	}
	return errors.Join(errs...)
}

// run starts the rooms, puts the routes, and takes all back when ctx ends or
// when a room fails.
func (h *house) run(ctx context.Context, ready func() error, reloads func(context.Context) error) error {
	// The rooms outlive ctx: its end starts the stop, whose last step ends
	// them.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	group, failed := errgroup.WithContext(life)
	rooms := []func(context.Context) error{h.ping.Run, h.kernel.Run, h.resolver.Run, h.translator.Run, h.carry, h.admin.Run, h.watch, h.live, h.giveBack, reloads}
	if h.member != nil {
		rooms = append(rooms, h.member.Run)
	}
	if h.metrics != nil {
		rooms = append(rooms, h.metrics.Run)
	}
	if h.capture != nil {
		rooms = append(rooms, h.capture.Run)
	}
	if h.offload != nil {
		rooms = append(rooms, h.offload.run)
	}
	for _, room := range rooms {
		group.Go(func() error { return room(failed) })
	}
	err := h.serve(ctx, failed, ready)
	end()
	err = errors.Join(err, group.Wait())
	return errors.Join(err, h.offload.close(h.host), h.kernel.Close(), h.confined.close())
}

// carry carries packets. A device that was deleted is told from one that fails.
func (h *house) carry(ctx context.Context) error {
	err := h.stack.Run(ctx)
	if err != nil {
		err = cmp.Or(h.host.Missing(), err)
	}
	return err
}

// watch puts back what other programs take away of routes and rules.
func (h *house) watch(ctx context.Context) error { return h.host.Watch(ctx, h.log) }

// serve is the time between the routes' coming and their going.
func (h *house) serve(ctx, failed context.Context, ready func() error) error {
	cfg := h.now.plan.cfg
	if err := h.host.AddRoutes(); err != nil {
		return err
	}
	err := h.announce(ready)
	if err == nil {
		if limits := limitsOf(cfg); limits != askedLimits(cfg) {
			h.log.Info("the process may open few files, so it carries fewer flows: raise its limit (ulimit -n, LimitNOFILE=)",
				"files", mayOpen(), "flows", limits.Flows, "udp_flows", limits.UDPFlows)
		}
		h.confined.tell(h.log)
		h.log.Info("carrying", "device", h.host.Name(), "mtu", h.host.MTU(), "offload_tcp", h.host.Offload().TCP, "offload_udp", h.host.Offload().UDP, "prefixes", cfg.Prefixes)
		select {
		case <-ctx.Done():
			h.log.Info("stopping", "cause", context.Cause(ctx), "flows", len(h.translator.Flows()))
		case <-failed.Done():
			h.log.Error("a room has failed, stopping")
		}
	}
	h.now.stop()
	h.drain(failed, h.now.config().DrainTimeout)
	return errors.Join(err, h.host.RemoveRoutes())
}

// drain lets the flows end by themselves for so long, and cuts them then: at
// once if a room has failed, and as soon as one is asked a second time. They
// need the routes for it: without them a client's next packet goes to the
// network, and to a member that has never heard of the flow.
func (h *house) drain(failed context.Context, timeout time.Duration) {
	asked, stop := signal.NotifyContext(failed, os.Interrupt, syscall.SIGTERM)
	defer stop()
	notify(h.log, daemon.SdNotifyStopping+"\nSTATUS=stopping: no new flows, and those that exist may go on for "+timeout.String())
	ctx, cancel := context.WithTimeout(asked, timeout)
	defer cancel()
	began := time.Now()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		h.offload.stop(ctx)
	}()
	err := h.translator.Drain(ctx)
	<-stopped
	if err != nil {
		h.log.Info("flows were cut", "after", time.Since(began).Round(time.Millisecond))
	}
}

func (h *house) announce(ready func() error) error {
	if err := ready(); err != nil {
		return fmt.Errorf("daemon: cannot say that it is ready: %w", err)
	}
	notify(h.log, daemon.SdNotifyReady)
	close(h.carries)
	return nil
}

// notify tells systemd, if it is there to be told.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd could not be told", "state", state, "err", err)
	}
}

var offloads = map[config.OffloadGSO]tun.OffloadMode{
	config.OffloadAuto: tun.OffloadAuto, config.OffloadOn: tun.OffloadOn, config.OffloadOff: tun.OffloadOff,
}

func tunConfig(cfg config.Config) tun.Config {
	return tun.Config{
		Name: cfg.TUN, MTU: cfg.MTU, Prefixes: cfg.Prefixes,
		Table: cfg.Table, Mark: cfg.Mark, Dir: cfg.StateDir, Offload: offloads[cfg.OffloadGSO],
		Address: cfg.Netns != "", Returns: cfg.PreserveSource, Carried: askedOffload(cfg),
	}
}

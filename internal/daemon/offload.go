package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"aarptun/internal/config"
	"aarptun/resolver"
	"aarptun/tun"
	"aarptun/tun/nft"
)

// offload has the kernel carry the flows whose address is pinned before they
// begin. A nil offload carries none.
type offload struct {
	table    *nft.Table
	resolver *resolver.Resolver
	keep     bool // what it carries outlives us
	log      *slog.Logger

	setting sync.Mutex // whoever has it brings the newest pins
	failed  string     // the last failure, said once

	uses uses // of run alone

	seeing sync.Mutex
	unseen string // why the flows cannot be seen, said once

	counting sync.Mutex // whoever has it counts, or takes what another has counted
	counted  nft.Count
	until    time.Time // so long it will do
}

const (
	// lookEvery is how often it is seen whether another program has removed the
	// table, as 'nft flush ruleset' does, in case the kernel has not said so.
	lookEvery = 10 * time.Second

	// A burst of changes is answered by few looks at all pins: each waits at
	// least for so long, and for so many times what the last has taken. So do
	// looks at the kernel's flows that may be old.
	setApart = 10 * time.Millisecond
	setRest  = 4

	// endedEvery is how often a drain looks whether the kernel's flows have ended.
	endedEvery = 100 * time.Millisecond
)

// askedOffload says whether the configuration wants the kernel to carry flows. It
// cannot where programs and members are reached from different namespaces.
func askedOffload(cfg config.Config) bool {
	return cfg.Offload != config.OffloadNone && cfg.Netns == ""
}

var offloadKeys = map[config.Sticky]nft.Key{config.StickyHost: nft.ByAnycast, config.StickySource: nft.BySource, config.StickyFlow: nft.ByTurn}

// keyOf is by what the kernel finds a member, so that its choice is the
// resolver's.
func keyOf(cfg config.Config) nft.Key {
	if cfg.Sticky == config.StickyFlow && cfg.Select != config.SelectSpread {
		return nft.ByAnycast // there is one member for the next flow, whosever it is
	}
	return offloadKeys[cfg.Sticky]
}

// openOffload makes the kernel ready, or returns nil if it need not be, or need
// not be able to.
func openOffload(cfg config.Config, r *resolver.Resolver, log *slog.Logger) (*offload, error) {
	if !askedOffload(cfg) {
		if cfg.Offload != config.OffloadNone {
			log.Info("the kernel cannot carry the flows of another namespace, so all go through the device")
		}
		return nil, nil
	}
	table, err := nft.Open(nft.Config{Prefixes: cfg.Prefixes, Mark: cfg.Mark, Key: keyOf(cfg), Masquerade: !cfg.PreserveSource})
	switch {
	case err == nil:
		if table.LeavesBridges() {
			log.Info("flows of other hosts that come over a bridge go through the device, since net.bridge.bridge-nf-call-iptables or -ip6tables is 1")
		}
		return &offload{table: table, resolver: r, keep: cfg.KeepFlows, log: log}, nil
	case cfg.Offload == config.OffloadMaybe:
		log.Warn("the kernel cannot carry flows, so all go through the device", "err", err)
		return nil, nil
	case errors.Is(err, nft.ErrUnsupported):
		return nil, fmt.Errorf("%w: --offload nft: %w: mend that, or use --offload auto", tun.ErrConfig, err)
	}
	return nil, err
}

// run keeps the kernel's pins those of the resolver, and tells it which are used.
func (o *offload) run(ctx context.Context) error {
	var guard sync.WaitGroup
	defer guard.Wait()
	guard.Go(func() { o.guard(ctx) })
	used := time.NewTimer(0) // it finds no pins
	defer used.Stop()
	for {
		ask := false
		select {
		case <-ctx.Done():
			return nil
		case <-o.resolver.Changed():
		case <-used.C:
			ask = true
		}
		began := time.Now()
		if ask {
			o.tellUses()
		}
		used.Stop()
		if at, ok := o.uses.next(o.set(), time.Now()); ok {
			used.Reset(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(setApart, setRest*time.Since(began))):
		}
	}
}

// guard puts the table back when another program has removed it: as soon as the
// kernel says so, since until then flows break.
func (o *offload) guard(ctx context.Context) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.table.Removed():
		case <-look.C:
		}
		gone, err := o.table.Check()
		if gone || err != nil {
			o.set()
		}
		if gone {
			o.log.Warn("another program had removed the nftables table by which the kernel carries flows; it is back, and flows may have broken meanwhile: have it remove only what is its own", "table", "inet "+nft.Name)
		}
	}
}

// set has the kernel hold the pins that there are now, and returns them. One that is
// past its time, or by which nobody was found but AA itself, is left to the device.
func (o *offload) set() []resolver.Pin {
	o.setting.Lock()
	defer o.setting.Unlock()
	held := slices.DeleteFunc(o.resolver.Pins(), func(p resolver.Pin) bool { return p.Stale || p.SelfAnswer })
	var pins []nft.Pin
	for _, p := range held {
		pins = append(pins, nft.Pin{Client: p.Client, Anycast: p.Anycast, Member: p.Member, Expires: p.Expires})
	}
	err := o.table.Set(pins)
	switch {
	case err == nil:
		o.failed = ""
	case err.Error() != o.failed:
		o.failed = err.Error()
		o.log.Error("the kernel cannot be told of pins, so new flows go through the device", "err", err)
	}
	return held
}

// setPrefixes has the kernel know what leads to us.
func (o *offload) setPrefixes(led []netip.Prefix) error {
	if o == nil {
		return nil
	}
	return o.table.SetPrefixes(led)
}

// stop ends the taking of new flows, and waits until the TCP flows that the
// kernel carries have ended or ctx does. Those that are kept are not waited for.
func (o *offload) stop(ctx context.Context) {
	if o == nil {
		return
	}
	if err := o.table.Stop(); err != nil {
		o.log.Warn("the kernel still knows of pins", "err", err)
	}
	var watch nft.Watch
	for !o.keep {
		began := time.Now()
		open, err := o.table.TCPOpen(&watch)
		// What cannot be seen is not cut before its time.
		if o.see(err); err == nil && !open {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(endedEvery, setRest*time.Since(began))):
		}
	}
}

// cut has the kernel hold the pins that there are now, and ends the flows to an AA
// that it carries, or all.
func (o *offload) cut(aa netip.Addr) (int, error) {
	if o == nil {
		return 0, nil
	}
	o.set()
	defer func() {
		o.counting.Lock()
		defer o.counting.Unlock()
		o.until = time.Time{}
	}()
	return o.table.Cut(aa)
}

// close takes the table away, unless it is to be kept: then host leaves word of
// it.
func (o *offload) close(host *tun.Host) error {
	if o == nil {
		return nil
	}
	if o.keep {
		host.Keep()
		return o.table.Release()
	}
	return o.table.Close()
}

// discard is for a house that never ran: what a dead run had left stays.
func (o *offload) discard(host *tun.Host) error {
	if o == nil {
		return nil
	}
	o.keep = o.table.Adopted()
	return o.close(host)
}

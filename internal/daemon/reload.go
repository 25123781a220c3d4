package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"aarptun/internal/admin"
	"aarptun/internal/config"
)

// Reload is how a running daemon comes by another configuration, which it asks
// for on SIGHUP.
type Reload struct {
	File  string                        // that the configuration stands in, for status; "" if there is none
	Load  func() (config.Config, error) // its errors name the place of what is wrong
	Level *slog.LevelVar                // of the log; nil if that cannot change
}

// files are those that a reload reads, besides those that a configuration names.
func (r Reload) files() []string {
	if r.File == "" {
		return nil
	}
	return []string{r.File}
}

// errFixed says that a reload asks for what only a start can do.
var errFixed = errors.New("daemon: this cannot change while aarptun runs: start it again, or put it back")

// errHangUp is why a daemon ends whose terminal has gone.
var errHangUp = errors.New("the terminal is gone")

// current is the configuration that counts, and what is left of earlier ones.
type current struct {
	mu      sync.Mutex
	plan    plan
	loaded  time.Time
	tried   time.Time // the last reload
	err     error     // why it changed nothing
	stopped bool      // nothing is changed any more

	closing []netip.Prefix // of those that are passing, the ones that no packet is let in for
}

// config returns the configuration that counts.
func (c *current) config() config.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.plan.cfg
}

func (c *current) passing() []netip.Prefix {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.plan.rules.Passing
}

// stop ends all changes: what is under way is waited for.
func (c *current) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
}

// configStatus is for the admin socket.
func (h *house) configStatus() admin.ConfigStatus {
	c := &h.now
	c.mu.Lock()
	defer c.mu.Unlock()
	s := admin.ConfigStatus{File: h.reloading.File, Loaded: c.loaded, Reloaded: c.tried, Passing: c.plan.rules.Passing}
	if c.err != nil {
		s.Error = oneLine(c.err)
	}
	return s
}

// oneLine is an error as a status has it.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// passEvery is how often it is looked whether the flows of a prefix that is not
// carried any more have ended.
const passEvery = 500 * time.Millisecond

// reloads reloads the configuration on every signal, and lets go of prefixes that
// are not carried any more when their flows have ended.
func (h *house) reloads(ctx context.Context, hangups <-chan os.Signal, on terminal, lost func()) error {
	select {
	case <-h.carries:
	case <-ctx.Done():
		return nil
	}
	tick := time.NewTicker(passEvery)
	defer tick.Stop()
	for {
		var pass <-chan time.Time
		if len(h.now.passing()) > 0 {
			pass = tick.C
		}
		select {
		case <-hangups:
			if on.gone() {
				lost()
				return nil
			}
			h.reload()
		case <-pass:
			h.letGo()
		case <-ctx.Done():
			return nil
		}
	}
}

// reload takes on the configuration as it stands now, or says why not, and then
// nothing has changed. systemd hears of the begin and of the end
// (Type=notify-reload, systemd.service(5)).
func (h *house) reload() {
	notify(h.log, daemon.SdNotifyReloading+"\n"+daemon.SdNotifyMonotonicUsec())
	changed, err := h.change()
	h.now.mu.Lock()
	h.now.tried, h.now.err = time.Now(), err
	if err == nil {
		h.now.loaded = h.now.tried
	}
	h.now.mu.Unlock()
	if err != nil {
		h.log.Error("the configuration was not reloaded, and nothing has changed", "err", err)
	} else {
		h.log.Info("the configuration was reloaded", "file", h.reloading.File, "changed", changed)
	}
	notify(h.log, daemon.SdNotifyReady)
}

// change reads the configuration and has the rooms follow it, all or none of
// them. It returns the names of the keys that have changed.
func (h *house) change() (changed []string, err error) {
	if h.reloading.Load == nil {
		return nil, errors.New("daemon: there is nothing to reload the configuration from")
	}
	cfg, err := h.reloading.Load()
	if errors.Is(err, os.ErrPermission) && h.confined.landlock > 0 {
		err = fmt.Errorf("%w: of a running aarptun, --sandbox closes all directories but those of its configuration and key files at the start", err)
	}
	if err != nil {
		return nil, err
	}
	c := &h.now
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return nil, errors.New("daemon: it is being stopped")
	}
	before := c.plan
	var fixed []string
	for _, k := range config.Changed(before.cfg, cfg) {
		changed = append(changed, k.Name)
		if k.Fixed {
			fixed = append(fixed, fmt.Sprintf("%s %v, which is %v", k.Name, k.Value(&cfg), k.Value(&before.cfg)))
		}
	}
	if len(fixed) > 0 {
		return nil, fmt.Errorf("%w: %s", errFixed, strings.Join(fixed, ", "))
	}
	raiseFiles(cfg)
	next, err := newPlan(cfg, without(before.led, cfg.Prefixes))
	if err != nil {
		return nil, err
	}
	if err := h.tell(next); err != nil {
		c.closing = nil // they are let in again, too
		return nil, errors.Join(err, h.tell(before))
	}
	if !slices.Contains(changed, "psk-file") && otherKeys(before, next) {
		changed = append(changed, "the keys in psk-file")
	}
	c.plan, c.closing = next, nil
	if h.reloading.Level != nil {
		h.reloading.Level.Set(cfg.LogLevel)
	}
	return changed, nil
}

// otherKeys reports whether the keys of a prefix differ.
func otherKeys(a, b plan) bool {
	for _, p := range a.rules.Policies {
		for _, q := range b.rules.Policies {
			if p.Prefix == q.Prefix && p.Keys != q.Keys {
				return true
			}
		}
	}
	return false
}

// without returns those prefixes of a list that are not among others.
func without(list, others []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(list), func(p netip.Prefix) bool { return slices.Contains(others, p) })
}

// letGo takes back the routes of passing prefixes that have no flow any more.
// First no packet is let in for so long that a flow which was just beginning would
// be seen: its client, not answered, begins again and gets where it would without
// us. If there is one, it goes on.
func (h *house) letGo() {
	c := &h.now
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return
	}
	var over, closing, left []netip.Prefix
	for _, p := range c.plan.rules.Passing {
		switch used := h.translator.FlowsWithin(p) > 0 && !covered(p, c.plan.cfg.Prefixes); {
		case used:
			left = append(left, p)
		case slices.Contains(c.closing, p):
			over = append(over, p)
		default:
			closing, left = append(closing, p), append(left, p)
		}
	}
	if len(over) > 0 {
		if err := h.host.RemovePrefixes(over); err != nil {
			h.log.Error("the routes of prefixes that are not carried any more could not be removed", "prefixes", over, "err", err)
		}
		h.log.Info("prefixes have no flow any more, and are let go", "prefixes", over)
	}
	c.closing = closing
	c.plan.rules.Passing = left
	c.plan.led = slices.Concat(c.plan.cfg.Prefixes, left)
	h.stack.SetPrefixes(without(c.plan.led, closing))
	if len(over) > 0 {
		if err := h.resolver.SetRules(c.plan.rules); err != nil {
			h.log.Error("the resolver does not take its rules", "err", err) // they were good before
		}
	}
}

// covered reports whether a prefix lies within one that is carried, so that its
// flows do not need it.
func covered(p netip.Prefix, carried []netip.Prefix) bool {
	return slices.ContainsFunc(carried, func(c netip.Prefix) bool { return c.Bits() <= p.Bits() && c.Contains(p.Addr()) })
}

// hangups is what SIGHUP comes by, until it is given up.
func hangups() (signals chan os.Signal, stop func()) {
	signals = make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	return signals, func() { signal.Stop(signals) }
}

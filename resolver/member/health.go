package member

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Check says whether the member can serve; an error says why not. It returns
// when its context ends.
type Check func(context.Context) error

const (
	// DefaultInterval is the time between two checks.
	DefaultInterval = 2 * time.Second
	// DefaultTimeout is the time in which a check must end.
	DefaultTimeout = time.Second

	fall      = 2 // failures in a row that make a member unhealthy; one success mends it
	killWait  = time.Second
	drainPoll = 500 * time.Millisecond
)

// Command returns a check that runs a command line by /bin/sh: status 0 is
// healthy. At the end of its time it is killed with all it has started.
func Command(line string) Check {
	return func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
		cmd.WaitDelay = killWait
		err := cmd.Run()
		if ctx.Err() != nil {
			return fmt.Errorf("check %q: %w", line, ctx.Err())
		}
		if err != nil {
			return fmt.Errorf("check %q: %w", line, err)
		}
		return nil
	}
}

// Connect returns a check that makes a TCP connection to one of the addresses
// and closes it. Clients connect to a member's unicast addresses, so these are
// the ones to check.
func Connect(port uint16, addrs ...netip.Addr) Check {
	return func(ctx context.Context) error {
		err := errors.New("there is no address to connect to")
		for _, a := range addrs {
			var conn net.Conn
			if conn, err = new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(a, port).String()); err == nil {
				return conn.Close()
			}
		}
		return fmt.Errorf("check: %w", err)
	}
}

// ConnectLocal is Connect to whatever global addresses this host has when it is
// run, the anycast ones apart: one that accepts will do.
func ConnectLocal(port uint16, anycast []netip.Addr) Check {
	u := newUnicasts(anycast, nil)
	return func(ctx context.Context) error {
		var addrs []netip.Addr
		for _, aa := range anycast {
			addrs = append(addrs, u.locals(aa)...)
		}
		return Connect(port, addrs...)(ctx)
	}
}

// health is what keeps a member from taking new flows.
type health struct {
	unhealthy, drained, drainFile bool
}

func (h health) draining() bool { return h.unhealthy || h.drained || h.drainFile }

func (h health) String() string {
	switch {
	case h.drained, h.drainFile:
		return "draining"
	case h.unhealthy:
		return "unhealthy"
	}
	return "answering"
}

// watch runs the check again and again until ctx ends.
func (r *Responder) watch(ctx context.Context) {
	ticker := time.NewTicker(r.interval)
	defer ticker.Stop()
	for failures := 0; ; {
		one, cancel := context.WithTimeout(ctx, r.timeout)
		err := r.check(one)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			failures = 0
		} else {
			failures++
			r.stats.checksFailed.Add(1)
			r.log.Debug("check failed", "err", err)
		}
		if failures == 0 || failures >= fall {
			r.change(err, func(h *health) { h.unhealthy = failures > 0 })
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// watchDrainFile looks again and again whether the file is there.
func (r *Responder) watchDrainFile(ctx context.Context) {
	ticker := time.NewTicker(drainPoll)
	defer ticker.Stop()
	for {
		r.lookForDrainFile()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (r *Responder) lookForDrainFile() {
	_, err := os.Stat(r.drainFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.log.Debug("drain file", "err", err) // unreadable is not there
	}
	r.change(nil, func(h *health) { h.drainFile = err == nil })
}

// change sets what keeps the member from taking new flows, and tells of the
// change.
func (r *Responder) change(cause error, set func(*health)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.health
	set(&r.health)
	r.draining.Store(r.health.draining())
	if before.String() != r.health.String() {
		attrs := []any{"state", r.health.String()}
		if cause != nil {
			attrs = append(attrs, "because", cause)
		}
		r.log.Info("member", attrs...)
	}
}

// Drain has askers told that new flows are to go to other members, or ends
// that. Flows that are here stay.
func (r *Responder) Drain(drain bool) {
	r.change(nil, func(h *health) { h.drained = drain })
}

// State returns "answering", "unhealthy" or "draining".
func (r *Responder) State() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.health.String()
}

package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// network is the router between the clients and the members, and what is done
// to it. Its route to AA leads to one of the members that announce it.
type network struct {
	aa      string
	members []*member // those that have AA

	mu     sync.Mutex
	routed int  // index of the member that the route leads to
	silent bool // the route leads nowhere
	down   map[string]bool
	flips  int
}

// ip runs an ip command on the router.
func ip(args ...string) error {
	out, err := exec.Command("ip", append([]string{"-n", "router"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// flip leads the route to the next member that announces AA.
func (n *network) flip() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.flipLocked()
}

func (n *network) flipLocked() error {
	for range n.members {
		n.routed = (n.routed + 1) % len(n.members)
		if !n.down[n.members[n.routed].name] {
			break
		}
	}
	m := n.members[n.routed]
	if n.down[m.name] {
		return nil // nobody announces it
	}
	n.flips++
	table := "main"
	if n.silent {
		table = tableSlow // the way on from where the packets are held up
	}
	return ip("-6", "route", "replace", n.aa+"/128", "via", m.ua, "table", table)
}

// announces says whether a member wants packets to AA. The route leaves one
// that does not.
func (n *network) announces(m *member, yes bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down[m.name] = !yes
	return n.flipLocked()
}

// flipUntil flips the route at each tick until ctx ends.
func (n *network) flipUntil(ctx context.Context, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := n.flip(); err != nil {
				return err
			}
		}
	}
}

// divert leads AA into nothing, or into the device that holds packets up.
func (n *network) divert(where ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.silent = true
	if err := ip("-6", "route", "replace", n.aa+"/128", "via", n.members[n.routed].ua, "table", tableSlow); err != nil {
		return err
	}
	// Another type or device would be a second route beside the first one.
	if err := ip("-6", "route", "del", n.aa+"/128"); err != nil {
		return err
	}
	return ip(append([]string{"-6", "route", "add"}, where...)...)
}

// restore ends divert.
func (n *network) restore() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.silent = false
	if err := ip("-6", "route", "del", n.aa+"/128"); err != nil {
		return err
	}
	return n.flipLocked()
}

package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// chaos is what goes wrong, one thing after another, each undone before the
// next.
type chaos struct {
	net     *network
	steady  *member // the member that never dies
	hold    *holdUp
	log     *outages
	aarptun string // the program
	lab     string // the program that serves
	done    map[string]int
}

const (
	// between is the quiet time between two troubles.
	between = 1500 * time.Millisecond
	// noticed is how long the routing takes to see that a member is dead.
	noticed = 300 * time.Millisecond

	killedFor  = 2 * time.Second
	downFor    = 1500 * time.Millisecond
	silentFor  = 3 * time.Second // more than a probe waits
	lateBy     = 2500 * time.Millisecond
	slowBy     = 400 * time.Millisecond
	slowFor    = 3 * time.Second
	uplinkDown = 500 * time.Millisecond
)

// until does one thing after another until ctx ends. The last is undone, too.
func (c *chaos) until(ctx context.Context) error {
	one, two := c.net.members[0], c.net.members[1]
	steps := []struct {
		name string
		do   func() error
	}{
		{"member killed and restarted", func() error { return c.kill(one) }},
		{"resolving slow", c.slow},
		{"member's link down and up", func() error { return c.link(two) }},
		{"resolving unanswered", c.silence},
		{"member killed and restarted", func() error { return c.kill(two) }},
		{"client's link down and up", c.uplink},
		{"resolving answered too late", c.late},
		{"member's link down and up", func() error { return c.link(one) }},
		{"steady member's link down and up", func() error { return c.link(c.steady) }},
	}
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(between):
		}
		step := steps[i%len(steps)]
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		c.done[step.name]++
	}
}

// kill is the death of a member: its processes are gone at once, its route a
// little later.
func (c *chaos) kill(m *member) error {
	end := c.log.begin(killed, m.name)
	if err := m.kill(); err != nil {
		return err
	}
	time.Sleep(noticed)
	if err := c.net.announces(m, false); err != nil {
		return err
	}
	time.Sleep(killedFor - noticed)
	if err := m.start(c.aarptun, c.lab, c.net.aa); err != nil {
		return err
	}
	if err := c.net.announces(m, true); err != nil {
		return err
	}
	end()
	return nil
}

// link takes a member's link down on the router, which knows at once.
func (c *chaos) link(m *member) error {
	end := c.log.begin(linkDown, m.name)
	probed := m != c.steady
	if probed {
		if err := c.net.announces(m, false); err != nil {
			return err
		}
	}
	if err := ip("link", "set", m.device, "down"); err != nil {
		return err
	}
	time.Sleep(downFor)
	if err := ip("link", "set", m.device, "up"); err != nil {
		return err
	}
	if probed {
		if err := c.net.announces(m, true); err != nil {
			return err
		}
	}
	end()
	return nil
}

func (c *chaos) uplink() error {
	end := c.log.begin(uplink, "")
	if err := ip("link", "set", "c0", "down"); err != nil {
		return err
	}
	time.Sleep(uplinkDown)
	if err := ip("link", "set", "c0", "up"); err != nil {
		return err
	}
	end()
	return nil
}

// silence drops every probe.
func (c *chaos) silence() error {
	end := c.log.begin(unasked, "")
	if err := c.net.divert("blackhole", c.net.aa+"/128"); err != nil {
		return err
	}
	time.Sleep(silentFor)
	if err := c.net.restore(); err != nil {
		return err
	}
	end()
	return nil
}

// late lets every probe arrive when nobody waits for it any more.
func (c *chaos) late() error {
	end := c.log.begin(unasked, "")
	if err := c.heldUp(lateBy, silentFor); err != nil {
		return err
	}
	end()
	return nil
}

// slow holds every probe up for less than is waited for: it is no outage, and
// nothing may be refused because of it.
func (c *chaos) slow() error { return c.heldUp(slowBy, slowFor) }

func (c *chaos) heldUp(by, last time.Duration) error {
	c.hold.delay.Store(int64(by))
	if err := c.net.divert(c.net.aa+"/128", "dev", holdUpDevice); err != nil {
		return err
	}
	time.Sleep(last)
	return c.net.restore()
}

// start starts every member.
func (c *chaos) start() error {
	var errs []error
	for _, m := range append([]*member{c.steady}, c.net.members...) {
		errs = append(errs, m.start(c.aarptun, c.lab, c.net.aa))
	}
	return errors.Join(errs...)
}

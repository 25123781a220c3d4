package tun

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"aarptun/tun/nft"
)

// Report says what Cleanup found.
type Report struct {
	Removed []string `json:"removed"` // rules and journals, in words
	Live    []string `json:"live"`    // devices whose owner lives; left alone
	Other   []string `json:"other"`   // journals of other network namespaces; left alone
}

// Cleanup undoes what dead runs have left in the network namespace of the
// calling thread: what their journals in dir say ("" is /run/aarptun), and any
// rule that only an aarptun can have made and that leads to an empty table.
// With dry it only says what it would do. Runs that live are left alone.
func Cleanup(dir string, dry bool) (Report, error) {
	if err := checkPrivilege(); err != nil {
		return Report{}, err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return Report{}, fmt.Errorf("tun: netlink: %w", err)
	}
	defer h.Close()
	d, err := lockDirectory(dirOf(Config{Dir: dir}), false)
	if errors.Is(err, os.ErrNotExist) {
		d, err = nil, nil // no journals, but there may be rules
	}
	if err != nil {
		return Report{}, err
	}
	c := cleaner{handle: h, directory: d, dry: dry}
	report := Report{Removed: []string{}, Live: []string{}, Other: []string{}}
	if d != nil {
		defer d.unlock()
		err = c.journals(&report)
	}
	removed, sweepErr := c.sweep(0)
	led, ledErr := c.sweepReturns(0)
	carried, carriedErr := c.removeCarried()
	for _, what := range slices.Concat(removed, led, carried) {
		if !slices.Contains(report.Removed, what) { // when dry, a journal's are still there
			report.Removed = append(report.Removed, what)
		}
	}
	return report, errors.Join(err, sweepErr, ledErr, carriedErr)
}

// cleaner undoes what dead runs have left in one network namespace.
type cleaner struct {
	handle    *netlink.Handle
	directory *directory // locked; nil if there is none
	own       string     // the journal that is being undone
	dry       bool
	adopt     bool // what the kernel carries for a dead run is not undone
}

// journals undoes every journal of a dead run.
func (c cleaner) journals(report *Report) error {
	entries, err := c.directory.entries()
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if c.directory.foreign(e) {
			report.Other = append(report.Other, fmt.Sprintf("%s in network namespace %d", e.device, e.namespace))
			continue
		}
		errs = append(errs, c.journal(report, e))
	}
	return errors.Join(errs...)
}

// journal undoes one journal.
func (c cleaner) journal(report *Report, e entry) error {
	j, text, err := lockJournal(e.path, false)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil // its owner has just ended well
	case errors.Is(err, ErrBusy):
		report.Live = append(report.Live, e.device)
		return nil
	case err != nil:
		return err
	}
	c.own = e.path
	removed, err := c.undo(text)
	report.Removed = append(report.Removed, removed...)
	if err != nil {
		return errors.Join(err, j.leave())
	}
	report.Removed = append(report.Removed, "journal "+e.path)
	if c.dry {
		return j.leave()
	}
	return j.remove()
}

// undo removes what a journal names. One that cannot be read names nothing:
// its rules are found by sweep.
func (c cleaner) undo(text []byte) (removed []string, err error) {
	journalled, err := parseRecord(text)
	if err != nil {
		return nil, nil
	}
	var left []ruleSpec
	for _, spec := range journalled.Rules {
		rules, err := rulesOf(c.handle, spec.Family)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(rules, spec.matches) {
			left = append(left, spec)
		}
	}
	removed, err = c.remove(left)
	if err == nil && journalled.Carried {
		var carried []string
		carried, err = c.removeCarried()
		removed = append(removed, carried...)
	}
	if err != nil || journalled.Returns == nil {
		return removed, err
	}
	led, err := c.removeReturns(*journalled.Returns)
	return append(removed, led...), err
}

// removeCarried removes the table by which the kernel carries flows, unless a
// living run has it, or adopts it.
func (c cleaner) removeCarried() (removed []string, err error) {
	living, err := c.living()
	if err != nil || c.adopt || slices.ContainsFunc(living, func(r record) bool { return r.Carried }) {
		return nil, err
	}
	return nft.Remove(c.dry)
}

// sweep removes rules that only an aarptun can have made, that lead to table
// (any, if 0), and whose table is empty: the owner is dead, or has lost its
// routes and is known by its journal.
func (c cleaner) sweep(table int) (removed []string, err error) {
	var left []ruleSpec
	for _, family := range []int{netlink.FAMILY_V6, netlink.FAMILY_V4} {
		rules, err := rulesOf(c.handle, family)
		if err != nil {
			return nil, err
		}
		for _, rule := range rules {
			if !ours(rule) || table != 0 && rule.Table != table {
				continue
			}
			routes, err := routesIn(c.handle, rule.Table)
			if err != nil {
				return nil, err
			}
			if len(routes) == 0 {
				left = append(left, ruleSpec{Family: family, Table: rule.Table, Priority: rule.Priority, Mark: rule.Mark})
			}
		}
	}
	return c.remove(left)
}

// remove removes the rules that no living run has, and says in words which.
func (c cleaner) remove(left []ruleSpec) (removed []string, err error) {
	if len(left) == 0 {
		return nil, nil
	}
	var living []record
	if c.directory != nil {
		// A run writes its journal before it sets a rule. A rule that was seen
		// before the journals are read is therefore in one, if its owner lives.
		if living, err = c.directory.living(c.own); err != nil {
			return nil, err
		}
	}
	for _, spec := range left {
		if slices.ContainsFunc(living, func(r record) bool { return slices.Contains(r.Rules, spec) }) {
			continue
		}
		if !c.dry {
			if err := removeRule(c.handle, spec); err != nil {
				return removed, err
			}
		}
		removed = append(removed, spec.String())
	}
	return removed, nil
}

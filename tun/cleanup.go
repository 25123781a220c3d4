package tun

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
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
	namespace, err := namespaceID()
	if err != nil {
		return Report{}, err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return Report{}, fmt.Errorf("tun: netlink: %w", err)
	}
	defer h.Close()
	dir = dirOf(Config{Dir: dir})
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return Report{}, fmt.Errorf("%w: no journals can be read: %w: name the directory of the dead run with --state-dir", ErrConfig, err)
	}
	report := Report{Removed: []string{}, Live: []string{}, Other: []string{}}
	var errs []error
	for _, entry := range entries {
		errs = append(errs, report.journal(h, filepath.Join(dir, entry.Name()), namespace, dry))
	}
	removed, err := sweep(h, 0, dry)
	for _, line := range removed {
		// Without a change, sweep finds what the journals have named.
		if !slices.Contains(report.Removed, line) {
			report.Removed = append(report.Removed, line)
		}
	}
	return report, errors.Join(append(errs, err)...)
}

// journal undoes one journal.
func (r *Report) journal(h *netlink.Handle, path string, namespace uint64, dry bool) error {
	device, owner, ok := namespaceOf(filepath.Base(path))
	if !ok {
		return nil // no journal of ours
	}
	if owner != strconv.FormatUint(namespace, 10) {
		r.Other = append(r.Other, device+" in network namespace "+owner)
		return nil
	}
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return nil // its owner has just ended well
	}
	j, text, err := lockJournal(path)
	if errors.Is(err, ErrBusy) {
		r.Live = append(r.Live, device)
		return nil
	}
	if err != nil {
		return err
	}
	removed, err := undo(h, text, dry)
	r.Removed = append(r.Removed, removed...)
	if err != nil {
		return errors.Join(err, j.leave())
	}
	r.Removed = append(r.Removed, "journal "+path)
	if dry {
		return j.leave()
	}
	return j.remove()
}

// undo removes what a journal names. One that cannot be read names nothing:
// its rules are found by sweep.
func undo(h *netlink.Handle, text []byte, dry bool) (removed []string, err error) {
	journalled, err := parseRecord(text)
	if err != nil {
		return nil, nil
	}
	for _, spec := range journalled.Rules {
		rules, err := rulesOf(h, spec.Family)
		if err != nil {
			return removed, err
		}
		for _, rule := range rules {
			if !spec.matches(rule) {
				continue
			}
			removed = append(removed, spec.String())
			if !dry {
				if err := removeRule(h, spec); err != nil {
					return removed, err
				}
			}
			break // removeRule takes every copy
		}
	}
	return removed, nil
}

// sweep removes rules that only an aarptun can have made, that lead to table
// (any, if 0), and whose table is empty: their owner is dead, since a living
// one has its routes there, or has not set its rule yet.
func sweep(h *netlink.Handle, table int, dry bool) (removed []string, err error) {
	for _, family := range []int{netlink.FAMILY_V6, netlink.FAMILY_V4} {
		rules, err := rulesOf(h, family)
		if err != nil {
			return removed, err
		}
		for _, rule := range rules {
			if !ours(rule) || table != 0 && rule.Table != table {
				continue
			}
			routes, err := routesIn(h, rule.Table)
			if err != nil {
				return removed, err
			}
			if len(routes) > 0 {
				continue
			}
			spec := ruleSpec{Family: family, Table: rule.Table, Priority: rule.Priority, Mark: rule.Mark}
			removed = append(removed, spec.String())
			if dry {
				continue
			}
			if err := removeRule(h, spec); err != nil {
				return removed, err
			}
		}
	}
	return removed, nil
}

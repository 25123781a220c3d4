package tun

import (
	"errors"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// removeReturns removes what a dead run has left for return packets, unless a
// living run has taken its place, and says in words what that was.
func (c cleaner) removeReturns(spec returnsSpec) (removed []string, err error) {
	living, err := c.living()
	if err != nil || slices.ContainsFunc(living, func(r record) bool { return r.uses(spec.Table) }) {
		return nil, err
	}
	r, err := openReturns(spec, c.handle)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	there, err := r.there()
	if err != nil || !there {
		return nil, err
	}
	if !c.dry {
		if err := r.remove(); err != nil {
			return nil, err
		}
	}
	return []string{spec.String()}, nil
}

// living is what the runs that live have written.
func (c cleaner) living() ([]record, error) {
	if c.directory == nil {
		return nil, nil
	}
	return c.directory.living(c.own)
}

// sweepReturns is removeReturns for what no journal names: rules for return
// packets that lead to table (any, if 0), if nothing is in that but the routes
// that an aarptun puts there, and the filter that goes with them.
func (c cleaner) sweepReturns(table int) (removed []string, err error) {
	var found []returnsSpec
	for _, family := range []int{netlink.FAMILY_V6, netlink.FAMILY_V4} {
		rules, err := rulesOf(c.handle, family)
		if err != nil {
			return nil, err
		}
		for _, rule := range rules {
			spec := returnsSpec{Table: rule.Table, Priority: rule.Priority, Mark: rule.Mark, Sockets: rule.Mark - 1}
			if rule.Table <= 0 || rule.Mark == 0 || table != 0 && rule.Table != table || !spec.matches(rule) {
				continue
			}
			if only, err := c.onlyReturns(spec); err != nil || !only {
				if err != nil {
					return nil, err
				}
				continue
			}
			same := func(s returnsSpec) bool {
				return s.Table == spec.Table && s.Priority == spec.Priority && s.Mark == spec.Mark
			}
			if i := slices.IndexFunc(found, same); i >= 0 {
				found[i].Families = append(found[i].Families, family)
				continue
			}
			spec.Families = []int{family}
			found = append(found, spec)
		}
	}
	if len(found) == 0 {
		return nil, nil
	}
	filters, err := c.deadFilters()
	if err != nil {
		return nil, err
	}
	for i, spec := range found {
		spec.Filter = filterPrefix
		if i < len(filters) {
			spec.Filter = filters[i]
		}
		led, err := c.removeReturns(spec)
		removed = append(removed, led...)
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// onlyReturns reports whether a table holds our routes for return packets, and
// nothing else.
func (c cleaner) onlyReturns(spec returnsSpec) (bool, error) {
	r := returns{spec: spec, handle: c.handle}
	all, err := routesIn(c.handle, spec.Table)
	if err != nil {
		return false, err
	}
	ours, err := r.routes()
	return len(all) > 0 && len(all) == len(ours), err
}

// deadFilters lists our tables of nftables that no living run has.
func (c cleaner) deadFilters() (names []string, err error) {
	living, err := c.living()
	if err != nil {
		return nil, err
	}
	nft, err := nftables.New()
	if err != nil {
		return nil, noFilter(err)
	}
	tables, err := nft.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, nil // a kernel without nftables has none
	}
	for _, t := range tables {
		alive := slices.ContainsFunc(living, func(r record) bool { return r.Returns != nil && r.Returns.Filter == t.Name })
		if strings.HasPrefix(t.Name, filterPrefix) && !alive {
			names = append(names, t.Name)
		}
	}
	return names, nil
}

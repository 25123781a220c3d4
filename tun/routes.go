package tun

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// protocol is the origin that our routes and rules carry, so that they can
	// be told from everybody else's (rtnetlink(7), rtm_protocol).
	protocol = 170
	fullMask = 0xffffffff
)

// ruleSpec is what a rule of ours is known by.
type ruleSpec struct {
	Family   int    `json:"family"` // netlink.FAMILY_V4 or FAMILY_V6
	Table    int    `json:"table"`
	Priority int    `json:"priority"`
	Mark     uint32 `json:"mark"`
}

// String is the rule as ip-rule(8) writes it.
func (s ruleSpec) String() string {
	return fmt.Sprintf("%s rule not fwmark %#x lookup %d priority %d protocol %d", ipCommand(s.Family), s.Mark, s.Table, s.Priority, protocol)
}

func ipCommand(family int) string {
	if family == netlink.FAMILY_V6 {
		return "ip -6"
	}
	return "ip -4"
}

func (s ruleSpec) rule() *netlink.Rule {
	rule := netlink.NewRule()
	mask := uint32(fullMask)
	rule.Family, rule.Table, rule.Priority = s.Family, s.Table, s.Priority
	rule.Mark, rule.Mask, rule.Invert, rule.Protocol = s.Mark, &mask, true, protocol
	return rule
}

// matches reports whether rule is the one that s describes.
func (s ruleSpec) matches(rule netlink.Rule) bool { return ours(rule) && s.takes(rule) }

// takes reports whether the kernel, asked to delete s, could take rule for it.
// It compares only what a request names, and never the inversion, so rules of
// others can be meant too (rule_find in net/core/fib_rules.c).
func (s ruleSpec) takes(rule netlink.Rule) bool {
	return rule.Table == s.Table && rule.Priority == s.Priority && rule.Protocol == protocol &&
		rule.Mark == s.Mark && rule.Mask != nil && *rule.Mask == fullMask
}

// ours reports whether a rule can only have been made by an aarptun: it is
// inverted, asks for a whole mark, and for nothing else.
func ours(rule netlink.Rule) bool {
	plain := *netlink.NewRule()
	plain.Family, plain.Table, plain.Priority = rule.Family, rule.Table, rule.Priority
	plain.Mark, plain.Mask, plain.Invert, plain.Protocol = rule.Mark, rule.Mask, true, protocol
	return rule.Table > 0 && rule.Mark != 0 && rule.Mask != nil && *rule.Mask == fullMask && reflect.DeepEqual(rule, plain)
}

// familiesOf returns the families that prefixes are of, IPv6 first.
func familiesOf(prefixes []netip.Prefix) []int {
	var families []int
	for _, family := range []int{netlink.FAMILY_V6, netlink.FAMILY_V4} {
		for _, p := range prefixes {
			if familyOf(p) == family {
				families = append(families, family)
				break
			}
		}
	}
	return families
}

func familyOf(p netip.Prefix) int {
	if p.Addr().Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

func routeOf(p netip.Prefix, table, link int) *netlink.Route {
	return &netlink.Route{
		LinkIndex: link, Table: table, Protocol: protocol, Scope: netlink.SCOPE_LINK,
		Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
	}
}

// addRule sets a rule unless it is there.
func addRule(h *netlink.Handle, s ruleSpec) error {
	rules, err := rulesOf(h, s.Family)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(rules, s.matches) {
		return nil
	}
	switch err := h.RuleAdd(s.rule()); {
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w: %v cannot be set beside a rule of somebody else's that the kernel takes for it: choose another with --table", ErrTableTaken, s)
	case err != nil:
		return fmt.Errorf("tun: add %v: %w", s, err)
	}
	return nil
}

// removeRule removes a rule; that it is not there is no error. The kernel takes
// the first that fits the request, so it is asked only while that is ours.
func removeRule(h *netlink.Handle, s ruleSpec) error {
	for range maxCopies {
		rules, err := rulesOf(h, s.Family)
		if err != nil {
			return err
		}
		rules = slices.DeleteFunc(rules, func(rule netlink.Rule) bool { return !s.takes(rule) })
		if !slices.ContainsFunc(rules, ours) {
			return nil
		}
		if !ours(rules[0]) {
			return fmt.Errorf("%w: %v is behind a rule of somebody else's that the kernel takes for it: remove that one first", ErrConfig, s)
		}
		if err := h.RuleDel(s.rule()); err != nil && !gone(err) {
			return fmt.Errorf("tun: remove %v: %w", s, err)
		}
	}
	return fmt.Errorf("%w: %v comes back as often as it is removed: stop what adds it", ErrConfig, s)
}

// maxCopies bounds a loop that another program could keep going.
const maxCopies = 16

// gone reports whether an error says that what was to be removed is not there.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EAFNOSUPPORT)
}

// maxInterrupted bounds how often a list is asked for again because what it
// tells of changed while it was read, as it does on a busy router.
const maxInterrupted = 16

// whole asks for a list until nothing changed meanwhile.
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range maxInterrupted {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// routesIn lists the routes of a table, both families. Nobody else may use h
// meanwhile.
func routesIn(h *netlink.Handle, table int) ([]netlink.Route, error) {
	// Asked strictly, the kernel looks into that table only, and not through all
	// that a router may have. One that cannot (before 4.20) tells of all, and
	// the filter still holds.
	if h.SetStrictCheck(true) == nil {
		defer func() { _ = h.SetStrictCheck(false) }() // it could be set
	}
	var all []netlink.Route
	for _, family := range []int{netlink.FAMILY_V6, netlink.FAMILY_V4} {
		routes, err := whole(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(family, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
		})
		if err != nil && !gone(err) {
			return nil, fmt.Errorf("tun: list table %d: %w", table, err)
		}
		all = append(all, routes...)
	}
	return all, nil
}

func rulesOf(h *netlink.Handle, family int) ([]netlink.Rule, error) {
	rules, err := whole(func() ([]netlink.Rule, error) { return h.RuleList(family) })
	if err != nil && !gone(err) && !errors.Is(err, unix.EOPNOTSUPP) {
		return nil, fmt.Errorf("tun: list rules: %w", err)
	}
	return rules, nil
}

// checkTable refuses a table that anybody else uses.
func checkTable(h *netlink.Handle, table int) error {
	routes, err := routesIn(h, table)
	if err != nil {
		return err
	}
	if len(routes) > 0 {
		return fmt.Errorf("%w: table %d holds %v: choose another with --table", ErrTableTaken, table, routes[0].Dst)
	}
	for _, family := range []int{netlink.FAMILY_V6, netlink.FAMILY_V4} {
		rules, err := rulesOf(h, family)
		if err != nil {
			return err
		}
		for _, rule := range rules {
			if rule.Table == table {
				return fmt.Errorf("%w: the rule of priority %d in '%s rule' leads to table %d: choose another with --table", ErrTableTaken, rule.Priority, ipCommand(family), table)
			}
		}
	}
	return nil
}

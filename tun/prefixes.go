package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
)

// AddPrefixes leads more prefixes into the device, at once between AddRoutes and
// RemoveRoutes. Those that are led there already count for nothing. When it
// fails, all is as it was before.
func (h *Host) AddPrefixes(prefixes []netip.Prefix) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return fmt.Errorf("tun: add prefixes to %s: %w", h.name, os.ErrClosed)
	}
	before, rules := h.prefixes, h.rules
	for _, p := range prefixes {
		if !slices.Contains(h.prefixes, p) {
			h.prefixes = append(slices.Clone(h.prefixes), p)
		}
	}
	h.rules = h.rulesFor(h.prefixes)
	err := h.lead(len(h.rules) > len(rules))
	if err == nil {
		return nil
	}
	added, addedRules := h.prefixes[len(before):], h.rules
	h.prefixes, h.rules = before, rules
	return errors.Join(err, h.unlead(added, addedRules))
}

// lead sets what is missing of routes and rules. The journal knows of the rule of
// another family before that is set.
func (h *Host) lead(family bool) error {
	if family {
		if err := h.writeDown(); err != nil {
			return err
		}
	}
	if h.routed { // else AddRoutes will
		if err := h.addRoutes(); err != nil {
			return err
		}
	}
	if family && h.lend {
		return h.lendAddresses()
	}
	return nil
}

// unlead takes away the routes of prefixes, and those rules that are not the
// Host's any more, and has the journal forget them.
func (h *Host) unlead(prefixes []netip.Prefix, rules []ruleSpec) error {
	var errs []error
	forget := false
	for _, rule := range rules {
		if !slices.Contains(h.rules, rule) {
			forget = true
			errs = append(errs, removeRule(h.handle, rule))
		}
	}
	for _, p := range prefixes {
		errs = append(errs, h.removeRoute(p))
	}
	if forget && errors.Join(errs...) == nil {
		errs = append(errs, h.writeDown())
	}
	return errors.Join(errs...)
}

func (h *Host) removeRoute(p netip.Prefix) error {
	if err := h.handle.RouteDel(routeOf(p, h.table, h.link.Attrs().Index)); err != nil && !gone(err) {
		return fmt.Errorf("tun: remove the route of %v: %w", p, err)
	}
	return nil
}

// RemovePrefixes no longer leads prefixes into the device; their packets go where
// they would without it. It may be called again after it has failed.
func (h *Host) RemovePrefixes(prefixes []netip.Prefix) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil // Close did
	}
	rules := h.rules
	h.prefixes = slices.DeleteFunc(slices.Clone(h.prefixes), func(p netip.Prefix) bool { return slices.Contains(prefixes, p) })
	h.rules = h.rulesFor(h.prefixes)
	return h.unlead(prefixes, rules)
}

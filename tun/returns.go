package tun

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A socket of ours that bears a client's address hears nothing by itself: what is
// sent to that address is routed on to the client. So a packet that belongs to
// such a socket is told by the kernel's own look-up (the "socket" expression of
// nftables), gets a mark of its own, and a rule leads that mark to a table in
// which every address is local. ICMP errors are found by the packet they quote.

// returnsSpec is all of that, as it stands in the journal.
type returnsSpec struct {
	Filter   string `json:"filter"`   // the table of nftables, family inet
	Table    int    `json:"table"`    // of routes
	Priority int    `json:"priority"` // of the rules
	Mark     uint32 `json:"mark"`     // of the packets
	Sockets  uint32 `json:"sockets"`  // the mark of the sockets
	Families []int  `json:"families"` // netlink.FAMILY_V6, FAMILY_V4
}

// returnsOf is beside what the rules are: the next table, priority and mark. It is
// of both families, since the prefixes may change.
func returnsOf(name string, spec ruleSpec) *returnsSpec {
	return &returnsSpec{
		Filter: filterName(name), Table: spec.Table + 1, Priority: spec.Priority + 1,
		Mark: spec.Mark + 1, Sockets: spec.Mark, Families: familiesHere(),
	}
}

// familiesHere are those that the namespace of the calling thread has.
func familiesHere() []int {
	disabled, err := os.ReadFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
	if err != nil || strings.TrimSpace(string(disabled)) != "0" {
		return []int{netlink.FAMILY_V4}
	}
	return []int{netlink.FAMILY_V6, netlink.FAMILY_V4}
}

// filterName is the name of the table of nftables for a device. nft(8) lets no
// name have anything else in it than letters, digits and these.
func filterName(device string) string {
	return filterPrefix + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-', r == '.':
			return r
		}
		return '_'
	}, device)
}

const filterPrefix = "aarptun-"

func (s returnsSpec) validate() error {
	families := len(s.Families) > 0 && len(s.Families) <= 2
	for _, family := range s.Families {
		families = families && (family == netlink.FAMILY_V4 || family == netlink.FAMILY_V6)
	}
	if !families || s.Mark == 0 || s.Sockets == 0 || !isUint32(s.Table) || !isUint32(s.Priority) || !strings.HasPrefix(s.Filter, filterPrefix) {
		return errors.New("what it names for return packets is none of ours")
	}
	return nil
}

// String is what it is, in words.
func (s returnsSpec) String() string {
	return fmt.Sprintf("return packets: nft table inet %s, rules fwmark %#x lookup %d priority %d protocol %d", s.Filter, s.Mark, s.Table, s.Priority, protocol)
}

func (s returnsSpec) rule(family int) *netlink.Rule {
	rule := netlink.NewRule()
	mask := uint32(fullMask)
	rule.Family, rule.Table, rule.Priority, rule.Mark, rule.Mask, rule.Protocol = family, s.Table, s.Priority, s.Mark, &mask, protocol
	return rule
}

// matches reports whether a rule that was listed is the one of s.
func (s returnsSpec) matches(rule netlink.Rule) bool {
	return reflect.DeepEqual(rule, *s.rule(rule.Family))
}

func (s returnsSpec) route(family, loopback int) *netlink.Route {
	return &netlink.Route{
		Family: family, LinkIndex: loopback, Table: s.Table, Protocol: protocol, Type: unix.RTN_LOCAL,
		Scope: netlink.SCOPE_HOST, Dst: everything(family),
	}
}

// everything is the prefix of all addresses.
func everything(family int) *net.IPNet {
	if family == netlink.FAMILY_V4 {
		return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	}
	return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
}

// returns sets and removes what a returnsSpec says, in one network namespace.
type returns struct {
	spec   returnsSpec
	handle *netlink.Handle
	nft    *nftables.Conn
}

// openReturns opens what is needed for it in the calling thread's namespace.
func openReturns(spec returnsSpec, h *netlink.Handle) (*returns, error) {
	nft, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, noFilter(err)
	}
	return &returns{spec, h, nft}, nil
}

func (r *returns) close() error {
	if r == nil {
		return nil
	}
	return r.nft.CloseLasting()
}

func noFilter(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("tun: the kernel does not let us filter packets: run as root or with CAP_NET_ADMIN: %w", os.ErrPermission)
	}
	return fmt.Errorf("%w: packets to clients' addresses cannot be told from others: load the modules with 'modprobe -a nft_socket nft_tproxy', or do without --preserve-source: %v", ErrConfig, err)
}

// check refuses what would not work for prefixes of these families, before
// anything is changed.
func (r *returns) check(families []int) error {
	if err := checkTable(r.handle, r.spec.Table); err != nil {
		return err
	}
	// The look-up by which the kernel verifies a source would then meet our rule.
	value, err := os.ReadFile("/proc/sys/net/ipv4/conf/all/src_valid_mark")
	if err == nil && strings.TrimSpace(string(value)) == "1" && slices.Contains(families, netlink.FAMILY_V4) {
		return fmt.Errorf("%w: net.ipv4.conf.all.src_valid_mark is 1, and the kernel would drop what IPv4 members answer: sysctl -w net.ipv4.conf.all.src_valid_mark=0, or do without --preserve-source", ErrConfig)
	}
	return nil
}

// set puts it in place; it may be there already.
func (r *returns) set() error {
	loopback, err := r.handle.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("tun: find lo: %w", err)
	}
	for _, family := range r.spec.Families {
		if err := r.handle.RouteReplace(r.spec.route(family, loopback.Attrs().Index)); err != nil {
			return fmt.Errorf("tun: add a route to table %d: %w", r.spec.Table, err)
		}
		rules, err := rulesOf(r.handle, family)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(rules, r.spec.matches) {
			continue
		}
		if err := r.handle.RuleAdd(r.spec.rule(family)); err != nil {
			return fmt.Errorf("tun: add %s rule fwmark %#x lookup %d: %w", ipCommand(family), r.spec.Mark, r.spec.Table, err)
		}
	}
	return r.setFilter()
}

// clash is the mark, if there is one, that one of two runs has for its sockets and
// the other for return packets: what the sockets send would be led to this host.
func (h *Host) clash(r record) (mark uint32, clash bool) {
	ours := h.rules[0].Mark
	if r.Returns != nil && r.Returns.Mark == ours {
		return ours, true
	}
	if h.returns == nil {
		return 0, false
	}
	mark = h.returns.spec.Mark
	return mark, slices.ContainsFunc(r.Rules, func(s ruleSpec) bool { return s.Mark == mark })
}

// setFilter makes the table anew, at one stroke.
func (r *returns) setFilter() error {
	table := &nftables.Table{Name: r.spec.Filter, Family: nftables.TableFamilyINet}
	r.nft.AddTable(table) // so that there is one to delete
	r.nft.DelTable(table)
	r.nft.AddTable(table)
	chain := r.nft.AddChain(&nftables.Chain{
		Name: "returns", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle,
	})
	const register = 1
	number := binaryutil.NativeEndian.PutUint32
	// socket transparent 1 socket mark SOCKETS meta mark set MARK
	r.nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Socket{Key: expr.SocketKeyTransparent, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{1}},
		&expr.Socket{Key: expr.SocketKeyMark, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: number(r.spec.Sockets)},
		&expr.Immediate{Register: register, Data: number(r.spec.Mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: register},
	}})
	// Only the first fragment of a datagram has its ports, so the socket would
	// not be found for the others. A rule with "tproxy", though no packet ever
	// gets to it, has the kernel put fragments together before they come here.
	for _, family := range r.spec.Families {
		nfproto := byte(unix.NFPROTO_IPV6)
		if family == netlink.FAMILY_V4 {
			nfproto = unix.NFPROTO_IPV4
		}
		r.nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
			&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{noProtocol}},
			&expr.Immediate{Register: register, Data: []byte{0, 1}},
			&expr.TProxy{Family: nfproto, TableFamily: unix.NFPROTO_INET, RegPort: register},
		}})
	}
	if err := r.nft.Flush(); err != nil {
		return noFilter(err)
	}
	return nil
}

// noProtocol is that of no packet: reserved (RFC 5237, IANA).
const noProtocol = math.MaxUint8

// repair puts it in place if any of it is not, and says in words what that was.
func (r *returns) repair() (back []string, err error) {
	if r == nil {
		return nil, nil
	}
	routes, err := r.routes()
	if err != nil {
		return nil, err
	}
	all, err := r.filterThere()
	all = all && len(routes) >= len(r.spec.Families)
	for _, family := range r.spec.Families {
		rules, rulesErr := rulesOf(r.handle, family)
		err = errors.Join(err, rulesErr)
		all = all && slices.ContainsFunc(rules, r.spec.matches)
	}
	if err != nil || all {
		return nil, err
	}
	if err := r.set(); err != nil {
		return nil, err
	}
	return []string{r.spec.String()}, nil
}

// there reports whether anything of it is in place.
func (r *returns) there() (bool, error) {
	for _, family := range r.spec.Families {
		rules, err := rulesOf(r.handle, family)
		if err != nil || slices.ContainsFunc(rules, r.spec.matches) {
			return err == nil, err
		}
	}
	routes, err := r.routes()
	if err != nil || len(routes) > 0 {
		return err == nil, err
	}
	return r.filterThere()
}

func (r *returns) filterThere() (bool, error) {
	tables, err := r.nft.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, nil // a kernel without nftables has none
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == r.spec.Filter }), nil
}

// routes are those of the table that are ours.
func (r *returns) routes() ([]netlink.Route, error) {
	routes, err := routesIn(r.handle, r.spec.Table)
	return slices.DeleteFunc(routes, func(route netlink.Route) bool {
		return route.Protocol != protocol || route.Type != unix.RTN_LOCAL
	}), err
}

// remove takes it back; that some of it is gone already is no error.
func (r *returns) remove() error {
	var errs []error
	if there, _ := r.filterThere(); there {
		r.nft.DelTable(&nftables.Table{Name: r.spec.Filter, Family: nftables.TableFamilyINet})
		if err := r.nft.Flush(); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("tun: remove nft table inet %s: %w", r.spec.Filter, err))
		}
	}
	for _, family := range r.spec.Families {
		rules, err := rulesOf(r.handle, family)
		errs = append(errs, err)
		for _, rule := range rules {
			if !r.spec.matches(rule) {
				continue
			}
			if err := r.handle.RuleDel(r.spec.rule(family)); err != nil && !gone(err) {
				errs = append(errs, fmt.Errorf("tun: remove %s rule fwmark %#x lookup %d: %w", ipCommand(family), r.spec.Mark, r.spec.Table, err))
			}
		}
	}
	routes, err := r.routes()
	errs = append(errs, err)
	for _, route := range routes {
		if err := r.handle.RouteDel(&route); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("tun: remove the route of table %d: %w", r.spec.Table, err))
		}
	}
	return errors.Join(errs...)
}

package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Name is that of the table, of family inet. There is one in a network
// namespace.
const Name = "aarptun"

// ErrUnsupported says that the kernel lacks something that the table needs. A
// missing permission is [os.ErrPermission].
var ErrUnsupported = errors.New("nft: the kernel cannot carry flows")

// Key is by what a flow's member is found.
type Key uint8

// The keys.
const (
	ByAnycast Key = iota // one member for each AA
	BySource             // one for each client and AA
	ByTurn               // the members of an AA in turn
)

// Config is what a table is made of.
type Config struct {
	Prefixes []netip.Prefix // the anycast prefixes, without host bits
	Mark     uint32         // of the sockets whose packets are left alone; not 0
	Key      Key
	// Masquerade has members see flows of other hosts come from this one, as
	// those of the TUN do. Without it they see the hosts' own addresses.
	Masquerade bool
}

// Table is the table, in the network namespace of the thread that called
// [Open]. Its methods may be called from any goroutine.
type Table struct {
	config   Config
	nft      *nftables.Conn
	tracking *tracking
	events   *events
	table    *nftables.Table
	half     [2]*half // of IPv6 and of IPv4

	mu      sync.Mutex
	spans   []span // that are led to us
	ever    []span // and those that have been
	stats   Stats
	adopted bool
	stopped bool
	closed  bool
}

// half is what the table has for one family.
type half struct {
	family
	prefixes *nftables.Set // aa: the anycast prefixes
	pins     *nftables.Set // AA, and what else the Key has, to UA
	silent   *nftables.Set // AA: a member of it does not answer
	used     *nftables.Set // AA: a pin of it was used
	bridges  bool          // what comes over a bridge is left to the TUN
	have     map[string]element
}

// Stats says what a Table has done. Pins is a gauge; the rest only grows.
type Stats struct {
	Pins     int    `json:"pins"`     // elements of the maps, as far as is known
	Changes  uint64 `json:"changes"`  // elements that were added, renewed or removed
	Rebuilds uint64 `json:"rebuilds"` // of maps or of the table, after something was amiss
	Failures uint64 `json:"failures"` // transactions that the kernel refused
	Looks    uint64 `json:"looks"`    // at which AAs are used
}

// Open makes the table, or adopts the one that a dead run has left: what it
// pinned is forgotten, and the flows live on.
func Open(c Config) (_ *Table, err error) {
	t := &Table{config: c, spans: spansOf(c.Prefixes), ever: spansOf(c.Prefixes), table: &nftables.Table{Name: Name, Family: nftables.TableFamilyINet}}
	if c.Mark == 0 || len(t.spans) == 0 || c.Key > ByTurn {
		return nil, fmt.Errorf("nft: mark %#x, %d prefixes and key %d: there must be a mark, a prefix and a known key", c.Mark, len(c.Prefixes), c.Key)
	}
	if t.nft, err = nftables.New(nftables.AsLasting()); err != nil {
		return nil, lacking("nftables", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	if t.tracking, err = track(); err != nil {
		return nil, lacking("connection tracking", err)
	}
	if t.events, err = follow(); err != nil {
		return nil, lacking("events of nftables", err)
	}
	for i, f := range families {
		t.half[i] = t.newHalf(f)
		if t.half[i].bridges, err = f.passed(); err != nil {
			return nil, err
		}
	}
	if err := t.make(); err != nil {
		return nil, lacking("nftables with nat, maps, sets, and conntrack's labels and time-outs (modules nf_tables, nft_ct, nft_nat, nft_masq, nft_fib_inet, nft_numgen, nfnetlink_cttimeout)", err)
	}
	if _, err := t.Count(); err != nil {
		return nil, errors.Join(lacking("a list of flows by their status (Linux 5.15, module nf_conntrack_netlink)", err), t.remove())
	}
	return t, nil
}

func lacking(what string, err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("nft: CAP_NET_ADMIN is missing, so the kernel cannot be told to carry flows: run as root: %w", os.ErrPermission)
	}
	return fmt.Errorf("%w: it lacks %s: %w", ErrUnsupported, what, err)
}

// make writes the whole table in one transaction, with empty maps.
func (t *Table) make() error {
	left, err := t.leftovers()
	if err != nil {
		return err
	}
	t.nft.AddTable(t.table)
	left.remove(t.nft, t.table)
	t.addTimeouts()
	for _, h := range t.half {
		h.have = make(map[string]element)
		if err := errors.Join(t.nft.AddSet(h.prefixes, h.elementsOf(t.spans)), t.nft.AddSet(h.pins, nil), t.nft.AddSet(h.silent, nil), t.nft.AddSet(h.used, nil)); err != nil {
			return err
		}
	}
	t.addChains()
	return t.nft.Flush()
}

// leftovers is what an earlier run has left in the table, but for the objects
// with the time-outs.
type leftovers struct {
	chains []*nftables.Chain
	sets   []*nftables.Set
}

func (t *Table) leftovers() (left leftovers, err error) {
	there, err := exists(t.nft)
	if err != nil || !there {
		return left, err
	}
	t.adopted = true
	chains, err := t.nft.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return left, err
	}
	for _, c := range chains {
		if c.Table.Name == Name {
			left.chains = append(left.chains, c)
		}
	}
	left.sets, err = t.nft.GetSets(t.table)
	return left, err
}

// remove adds its removal to a transaction: first the rules, which refer to the
// rest.
func (left leftovers) remove(nft *nftables.Conn, table *nftables.Table) {
	if len(left.chains) == 0 {
		return
	}
	nft.FlushTable(table)
	for _, c := range left.chains {
		c.Table = table
		nft.DelChain(c)
	}
	for _, s := range left.sets {
		s.Table = table
		nft.DelSet(s)
	}
}

// exists reports whether there is such a table.
func exists(nft *nftables.Conn) (bool, error) {
	tables, err := nft.ListTablesOfFamily(nftables.TableFamilyINet)
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == Name }), err
}

// Stats returns the counters as they stand.
func (t *Table) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.stats
	s.Pins = 0
	now := time.Now()
	for _, h := range t.half {
		for _, e := range h.have {
			if e.expires.After(now) {
				s.Pins++
			}
		}
	}
	return s
}

// Adopted reports whether a dead run had left the table.
func (t *Table) Adopted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.adopted
}

// SetPrefixes has other anycast prefixes lead to us, in one transaction. Flows to
// those that do no more live on.
func (t *Table) SetPrefixes(prefixes []netip.Prefix) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	spans := spansOf(prefixes)
	if t.closed || slices.Equal(spans, t.spans) {
		return nil
	}
	for _, h := range t.half {
		t.nft.FlushSet(h.prefixes)
		if elements := h.elementsOf(spans); len(elements) > 0 {
			if err := t.nft.SetAddElements(h.prefixes, elements); err != nil {
				return err
			}
		}
	}
	if err := t.nft.Flush(); err != nil {
		return fmt.Errorf("nft: tell the kernel of other prefixes: %w", err)
	}
	t.spans, t.ever = spans, merge(slices.Concat(t.ever, spans))
	return nil
}

// Stop empties the maps, for good: new flows go to the TUN, and those that exist
// live on.
func (t *Table) Stop() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.stopped = true
	return t.set(nil)
}

// Release lets the table stand, without pins: no new flow finds a member there,
// and those that exist live on. Remove, or the next Open, finds it.
func (t *Table) Release() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	return errors.Join(t.set(nil), t.close())
}

// Close removes the table, and all that the connection tracking knows of the
// anycast prefixes: the flows that are left are cut.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	return errors.Join(t.remove(), t.tracking.forget(t.ever), t.close())
}

func (t *Table) remove() error {
	if there, err := exists(t.nft); err != nil || !there {
		return err
	}
	t.nft.DelTable(t.table)
	if err := t.nft.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("nft: remove table inet %s: %w", Name, err)
	}
	return nil
}

func (t *Table) close() error {
	if t.closed {
		return nil
	}
	t.closed = true
	var errs []error
	if t.nft != nil {
		errs = append(errs, t.nft.CloseLasting())
	}
	if t.tracking != nil {
		errs = append(errs, t.tracking.close())
	}
	if t.events != nil {
		errs = append(errs, t.events.close())
	}
	return errors.Join(errs...)
}

// Remove removes the table that a dead run has left, in the network namespace
// of the calling thread, and cuts the flows that still use it. It says in words
// what that was; with dry it only says so. A kernel without nftables has none.
func Remove(dry bool) (removed []string, err error) {
	nft, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, nil
	}
	t := &Table{nft: nft, table: &nftables.Table{Name: Name, Family: nftables.TableFamilyINet}}
	defer func() { err = errors.Join(err, t.close()) }()
	if there, err := exists(nft); err != nil || !there {
		return nil, nil
	}
	removed = []string{"nft table inet " + Name}
	if dry {
		return removed, nil
	}
	spans, err := t.storedSpans()
	if err != nil {
		return nil, err
	}
	if err := t.remove(); err != nil {
		return nil, err
	}
	if t.tracking, err = track(); err != nil {
		return removed, nil // then it knows of no flow either
	}
	return removed, t.tracking.forget(spans)
}

// storedSpans reads the anycast prefixes from the table itself.
func (t *Table) storedSpans() (spans []span, err error) {
	sets, err := t.nft.GetSets(t.table)
	if err != nil {
		return nil, err
	}
	for _, s := range sets {
		if s.Name != "aa6" && s.Name != "aa4" {
			continue
		}
		s.Table = t.table
		elements, err := t.nft.GetSetElements(s)
		if err != nil {
			return nil, err
		}
		spans = append(spans, spansFrom(elements)...)
	}
	return spans, nil
}

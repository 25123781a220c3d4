package tun

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	defaultTable    = 170
	defaultPriority = 17000
	defaultDir      = "/run/aarptun"
)

// Config says what to change. Zero values stand for the defaults.
type Config struct {
	Name     string         // of the device, 1 to 15 bytes; required
	MTU      int            // bytes; 0 takes that of the default routes' links
	Prefixes []netip.Prefix // to route into the device, without host bits
	Table    int            // default 170
	Priority int            // of the rules; default 17000
	Mark     uint32         // of sockets that bypass the device; default 0xaa
	Dir      string         // of the journal; default /run/aarptun
	Offload  OffloadMode    // default OffloadAuto

	// Returns leads packets to other hosts' addresses to those of our sockets
	// that bear them, and that have the mark Mark. It takes Table + 1, Priority + 1
	// and Mark + 1 too.
	Returns bool
	// Carried says that this run lets the kernel carry flows by [nft.Open]. What
	// a dead run has left of it is then adopted there, and not undone.
	Carried bool
	// Address gives the device [Address4] or [Address6] where the namespace has
	// no address of that family that clients could send from.
	Address bool
}

// Host is what was changed on the host: a device, and from AddRoutes to
// RemoveRoutes the routes and rules. Its methods may be called from any
// goroutine, also from other namespaces than the one Open was called in.
type Host struct {
	name     string
	mtu      int
	table    int
	mode     OffloadMode
	lend     bool           // addresses
	lent     []netip.Addr   // those
	prefixes []netip.Prefix // guarded by mu, as are the rules
	rule     ruleSpec       // of any family
	rules    []ruleSpec
	returns  *returns // nil if that was not asked for
	carried  bool     // and by nft
	kept     bool     // the table of nft outlives us
	link     netlink.Link
	device   *Device
	offload  Offload
	handle   *netlink.Handle
	notices  []*notices
	journal  *journal
	counters watchCounters

	mu     sync.Mutex
	routed bool // between AddRoutes and RemoveRoutes
	closed bool
}

// Open makes the device, in the network namespace of the calling thread, and
// undoes first what a dead run of the same device has left there. It changes
// nothing when it fails. What the operator can mend is [os.ErrPermission], or
// [ErrConfig] and its kinds; other errors are the kernel's.
func Open(c Config) (_ *Host, err error) {
	if err := checkPrivilege(); err != nil {
		return nil, err
	}
	if err := checkName(c.Name); err != nil {
		return nil, err
	}
	h := newHost(c)
	if h.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("tun: netlink: %w", err)
	}
	defer func() {
		if err != nil {
			h.handle.Close()
		}
	}()
	if c.Returns {
		if h.returns, err = openReturns(*returnsOf(h.name, h.rules[0]), h.handle); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, h.returns.close())
			}
		}()
	}
	if err := h.subscribe(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			h.unsubscribe()
		}
	}()
	d, err := lockDirectory(dirOf(c), true)
	if err != nil {
		return nil, err
	}
	defer d.unlock()
	var left []byte
	if h.journal, left, err = lockJournal(d.path(h.name), true); err != nil {
		return nil, err
	}
	if err := h.inherit(d, left); err != nil {
		return nil, errors.Join(err, h.abandon(left))
	}
	if err := h.create(); err != nil {
		return nil, errors.Join(err, h.journal.remove())
	}
	return h, nil
}

func newHost(c Config) *Host {
	h := &Host{name: c.Name, mtu: c.MTU, table: c.Table, mode: c.Offload, lend: c.Address, carried: c.Carried, prefixes: slices.Clone(c.Prefixes)}
	if h.table == 0 {
		h.table = defaultTable
	}
	h.rule = ruleSpec{Table: h.table, Priority: cmp.Or(c.Priority, defaultPriority), Mark: cmp.Or(c.Mark, defaultMark)}
	h.rules = h.rulesFor(c.Prefixes)
	return h
}

// rulesFor returns the rule of each family of the prefixes.
func (h *Host) rulesFor(prefixes []netip.Prefix) (rules []ruleSpec) {
	for _, family := range familiesOf(prefixes) {
		spec := h.rule
		spec.Family = family
		rules = append(rules, spec)
	}
	return rules
}

func dirOf(c Config) string {
	if c.Dir == "" {
		return defaultDir
	}
	return c.Dir
}

// inherit undoes what earlier runs have left, sees that the name and the table
// are free, and writes down what this run will change. left is what the journal
// of an earlier run says.
func (h *Host) inherit(d *directory, left []byte) error {
	c := cleaner{handle: h.handle, directory: d, own: h.journal.path, adopt: h.carried}
	if _, err := c.undo(left); err != nil {
		return err
	}
	if _, err := c.sweep(h.table); err != nil {
		return err
	}
	if h.returns != nil {
		if _, err := c.sweepReturns(h.returns.spec.Table); err != nil {
			return err
		}
	}
	if _, err := h.handle.LinkByName(h.name); err == nil {
		return nameTaken(h.name)
	}
	living, err := d.living(h.journal.path)
	if err != nil {
		return err
	}
	for _, r := range living {
		if r.Carried && h.carried {
			return fmt.Errorf("%w: process %d lets the kernel carry flows, for its device %s: do without --offload", ErrCarried, r.PID, r.Device)
		}
		if mark, clash := h.clash(r); clash {
			return fmt.Errorf("%w: process %d uses the mark %#x for its device %s: choose another with --fwmark", ErrConfig, r.PID, mark, r.Device)
		}
		if r.uses(h.table) || h.returns != nil && r.uses(h.returns.spec.Table) {
			return fmt.Errorf("%w: process %d has table %d for its device %s: choose another with --table", ErrTableTaken, r.PID, h.table, r.Device)
		}
	}
	if err := checkTable(h.handle, h.table); err != nil {
		return err
	}
	if h.returns != nil {
		if err := h.returns.check(familiesOf(h.prefixes)); err != nil {
			return err
		}
	}
	return h.writeDown()
}

// writeDown has the journal tell what is to be undone.
func (h *Host) writeDown() error {
	r := record{Version: 1, PID: os.Getpid(), Device: h.name, Rules: h.rules, Carried: h.carried}
	if h.returns != nil {
		r.Returns = &h.returns.spec
	}
	return h.journal.write(r)
}

// abandon gives the journal up again. One that holds what may still have to be
// undone stays.
func (h *Host) abandon(left []byte) error {
	if len(left) > 0 {
		return h.journal.leave()
	}
	return h.journal.remove()
}

// create makes the device.
func (h *Host) create() error {
	if h.mtu == 0 {
		h.mtu = uplinkMTU(h.handle)
	}
	device, err := createDevice(h.name)
	if err != nil {
		return err
	}
	if h.link, err = raise(h.handle, h.name, h.mtu); err != nil {
		return errors.Join(err, device.Close())
	}
	if h.offload, err = device.offload(h.mode); err == nil && h.lend {
		err = h.lendAddresses()
	}
	if err != nil {
		return errors.Join(err, device.Close())
	}
	h.device = device
	return nil
}

// Device is the open device, for reading and writing packets. Whoever uses it
// may close it; Close does so too.
func (h *Host) Device() *Device { return h.device }

// Offload returns what the device takes in one packet.
func (h *Host) Offload() Offload { return h.offload }

// Name returns the name of the device.
func (h *Host) Name() string { return h.name }

// MTU returns the MTU of the device in bytes.
func (h *Host) MTU() int { return h.mtu }

// AddRoutes leads the prefixes into the device; from then on clients depend on
// it. It may be called again, and sets what is missing. When it fails, what it
// had added is gone again.
func (h *Host) AddRoutes() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return fmt.Errorf("tun: add routes to %s: %w", h.name, os.ErrClosed)
	}
	err := h.addRoutes()
	if err != nil {
		err = errors.Join(err, h.removeRoutes())
	}
	h.routed = err == nil
	return err
}

func (h *Host) addRoutes() error {
	if h.returns != nil {
		if err := h.returns.set(); err != nil {
			return err
		}
	}
	if err := h.setRoutes(); err != nil {
		return err
	}
	for _, rule := range h.rules {
		if err := addRule(h.handle, rule); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) setRoutes() error {
	for _, p := range h.prefixes {
		if err := h.setRoute(p); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) setRoute(p netip.Prefix) error {
	err := h.handle.RouteReplace(routeOf(p, h.table, h.link.Attrs().Index))
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		// The kernel's EACCES is about the device, not about who asks.
		return fmt.Errorf("%w: no route for %v: is %s disabled on this host? %v", ErrConfig, p, familyName(p), err)
	}
	if err != nil {
		return fmt.Errorf("tun: add the route of %v to table %d: %w", p, h.table, err)
	}
	return nil
}

func familyName(p netip.Prefix) string {
	if p.Addr().Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// RemoveRoutes takes back what AddRoutes set; that some of it is gone already
// is no error.
func (h *Host) RemoveRoutes() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil // Close did
	}
	return h.removeRoutes()
}

func (h *Host) removeRoutes() error {
	h.routed = false
	var errs []error
	for _, rule := range h.rules {
		errs = append(errs, removeRule(h.handle, rule))
	}
	for _, p := range h.prefixes {
		errs = append(errs, h.removeRoute(p))
	}
	if h.returns != nil {
		errs = append(errs, h.returns.remove())
	}
	return errors.Join(errs...)
}

// Keep has Close leave the journal, since there is something of [nft.Table] that
// is meant to outlive this run.
func (h *Host) Keep() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kept = true
}

// Close takes everything back. It may be called more than once.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	defer h.handle.Close()
	defer h.unsubscribe()
	undone := errors.Join(h.removeRoutes(), h.returns.close())
	var closing error
	if err := h.device.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		closing = fmt.Errorf("tun: close %s: %w", h.name, err)
	}
	if undone != nil || h.kept {
		return errors.Join(undone, closing, h.journal.leave())
	}
	return errors.Join(closing, h.journal.remove())
}

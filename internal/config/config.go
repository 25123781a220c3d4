package config

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ErrInvalid is what every error about a wrong value is, by [errors.Is].
var ErrInvalid = errors.New("invalid configuration")

// invalidError says what is wrong in one sentence, without a preamble: it is
// read behind the name of the flag or the line of the file.
type invalidError string

func (e invalidError) Error() string      { return string(e) }
func (invalidError) Is(target error) bool { return target == ErrInvalid }

func invalid(format string, args ...any) error {
	return invalidError(fmt.Sprintf(format, args...))
}

// Unresolved is what becomes of a flow to an address that answers probes from
// itself: an ordinary unicast address, or a member with AA on its loopback.
type Unresolved string

// The ways to treat a self-answer.
const (
	Direct Unresolved = "direct" // carry the flow to AA itself, unpinned
	Reject Unresolved = "reject" // tell the client the host is unreachable
)

// Sticky is for whom the choice of a member holds.
type Sticky string

// The ways to be sticky.
const (
	StickyHost   Sticky = "host"   // one member for all flows of this host to an AA
	StickySource Sticky = "source" // one for each client address
	StickyFlow   Sticky = "flow"   // each flow chooses anew
)

// Select is which member of an AA is chosen.
type Select string

// The ways to select.
const (
	SelectFirst  Select = "first"  // the one that answers first
	SelectRTT    Select = "rtt"    // the nearest of those on all paths
	SelectSpread Select = "spread" // all of them alike
)

// OffloadGSO says whether packets of up to 64 KiB, many segments or datagrams in
// one, cross the TUN.
type OffloadGSO string

// The ways to use the offloads.
const (
	OffloadAuto OffloadGSO = "auto" // where the kernel passes a test
	OffloadOn   OffloadGSO = "on"   // or do not start
	OffloadOff  OffloadGSO = "off"  // packets of the MTU only
)

// Config is everything `aarptun run` can be told. [Default] has the value of
// each key that is not given; [Config.Validate] holds the rules.
type Config struct {
	// Prefixes are the anycast prefixes to route into the TUN, at least one,
	// without host bits, none of it loopback, link-local or multicast.
	Prefixes []netip.Prefix
	// MemberPrefixes, if any, are the only prefixes a member's UA may lie in
	// (trust level allow-list); without them any answer is trusted that
	// carries the probe's nonce.
	MemberPrefixes []netip.Prefix
	// Static names the members of anycast addresses that are not probed, in
	// the order of preference.
	Static map[netip.Addr][]netip.Addr

	// STUNPort is the UDP port of the members' responders, 1 to 65535; 0 asks
	// them nothing.
	STUNPort uint16
	// PSKFiles name the file of shared keys for a prefix, which must be one of
	// Prefixes; [AllPrefixes] stands for those that have none of their own.
	// Answers about such a prefix must show the key (trust level psk).
	PSKFiles map[netip.Prefix]string
	// PublicKeys are the pinned keys for a prefix, as with PSKFiles. Answers
	// must be signed with one of them (trust level ed25519).
	PublicKeys map[netip.Prefix][]ed25519.PublicKey

	// TUN is the name of the device, 1 to 15 bytes.
	TUN string
	// MTU of the device in bytes, 1280 to 65535; 0 takes the uplink's.
	MTU int
	// OffloadGSO says how packets cross the device.
	OffloadGSO OffloadGSO
	// Table is the routing table for the prefixes, not one of the kernel's
	// own (0, 253 to 255).
	Table int
	// Mark is the SO_MARK of aarptun's own sockets, which bypass the TUN. With
	// Netns they are outside of it and get none.
	Mark uint32
	// Netns is the network namespace that the device, the routes and the rules
	// are made in: a name under /run/netns, a path, or a process id; "" is our
	// own.
	Netns string

	// CacheTTL is how long a pin lives.
	CacheTTL time.Duration
	// Stale is how long after its end a pin still serves while nobody answers
	// the probes, 0 to 1 h.
	Stale time.Duration
	// Sticky and Select say which member a new flow gets.
	Sticky Sticky
	Select Select
	// Unresolved says what to do with self-answers.
	Unresolved Unresolved

	// AdminSocket is the path of the unix socket for status, flows and pins.
	AdminSocket string
	// StateDir holds the journal of what was changed on the host.
	StateDir string
	// DrainTimeout is how long flows may go on after a stop was asked for.
	DrainTimeout time.Duration

	LogLevel  slog.Level
	LogFormat string // "text" or "json"
}

// SocketMark is the SO_MARK of our own sockets, 0 for none.
func (c Config) SocketMark() uint32 {
	if c.Netns != "" {
		return 0
	}
	return c.Mark
}

// AllPrefixes is the key of what counts for every prefix that has nothing of
// its own.
var AllPrefixes netip.Prefix

// Default returns the configuration that is used where nothing is given. It
// has no prefixes, so it is not valid by itself.
func Default() Config {
	return Config{
		STUNPort: 3478,
		TUN:      "aarptun0", Table: 170, Mark: 0xaa,
		CacheTTL: 30 * time.Second, Stale: time.Minute, Unresolved: Direct,
		Sticky: StickyHost, Select: SelectFirst, OffloadGSO: OffloadAuto,
		AdminSocket: "/run/aarptun/admin.sock", StateDir: "/run/aarptun",
		DrainTimeout: 2 * time.Second,
		LogLevel:     slog.LevelInfo, LogFormat: "text",
	}
}

// Validate returns an error that names the first wrong value and the remedy.
// It is an [ErrInvalid].
func (c Config) Validate() error {
	for _, check := range []func() error{c.checkPrefixes, c.checkStatic, c.checkKeys, c.checkDevice, c.checkRest, c.ValidatePaths} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c Config) checkPrefixes() error {
	if len(c.Prefixes) == 0 {
		return invalid("no anycast prefix given: name at least one, such as -p 2001:db8:aa::/64")
	}
	for _, p := range slices.Concat(c.Prefixes, c.MemberPrefixes) {
		if !p.IsValid() || p != p.Masked() {
			return invalid("prefix %v is not a network prefix", p)
		}
	}
	for _, p := range c.Prefixes {
		if special, ok := specialIn(p); ok {
			return invalid("prefix %v has addresses in %v, which is never anycast: name only the anycast prefixes", p, special)
		}
	}
	return nil
}

// special is a prefix that holds no address that several hosts could share.
type special struct {
	prefix netip.Prefix
	name   string
}

// String is the prefix and what it is for.
func (s special) String() string { return s.prefix.String() + " (" + s.name + ")" }

// specials are such prefixes (RFC 6890, RFC 4291 section 2). Routing them into
// the TUN would cut the host off.
var specials = []special{
	{netip.MustParsePrefix("::/128"), "unspecified"}, {netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("::ffff:0:0/96"), "IPv4-mapped"}, {netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"}, {netip.MustParsePrefix("0.0.0.0/8"), "this network"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"}, {netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"}, {netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
}

// specialIn returns the first special prefix that shares addresses with p.
func specialIn(p netip.Prefix) (special, bool) {
	for _, s := range specials {
		if p.Overlaps(s.prefix) {
			return s, true
		}
	}
	return special{}, false
}

func (c Config) checkStatic() error {
	for aa, uas := range c.Static {
		if !c.covers(aa) {
			return invalid("static member for %v: no anycast prefix contains it: add -p %v", aa, netip.PrefixFrom(aa, aa.BitLen()))
		}
		if len(uas) == 0 {
			return invalid("static member for %v: no unicast address given", aa)
		}
		for _, ua := range uas {
			if ua.Is4() != aa.Is4() {
				return invalid("static member %v=%v: the addresses are of different families", aa, ua)
			}
			if special, ok := specialIn(netip.PrefixFrom(ua, ua.BitLen())); ok {
				return invalid("static member %v=%v: the member's address lies in %v, where no member can be reached", aa, ua, special)
			}
			if c.covers(ua) {
				return invalid("static member %v=%v: the member's address lies in an anycast prefix and would be routed back into the TUN", aa, ua)
			}
		}
	}
	return nil
}

func (c Config) checkKeys() error {
	keyed := slices.Concat(slices.Collect(maps.Keys(c.PSKFiles)), slices.Collect(maps.Keys(c.PublicKeys)))
	for _, p := range keyed {
		if p != AllPrefixes && !slices.Contains(c.Prefixes, p) {
			return invalid("keys for %v: it is none of the anycast prefixes: add -p %v", p, p)
		}
	}
	for p, keys := range c.PublicKeys {
		for _, k := range keys {
			if len(k) != ed25519.PublicKeySize {
				return invalid("a public key for %v has %d bytes, not %d", p, len(k), ed25519.PublicKeySize)
			}
		}
	}
	if len(keyed) > 0 && c.STUNPort == 0 {
		return invalid("keys are given, and --stun-port 0 asks nobody for a proof: take one of them away")
	}
	return nil
}

func (c Config) covers(a netip.Addr) bool {
	return slices.ContainsFunc(c.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (c Config) checkDevice() error {
	switch {
	case c.TUN == "" || len(c.TUN) > 15 || c.TUN == "." || c.TUN == ".." || strings.ContainsAny(c.TUN, "/:% \t\n"):
		return invalid("device name %q: it must have 1 to 15 bytes without space, '/', ':' and '%%'", c.TUN)
	case c.MTU != 0 && (c.MTU < 1280 || c.MTU > 65535):
		return invalid("MTU %d: it must be 1280 (RFC 8200 section 5) to 65535, or 0 for the uplink's", c.MTU)
	case c.OffloadGSO != OffloadAuto && c.OffloadGSO != OffloadOn && c.OffloadGSO != OffloadOff:
		return invalid("offload-gso %q: it must be auto, on or off", c.OffloadGSO)
	case c.Table < 1 || c.Table > 1<<32-1 || c.Table >= 253 && c.Table <= 255:
		return invalid("routing table %d: it must be 1 to 4294967295 and none of the kernel's own 253, 254 and 255", c.Table)
	case c.Mark == 0:
		return invalid("mark 0: unmarked sockets would be routed into the TUN: choose another, such as 0xaa")
	}
	return nil
}

func (c Config) checkRest() error {
	switch {
	case c.CacheTTL < 100*time.Millisecond || c.CacheTTL > 24*time.Hour:
		return invalid("cache TTL %v: it must be 100ms to 24h", c.CacheTTL)
	case c.Stale < 0 || c.Stale > time.Hour:
		return invalid("stale time %v: it must be 0 to 1h", c.Stale)
	case c.Sticky != StickyHost && c.Sticky != StickySource && c.Sticky != StickyFlow:
		return invalid("sticky %q: it must be host, source or flow", c.Sticky)
	case c.Select != SelectFirst && c.Select != SelectRTT && c.Select != SelectSpread:
		return invalid("select %q: it must be first, rtt or spread", c.Select)
	case c.Unresolved != Direct && c.Unresolved != Reject:
		return invalid("unresolved %q: it must be direct or reject", c.Unresolved)
	case c.DrainTimeout < 0 || c.DrainTimeout > time.Hour:
		return invalid("drain timeout %v: it must be 0 to 1h", c.DrainTimeout)
	case c.LogFormat != "text" && c.LogFormat != "json":
		return invalid("log format %q: it must be text or json", c.LogFormat)
	}
	return nil
}

// ValidatePaths is the part of [Config.Validate] that commands need which only
// look at a daemon or clean up after one.
func (c Config) ValidatePaths() error {
	switch {
	case !filepath.IsAbs(c.AdminSocket) || len(c.AdminSocket) > 107:
		return invalid("admin socket %q: it must be an absolute path of at most 107 bytes (unix(7))", c.AdminSocket)
	case !filepath.IsAbs(c.StateDir):
		return invalid("state directory %q: it must be an absolute path", c.StateDir)
	}
	return nil
}

package config

import (
	"crypto/ed25519"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Validate returns an error that names the first wrong value and the remedy.
// It is an [ErrInvalid].
func (c Config) Validate() error {
	for _, check := range []func() error{c.checkPrefixes, c.checkStatic, c.checkKeys, c.checkDevice, c.checkRest, c.checkWatch, c.ValidatePaths} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// ValidateExec is [Config.Validate] for `aarptun exec`, which needs no prefix, since
// every address can be asked, and no place for a socket or a journal.
func (c Config) ValidateExec() error {
	checks := []func() error{c.checkPrefixes, c.checkStatic, c.checkKeys, c.checkDevice, c.checkRest}
	if len(c.Prefixes) == 0 {
		for _, key := range []string{"psk-file", "pubkey", "static", "unresolved"} {
			if c.has(key) {
				return wrong(key, "", "--%s is about anycast addresses, and none are given: name the prefixes, such as -p 2001:db8:aa::/64", key)
			}
		}
		checks = checks[3:]
	}
	if c.AdminSocket != "" {
		checks = append(checks, c.ValidatePaths)
	}
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// has says whether a key that is about prefixes was given.
func (c Config) has(key string) bool {
	switch key {
	case "psk-file":
		return len(c.PSKFiles) > 0
	case "pubkey":
		return len(c.PublicKeys) > 0
	case "static":
		return len(c.Static) > 0
	}
	return len(c.Unresolved) > 1 || c.Unresolved.For(AllPrefixes) != Direct
}

func (c Config) checkPrefixes() error {
	if len(c.Prefixes) == 0 {
		return wrong("prefix", "", "no anycast prefix given: name at least one, such as -p 2001:db8:aa::/64, or a file that does with -c")
	}
	for _, p := range c.Prefixes {
		if !isNetwork(p) {
			return wrong("prefix", p.String(), "prefix %v is not a network prefix", p)
		}
	}
	for _, list := range c.MemberPrefixes {
		for _, p := range list {
			if !isNetwork(p) {
				return wrong("member-prefix", p.String(), "prefix %v is not a network prefix", p)
			}
		}
	}
	for _, p := range c.Prefixes {
		if special, ok := specialIn(p); ok {
			return wrong("prefix", p.String(), "prefix %v has addresses in %v, which is never anycast: name only the anycast prefixes", p, special)
		}
	}
	return nil
}

func isNetwork(p netip.Prefix) bool { return p.IsValid() && p == p.Masked() }

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
			return wrong("static", aa.String(), "static member for %v: no anycast prefix contains it: add -p %v", aa, netip.PrefixFrom(aa, aa.BitLen()))
		}
		if len(uas) == 0 {
			return wrong("static", aa.String(), "static member for %v: no unicast address given", aa)
		}
		for _, ua := range uas {
			if ua.Is4() != aa.Is4() {
				return wrong("static", ua.String(), "static member %v=%v: the addresses are of different families", aa, ua)
			}
			if special, ok := specialIn(netip.PrefixFrom(ua, ua.BitLen())); ok {
				return wrong("static", ua.String(), "static member %v=%v: the member's address lies in %v, where no member can be reached", aa, ua, special)
			}
			if c.covers(ua) {
				return wrong("static", ua.String(), "static member %v=%v: the member's address lies in an anycast prefix and would be routed back into the TUN", aa, ua)
			}
		}
	}
	return nil
}

// checkKeys looks at what is given for single prefixes.
func (c Config) checkKeys() error {
	for _, given := range []struct {
		key      string
		prefixes []netip.Prefix
	}{
		{"psk-file", sortedKeys(c.PSKFiles)}, {"pubkey", sortedKeys(c.PublicKeys)},
		{"member-prefix", sortedKeys(c.MemberPrefixes)}, {"unresolved", sortedKeys(c.Unresolved)},
	} {
		for _, p := range given.prefixes {
			if p != AllPrefixes && !slices.Contains(c.Prefixes, p) {
				return wrong(given.key, p.String(), "%v is none of the anycast prefixes: add -p %v", p, p)
			}
		}
	}
	for p, keys := range c.PublicKeys {
		for _, k := range keys {
			if len(k) != ed25519.PublicKeySize {
				return wrong("pubkey", "", "a public key for %v has %d bytes, not %d", p, len(k), ed25519.PublicKeySize)
			}
		}
	}
	for _, u := range c.Unresolved {
		if u != Direct && u != Reject {
			return wrong("unresolved", string(u), "unresolved %q: it must be direct or reject", u)
		}
	}
	if len(c.PSKFiles)+len(c.PublicKeys) > 0 && c.STUNPort == 0 {
		return wrong("stun-port", "", "keys are given, and --stun-port 0 asks nobody for a proof: take one of them away")
	}
	return nil
}

// sortedKeys returns the prefixes in a lasting order, [AllPrefixes] first.
func sortedKeys[T any](p PerPrefix[T]) []netip.Prefix {
	return slices.SortedFunc(maps.Keys(p), netip.Prefix.Compare)
}

func (c Config) covers(a netip.Addr) bool {
	return slices.ContainsFunc(c.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (c Config) checkDevice() error {
	switch {
	case c.TUN == "" || len(c.TUN) > 15 || c.TUN == "." || c.TUN == ".." || strings.ContainsAny(c.TUN, "/:% \t\n"):
		return wrong("tun", "", "device name %q: it must have 1 to 15 bytes without space, '/', ':' and '%%'", c.TUN)
	case c.MTU != 0 && (c.MTU < 1280 || c.MTU > 65535):
		return wrong("mtu", "", "MTU %d: it must be 1280 (RFC 8200 section 5) to 65535, or 0 for the uplink's", c.MTU)
	case c.OffloadGSO != OffloadAuto && c.OffloadGSO != OffloadOn && c.OffloadGSO != OffloadOff:
		return wrong("offload-gso", "", "offload-gso %q: it must be auto, on or off", c.OffloadGSO)
	case c.Offload != OffloadNone && c.Offload != OffloadNFT && c.Offload != OffloadMaybe:
		return wrong("offload", "", "offload %q: it must be off, nft or auto", c.Offload)
	case c.Offload == OffloadNFT && c.Netns != "":
		return wrong("offload", "", "--offload nft and --netns exclude each other: the members are reached from another namespace than that of the programs, so only sockets lead there")
	case c.KeepFlows && c.Offload == OffloadNone:
		return wrong("keep-flows", "", "--keep-flows keeps the flows that the kernel carries, and there are none without --offload nft or auto")
	case c.Table < 1 || c.Table > 1<<32-1 || c.Table >= 253 && c.Table <= 255:
		return wrong("table", "", "routing table %d: it must be 1 to 4294967295 and none of the kernel's own 253, 254 and 255", c.Table)
	case c.Mark == 0:
		return wrong("fwmark", "", "mark 0: unmarked sockets would be routed into the TUN: choose another, such as 0xaa")
	case c.PreserveSource:
		return c.checkPreserveSource()
	}
	return nil
}

func (c Config) checkPreserveSource() error {
	switch {
	case c.Table == 252 || c.Table == 1<<32-1:
		return wrong("table", "", "routing table %d: with preserve-source the next one is used too, and must be none of the kernel's own: choose another, such as 170", c.Table)
	case c.Mark == 1<<32-1:
		return wrong("fwmark", "", "mark %#x: with preserve-source the next one is used too, and there is none: choose another, such as 0xaa", c.Mark)
	case c.Netns != "":
		return wrong("preserve-source", "", "preserve-source and netns: members reach the programs of another namespace by this one's addresses only: take one of them away")
	}
	return nil
}

func (c Config) checkRest() error {
	switch {
	case c.CacheTTL < 100*time.Millisecond || c.CacheTTL > 24*time.Hour:
		return wrong("cache-ttl", "", "cache TTL %v: it must be 100ms to 24h", c.CacheTTL)
	case c.Stale < 0 || c.Stale > time.Hour:
		return wrong("stale", "", "stale time %v: it must be 0 to 1h", c.Stale)
	case c.Sticky != StickyHost && c.Sticky != StickySource && c.Sticky != StickyFlow:
		return wrong("sticky", "", "sticky %q: it must be host, source or flow", c.Sticky)
	case c.Select != SelectFirst && c.Select != SelectRTT && c.Select != SelectSpread:
		return wrong("select", "", "select %q: it must be first, rtt or spread", c.Select)
	case c.DrainTimeout < 0 || c.DrainTimeout > time.Hour:
		return wrong("drain-timeout", "", "drain timeout %v: it must be 0 to 1h", c.DrainTimeout)
	case c.Sandbox != SandboxAuto && c.Sandbox != SandboxOn && c.Sandbox != SandboxOff:
		return wrong("sandbox", "", "sandbox %q: it must be auto, on or off", c.Sandbox)
	case c.Sandbox == SandboxOn && c.Netns != "":
		return wrong("sandbox", "", "--sandbox on and --netns exclude each other: whether the namespace still has a process is seen among those of others")
	case c.LogFormat != "text" && c.LogFormat != "json":
		return wrong("log-format", "", "log format %q: it must be text or json", c.LogFormat)
	}
	for _, l := range c.Limits.named() {
		if *l.value < 1 || *l.value > maxLimit {
			return wrong("limits", l.name, "limit %s %d: it must be 1 to %d", l.name, *l.value, maxLimit)
		}
	}
	return nil
}

// maxLimit is the highest value of each limit.
const maxLimit = 1 << 24

// ValidatePaths is the part of [Config.Validate] that commands need which only
// look at a daemon or clean up after one.
func (c Config) ValidatePaths() error {
	switch {
	case !filepath.IsAbs(c.AdminSocket) || len(c.AdminSocket) > maxSocketPath:
		return wrong("admin-socket", "", "admin socket %q: it must be an absolute path of at most %d bytes (unix(7))", c.AdminSocket, maxSocketPath)
	case !filepath.IsAbs(c.StateDir):
		return wrong("state-dir", "", "state directory %q: it must be an absolute path", c.StateDir)
	}
	return nil
}

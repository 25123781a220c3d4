package config

import (
	"net/netip"
	"slices"
	"strings"
)

// Key is one thing that can be asked for: by its name in a file, with two
// dashes before it on the command line, and as [Key.Variable] in the
// environment.
type Key struct {
	Name  string
	Short string // a letter for the command line; may be empty
	// Usage says in a line what it is, with unit and range; what stands
	// between backquotes is the name of what is to be given.
	Usage string
	// Fixed: a running daemon cannot change it.
	Fixed bool

	bind func(*Config) Value
}

// keys are all there are, in the order in which they are shown. A new field of
// [Config] has its key here, its rule in [Config.Validate], and its paragraph in
// reference.toml.
var keys = []Key{
	{Name: "prefix", Short: "p", Usage: "anycast prefix to carry; may be repeated", bind: func(c *Config) Value { return Prefixes(&c.Prefixes) }},
	{Name: "member-prefix", Usage: "accept only members in this prefix (allow-list), for one anycast prefix or for all; may be repeated",
		bind: func(c *Config) Value { return MemberPrefixes(&c.MemberPrefixes) }},
	{Name: "static", Usage: "member UA of AA, not probed; may be repeated", bind: func(c *Config) Value { return Static(&c.Static) }},
	{Name: "psk-file", Usage: "file of the shared keys; answers must show its first one (trust psk); once for each prefix",
		bind: func(c *Config) Value { return PSKFiles(&c.PSKFiles) }},
	{Name: "pubkey", Usage: "public key of a member; answers must be signed with one of them (trust ed25519); may be repeated",
		bind: func(c *Config) Value { return PublicKeys(&c.PublicKeys) }},
	{Name: "stun-port", Fixed: true, Usage: "UDP `PORT` of the members' responders; 0 does not ask them",
		bind: func(c *Config) Value { return integer[uint16]{&c.STUNPort} }},
	{Name: "tun", Fixed: true, Usage: "`NAME` of the TUN device, 1 to 15 bytes", bind: func(c *Config) Value { return plainText{to: &c.TUN} }},
	{Name: "mtu", Fixed: true, Usage: "MTU of the device in `BYTES`, 1280 to 65535; 0 takes the uplink's", bind: func(c *Config) Value { return integer[int]{&c.MTU} }},
	{Name: "offload", Fixed: true, Usage: "let the kernel carry the flows to addresses that are pinned already: never, by nftables or do not start, or if it can",
		bind: func(c *Config) Value { return Word(&c.Offload, OffloadNone, OffloadNFT, OffloadMaybe) }},
	{Name: "keep-flows", Fixed: true, Usage: "let the flows that the kernel carries live on after a stop, for the next run or 'aarptun cleanup'",
		bind: func(c *Config) Value { return boolean{&c.KeepFlows} }},
	{Name: "offload-gso", Fixed: true, Usage: "let packets of up to 64 KiB cross the device: where a test at the start passes, always, or never",
		bind: func(c *Config) Value { return Word(&c.OffloadGSO, OffloadAuto, OffloadOn, OffloadOff) }},
	{Name: "table", Fixed: true, Usage: "`NUMBER` of the routing table for the prefixes; nothing else may use it", bind: func(c *Config) Value { return integer[int]{&c.Table} }},
	{Name: "fwmark", Fixed: true, Usage: "mark of aarptun's own sockets, which bypass the TUN", bind: func(c *Config) Value { return Mark(&c.Mark) }},
	{Name: "netns", Fixed: true, Usage: "carry the programs of network namespace `NAME|PATH|PID`, by sockets of this one", bind: func(c *Config) Value { return plainText{to: &c.Netns} }},
	{Name: "preserve-source", Fixed: true, Usage: "have members see the clients' own addresses, not this host's; they must answer through this host",
		bind: func(c *Config) Value { return boolean{&c.PreserveSource} }},
	{Name: "cache-ttl", Usage: "`TIME` for which an answer is used for new flows, 100ms to 24h", bind: func(c *Config) Value { return duration{to: &c.CacheTTL} }},
	{Name: "stale", Fixed: true, Usage: "`TIME` for which an answer is used beyond that while nobody answers, 0 to 1h", bind: func(c *Config) Value { return duration{to: &c.Stale} }},
	{Name: "sticky", Fixed: true, Usage: "keep one member for this host, for each client address, or for each flow alone",
		bind: func(c *Config) Value { return Word(&c.Sticky, StickyHost, StickySource, StickyFlow) }},
	{Name: "select", Fixed: true, Usage: "use the member that answers first, the nearest, or all of them alike",
		bind: func(c *Config) Value { return Word(&c.Select, SelectFirst, SelectRTT, SelectSpread) }},
	{Name: "unresolved", Usage: "carry a flow to an address that answers from itself on to it, or refuse it", bind: func(c *Config) Value { return unresolvedFor(&c.Unresolved) }},
	{Name: "limits", Usage: "change a limit on what clients can have; may be repeated; docs/answers.md has the names", bind: func(c *Config) Value { return limitsValue{&c.Limits} }},
	{Name: "drain-timeout", Usage: "`TIME` that flows may go on for after a stop, 0 to 1h", bind: func(c *Config) Value { return duration{to: &c.DrainTimeout} }},
	{Name: "admin-socket", Fixed: true, Usage: "`PATH` of the unix socket for status, flows and pins", bind: func(c *Config) Value { return plainText{to: &c.AdminSocket} }},
	{Name: "metrics-listen", Fixed: true, Usage: "`ADDRESS` and port, or path of a unix socket, where Prometheus may ask for /metrics",
		bind: func(c *Config) Value { return plainText{to: &c.MetricsListen} }},
	{Name: "pcap", Fixed: true, Usage: "write what crosses the device to `FILE`, as pcapng for tshark and Wireshark", bind: func(c *Config) Value { return plainText{to: &c.Pcap} }},
	{Name: "pcap-size", Fixed: true, Usage: "how large that file may become, at least 128Ki; what comes then is not written", bind: func(c *Config) Value { return size{&c.PcapSize} }},
	{Name: "state-dir", Fixed: true, Usage: "`DIR` of the journal of changes to the host", bind: func(c *Config) Value { return plainText{to: &c.StateDir} }},
	{Name: "sandbox", Fixed: true, Usage: "once set up, keep only the privileges and files that are needed: as far as the kernel can, or do not start, or not at all",
		bind: func(c *Config) Value { return Word(&c.Sandbox, SandboxAuto, SandboxOn, SandboxOff) }},
	{Name: "log-level", Usage: "debug, info, warn or error", bind: func(c *Config) Value { return LogLevel(&c.LogLevel) }},
	{Name: "log-format", Fixed: true, Usage: "form of the log", bind: func(c *Config) Value { return Word(&c.LogFormat, "text", "json") }},
	{Name: "cpu-profile", Fixed: true, Usage: "write what took CPU time to `FILE`, for 'go tool pprof'", bind: func(c *Config) Value { return plainText{to: &c.CPUProfile} }},
}

// Keys returns all keys.
func Keys() []Key { return slices.Clone(keys) }

// Value is the value of the key in c.
func (k Key) Value(c *Config) Value { return k.bind(c) }

// prefixed begins every variable of ours.
const prefixed = "AARPTUN_"

// pathVariable names the file, as -c does.
const pathVariable = prefixed + "CONFIG"

// Variable is the name of the key in the environment.
func (k Key) Variable() string {
	return prefixed + strings.ToUpper(strings.ReplaceAll(k.Name, "-", "_"))
}

func keyNamed(name string) (Key, bool) {
	i := slices.IndexFunc(keys, func(k Key) bool { return k.Name == name })
	if i < 0 {
		return Key{}, false
	}
	return keys[i], true
}

// ofPrefix is the value of a key that a prefix can have of its own.
type ofPrefix interface {
	setFor(prefix netip.Prefix, text string) error
}

// namesOf returns the names of the keys that fit.
func namesOf(fits func(Key) bool) []string {
	var names []string
	for _, k := range keys {
		if fits(k) {
			names = append(names, k.Name)
		}
	}
	return names
}

func isOfPrefix(k Key) bool {
	_, ok := k.Value(new(Config)).(ofPrefix)
	return ok
}

// Changed returns the keys whose values differ.
func Changed(a, b Config) []Key {
	return slices.DeleteFunc(Keys(), func(k Key) bool { return slices.Equal(k.Value(&a).texts(), k.Value(&b).texts()) })
}

package config

import (
	"crypto/ed25519"
	"log/slog"
	"net/netip"
	"time"
)

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

// Offload is who carries a flow whose address is pinned before it begins. All
// others go through the device.
type Offload string

// Who may carry it.
const (
	OffloadNone  Offload = "off"  // the device alone
	OffloadNFT   Offload = "nft"  // the kernel, by nftables, or do not start
	OffloadMaybe Offload = "auto" // the kernel if it can, else the device
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

// Sandbox says whether a daemon that is set up gives up the privileges and files
// that it needs no more.
type Sandbox string

// The ways to be confined.
const (
	SandboxAuto Sandbox = "auto" // as far as the kernel can
	SandboxOn   Sandbox = "on"   // files too, or do not start
	SandboxOff  Sandbox = "off"  // not at all
)

// Config is everything `aarptun run` can be told. [Default] has the value of
// each key that is not given; [Config.Validate] holds the rules.
type Config struct {
	// Prefixes are the anycast prefixes to route into the TUN, at least one,
	// without host bits, none of it loopback, link-local or multicast.
	Prefixes []netip.Prefix
	// MemberPrefixes, if any, are the only prefixes that the UA of a member of
	// the prefix may lie in (trust level allow-list); without them any answer is
	// trusted that carries the probe's nonce.
	MemberPrefixes PerPrefix[[]netip.Prefix]
	// Static names the members of anycast addresses that are not probed, in
	// the order of preference.
	Static map[netip.Addr][]netip.Addr

	// STUNPort is the UDP port of the members' responders, 1 to 65535; 0 asks
	// them nothing.
	STUNPort uint16
	// PSKFiles name the file of shared keys for a prefix. Answers about it must
	// show the key (trust level psk).
	PSKFiles PerPrefix[string]
	// PublicKeys are the pinned keys for a prefix. Answers about it must be
	// signed with one of them (trust level ed25519).
	PublicKeys PerPrefix[[]ed25519.PublicKey]

	// TUN is the name of the device, 1 to 15 bytes.
	TUN string
	// MTU of the device in bytes, 1280 to 65535; 0 takes the uplink's.
	MTU int
	// Offload says who carries the flows to addresses that are pinned. Not with
	// Netns.
	Offload Offload
	// KeepFlows lets those that the kernel carries live on after a stop.
	KeepFlows bool
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
	// PreserveSource has members see the address of each client of a LAN behind
	// this host, for TCP and UDP. The table and the mark behind Table and Mark are
	// used for what they answer.
	PreserveSource bool

	// CacheTTL is how long a pin lives.
	CacheTTL time.Duration
	// Stale is how long after its end a pin still serves while nobody answers
	// the probes, 0 to 1 h.
	Stale time.Duration
	// Sticky and Select say which member a new flow gets.
	Sticky Sticky
	Select Select
	// Unresolved says what to do with self-answers of a prefix.
	Unresolved PerPrefix[Unresolved]

	// Limits bound what clients can make the daemon hold and do.
	Limits Limits

	// AdminSocket is the path of the unix socket for status, flows and pins.
	AdminSocket string
	// MetricsListen is where Prometheus may ask for the metrics, "HOST:PORT" or
	// the absolute path of a unix socket; "" is nowhere.
	MetricsListen string
	// Pcap is the file for what crosses the device; "" writes none. PcapSize is
	// how large it may become, at least [MinPcapSize] bytes.
	Pcap     string
	PcapSize int64
	// StateDir holds the journal of what was changed on the host.
	StateDir string
	// DrainTimeout is how long flows may go on after a stop was asked for.
	DrainTimeout time.Duration

	// Sandbox says what the daemon gives up once it is set up.
	Sandbox Sandbox

	LogLevel  slog.Level
	LogFormat string // "text" or "json"

	// CPUProfile is the file for a profile of the whole run; "" makes none.
	CPUProfile string
}

// SocketMark is the SO_MARK of our own sockets, 0 for none.
func (c Config) SocketMark() uint32 {
	if c.Netns != "" {
		return 0
	}
	return c.Mark
}

// PerPrefix is what counts for an anycast prefix, which must be one of
// [Config.Prefixes]; what stands for [AllPrefixes] counts for those that have
// nothing of their own.
type PerPrefix[T any] map[netip.Prefix]T

// AllPrefixes is the key of what counts for every prefix that has nothing of
// its own.
var AllPrefixes netip.Prefix

// For returns what counts for a prefix.
func (p PerPrefix[T]) For(prefix netip.Prefix) T {
	if own, ok := p[prefix]; ok {
		return own
	}
	return p[AllPrefixes]
}

// Limits bound what clients can make the daemon hold and do. Each is 1 to
// 16,777,216; what is over one is refused and counted. A process that may open
// few files carries fewer flows than this.
type Limits struct {
	Flows             int // all clients together
	FlowsPerClient    int // of one client address
	FlowsPerNetwork   int // of all client addresses of one IPv6 /64
	UDPFlows          int // UDP flows, all clients together
	Opening           int // flows that have not been answered yet
	OpeningPerClient  int // the same, of one client address
	OpeningPerNetwork int // the same, of one IPv6 /64
	OpeningPerAnycast int // the same, to one AA
	UDPFlowsPerSecond int // new UDP flows a second; also the largest burst
	EchoesPerSecond   int // echo requests a second; also the largest burst
}

// Default returns the configuration that is used where nothing is given. It
// has no prefixes, so it is not valid by itself.
func Default() Config {
	return Config{
		STUNPort: 3478,
		TUN:      "aarptun0", Table: 170, Mark: 0xaa,
		CacheTTL: 30 * time.Second, Stale: time.Minute,
		Unresolved: PerPrefix[Unresolved]{AllPrefixes: Direct},
		Limits: Limits{
			Flows: 131072, FlowsPerClient: 65536, FlowsPerNetwork: 98304, UDPFlows: 32768,
			Opening: 4096, OpeningPerClient: 2048, OpeningPerNetwork: 3072, OpeningPerAnycast: 1024,
			UDPFlowsPerSecond: 10000, EchoesPerSecond: 10000,
		},
		Sticky: StickyHost, Select: SelectFirst, Offload: OffloadNone, OffloadGSO: OffloadAuto, Sandbox: SandboxAuto,
		AdminSocket: "/run/aarptun/admin.sock", StateDir: "/run/aarptun",
		DrainTimeout: 2 * time.Second, PcapSize: 256e6,
		LogLevel: slog.LevelInfo, LogFormat: "text",
	}
}

package nat

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
)

// Limits bounds what clients can make the translator hold and do. Every field
// must be positive; [DefaultLimits] says what is used when nothing else is
// asked for. What is over a limit is refused with [Busy] and counted; flows
// that are already in the table are never touched.
type Limits struct {
	Flows             int // flows in the table, all clients together
	FlowsPerClient    int // flows of one client address
	FlowsPerNetwork   int // flows of all client addresses of one IPv6 /64
	UDPFlows          int // UDP flows, all clients together: they end by time alone, and must leave room for others
	Opening           int // flows whose client has not been answered yet
	OpeningPerClient  int // the same, of one client address
	OpeningPerNetwork int // the same, of one IPv6 /64
	OpeningPerAnycast int // the same, to one AA: a black-holed AA cannot use up Opening
	EchoesPerSecond   int // echo requests, all clients together; also the largest burst
	UDPFlowsPerSecond int // new UDP flows, all clients together; also the largest burst
}

// EnoughFiles is how many files a process must be allowed to have open for
// [Limits.For] to leave the default limits as they are.
const EnoughFiles = 175000

// DefaultLimits are sized for one busy host: each TCP flow costs a file
// descriptor and some kilobytes.
func DefaultLimits() Limits {
	return Limits{
		Flows:             131072,
		FlowsPerClient:    65536,
		FlowsPerNetwork:   98304,
		UDPFlows:          32768,
		Opening:           4096,
		OpeningPerClient:  2048,
		OpeningPerNetwork: 3072,
		OpeningPerAnycast: 1024,
		EchoesPerSecond:   10000,
		UDPFlowsPerSecond: 10000,
	}
}

// For returns what a process that may have so many files open can keep of the
// limits. A flow has one, and another while it is dialled; a part is left for
// everything else, so that a flood cannot take what the operator needs to look
// into it.
func (l Limits) For(files int) Limits {
	room := roomIn(files)
	opening := openingIn(room)
	l.Flows = min(l.Flows, room)
	l.FlowsPerClient = min(l.FlowsPerClient, room/4*3)
	l.FlowsPerNetwork = min(l.FlowsPerNetwork, room-room/8)
	l.UDPFlows = min(l.UDPFlows, room/2)
	l.Opening = min(l.Opening, opening)
	l.OpeningPerClient = min(l.OpeningPerClient, max(1, opening/2))
	l.OpeningPerNetwork = min(l.OpeningPerNetwork, max(1, opening/4*3))
	l.OpeningPerAnycast = min(l.OpeningPerAnycast, max(1, opening/4))
	return l
}

func roomIn(files int) int   { return max(4, files/4*3) }
func openingIn(room int) int { return room/4 - room/64 }

// Files is how many files a process must be allowed to have open for
// [Limits.For] to leave the limits as they are, or a few more.
func (l Limits) Files() int {
	opening := max(l.Opening, 2*l.OpeningPerClient, l.OpeningPerNetwork/3*4+4, 4*l.OpeningPerAnycast)
	room := max(l.Flows, max(l.FlowsPerClient, l.FlowsPerNetwork)/3*4+4, 2*l.UDPFlows, (opening+4)*64/15+64)
	return room/3*4 + 8
}

// networkBits is how much of an IPv6 address its link has; the rest is the host's
// own choice, as many times as it likes (RFC 4291 section 2.5.4, RFC 7934, RFC 8981).
const networkBits = 64

// networkOf returns the /64 of an IPv6 client. One host can use all of it, alone
// (RFC 8273) or beside others, whom nothing in a packet tells apart. So one
// client is an address, and all of a /64 together leave room for others. An IPv4
// client is its address.
func networkOf(client netip.Addr) (_ netip.Prefix, v6 bool) {
	if client.Is4() {
		return netip.Prefix{}, false
	}
	network, err := client.Prefix(networkBits)
	return network, err == nil
}

func (l Limits) validate() error {
	for _, field := range []struct {
		name  string
		value int
	}{
		{"Flows", l.Flows}, {"FlowsPerClient", l.FlowsPerClient}, {"FlowsPerNetwork", l.FlowsPerNetwork}, {"UDPFlows", l.UDPFlows}, {"Opening", l.Opening},
		{"OpeningPerClient", l.OpeningPerClient}, {"OpeningPerNetwork", l.OpeningPerNetwork}, {"OpeningPerAnycast", l.OpeningPerAnycast},
		{"EchoesPerSecond", l.EchoesPerSecond}, {"UDPFlowsPerSecond", l.UDPFlowsPerSecond},
	} {
		if field.value < 1 {
			return fmt.Errorf("nat: limit %s is %d: it must be at least 1", field.name, field.value)
		}
	}
	return nil
}

// Limit is which limit stood in the way of a flow; it is the error that says so.
type Limit uint8

// The limits, in the order in which they are looked at.
const (
	LimitDraining Limit = iota // the translator is being stopped
	LimitFlows
	LimitFlowsPerClient
	LimitFlowsPerNetwork
	LimitUDPFlows
	LimitOpening
	LimitOpeningPerClient
	LimitOpeningPerNetwork
	LimitOpeningPerAnycast
	LimitUDPRate
	LimitEchoRate
	limits // how many there are
)

var limitNames = [limits]string{
	"draining", "flows", "flows_per_client", "flows_per_network", "udp_flows", "opening", "opening_per_client", "opening_per_network", "opening_per_anycast",
	"udp_flows_per_second", "echoes_per_second",
}

// Limited returns the name of each limit, in the order in which they are looked
// at; [Stats.Limited] has those that were reached.
func Limited() []string { return limitNames[:] }

// String returns the limit's name as it stands in JSON.
func (l Limit) String() string {
	if l < limits {
		return limitNames[l]
	}
	return fmt.Sprintf("limit(%d)", uint8(l))
}

// Error implements error.
func (l Limit) Error() string { return "nat: over the limit " + l.String() }

// Is makes every limit errBusy.
func (l Limit) Is(target error) bool { return target == errBusy }

var errBusy = errors.New("nat: a limit was reached")

// limitCounters counts refusals by limit.
type limitCounters [limits]atomic.Uint64

// byName returns the counters that are not zero.
func (c *limitCounters) byName() map[string]uint64 {
	counts := map[string]uint64{}
	for l := range limits {
		if n := c[l].Load(); n > 0 {
			counts[l.String()] = n
		}
	}
	return counts
}

// bucket is a token bucket: so many a second, and no more than that at once.
// The table's lock guards it.
type bucket struct {
	perSecond float64
	tokens    float64
	filled    time.Time
}

func newBucket(perSecond int) bucket {
	return bucket{perSecond: float64(perSecond), tokens: float64(perSecond)}
}

// has reports whether there is a token to take.
func (b *bucket) has(now time.Time) bool {
	if !b.filled.IsZero() {
		b.tokens = min(b.perSecond, b.tokens+now.Sub(b.filled).Seconds()*b.perSecond)
	}
	b.filled = now
	return b.tokens >= 1
}

func (b *bucket) take(now time.Time) bool {
	if !b.has(now) {
		return false
	}
	b.tokens--
	return true
}

package nat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Timeouts are the timers of a flow. Every field must be positive;
// [DefaultTimeouts] says what is used when nothing else is asked for.
type Timeouts struct {
	// FirstDial bounds the first attempt to reach a member by TCP; then the
	// flow is dialled once more on a freshly resolved member.
	FirstDial time.Duration
	// Dial bounds both attempts together.
	Dial time.Duration
	// Handshake bounds the wait for the client's ACK of our SYN-ACK.
	Handshake time.Duration
	// UDPIdle ends a UDP flow when nothing has moved for so long.
	UDPIdle time.Duration
	// DNSIdle is UDPIdle for port 53.
	DNSIdle time.Duration
	// Echo is how long the reply to one echo request is waited for.
	Echo time.Duration
	// EchoIdle is how long an Echo flow keeps its member after a request.
	EchoIdle time.Duration
}

// DefaultTimeouts follow the RFCs that say what a translator owes its clients.
// There is none for established TCP: a flow ends when its ends say so.
func DefaultTimeouts() Timeouts {
	return Timeouts{
		FirstDial: 2 * time.Second,   // SYN and a retransmission or two (RFC 6298 section 2)
		Dial:      127 * time.Second, // Linux: tcp_syn_retries = 6
		Handshake: 20 * time.Second,  // after SYN-ACKs at 0, 1, 3, 7 and 15 s (RFC 6298 section 5)
		UDPIdle:   300 * time.Second, // RFC 4787 section 4.3: recommended 5 minutes, never under 2
		DNSIdle:   30 * time.Second,  // one question, one answer
		Echo:      10 * time.Second,
		EchoIdle:  60 * time.Second, // RFC 5508 section 3.2, REQ-1
	}
}

func (t Timeouts) validate() error {
	for _, field := range []struct {
		name  string
		value time.Duration
	}{
		{"FirstDial", t.FirstDial}, {"Dial", t.Dial}, {"Handshake", t.Handshake}, {"UDPIdle", t.UDPIdle},
		{"DNSIdle", t.DNSIdle}, {"Echo", t.Echo}, {"EchoIdle", t.EchoIdle},
	} {
		if field.value <= 0 {
			return fmt.Errorf("nat: timeout %s is %v: it must be positive", field.name, field.value)
		}
	}
	return nil
}

// Config is what a Translator is made of. Resolver, Outside and Pinger are
// required; zero Limits and Timeouts stand for the defaults; a nil Log
// discards.
type Config struct {
	Resolver Resolver
	Outside  Outside
	Pinger   Pinger
	Limits   Limits
	Timeouts Timeouts
	// Source says which address the member is to see for a client: the client's
	// own, say. The zero Addr, and a nil Source, leave it to the kernel. Echo
	// requests always come from the kernel's.
	Source func(client netip.Addr) netip.Addr
	Log    *slog.Logger
}

// Translator gives each flow one member and keeps it there. All its methods
// may be called at once from many goroutines.
type Translator struct {
	resolver Resolver
	outside  Outside
	pinger   Pinger
	source   func(client netip.Addr) netip.Addr
	timeouts Timeouts
	log      *slog.Logger
	table    *table
	workers  workers // of established TCP flows
	stats    counters
}

// New returns a Translator, or an error that names the missing or wrong field
// of the configuration.
func New(c Config) (*Translator, error) {
	if c.Resolver == nil || c.Outside == nil || c.Pinger == nil {
		return nil, errors.New("nat: Resolver, Outside and Pinger are required")
	}
	if c.Limits == (Limits{}) {
		c.Limits = DefaultLimits()
	}
	if c.Timeouts == (Timeouts{}) {
		c.Timeouts = DefaultTimeouts()
	}
	if err := errors.Join(c.Limits.validate(), c.Timeouts.validate()); err != nil {
		return nil, err
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Source == nil {
		c.Source = func(netip.Addr) netip.Addr { return netip.Addr{} }
	}
	t := &Translator{
		resolver: c.Resolver, outside: c.Outside, pinger: c.Pinger, source: c.Source,
		timeouts: c.Timeouts, log: c.Log, table: newTable(c.Limits),
	}
	t.workers.wake.L = &t.workers.mu
	t.table.lost = t.echoEnded
	return t, nil
}

// Run moves the bytes of established TCP flows until ctx ends; then it refuses
// new flows, cuts those there are, and waits for their end.
func (t *Translator) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for range max(2, runtime.GOMAXPROCS(0)) {
		wg.Go(t.workers.work)
	}
	<-ctx.Done()
	empty := t.table.drain()
	t.table.cutAll()
	<-empty
	t.workers.stop()
	wg.Wait()
	return nil
}

// Flows returns the flows as they stand now, oldest first.
func (t *Translator) Flows() []FlowInfo { return t.table.snapshot() }

// FlowsWithin returns how many flows there are to addresses in a prefix.
func (t *Translator) FlowsWithin(p netip.Prefix) int { return t.table.within(p) }

// SetLimits replaces the limits, or returns an error that names the one that is
// wrong. Flows that exist stay, even where they are more than may be now.
func (t *Translator) SetLimits(l Limits) error {
	if err := l.validate(); err != nil {
		return err
	}
	t.table.setLimits(l)
	return nil
}

// Fewer has an item when far fewer flows are left than there were, many: it is
// time to give their memory back.
func (t *Translator) Fewer() <-chan struct{} { return t.table.fewer }

// Refuses reports whether a new flow would be refused now because of a limit.
// It costs nearly nothing, and is not counted.
func (t *Translator) Refuses(tuple Tuple) bool {
	_, reached := t.table.reached(tuple)
	return reached
}

// Drain refuses new flows, waits for those there are to end, and cuts what is
// left when ctx ends; then it returns the context's error. TCP flows are cut
// with RST both ways. It returns nil if every flow ended by itself. Serve
// calls that are under way return soon after.
func (t *Translator) Drain(ctx context.Context) error {
	empty := t.table.drain()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
	}
	t.table.cutAll()
	<-empty
	return ctx.Err()
}

// Stats counts what the Translator has done since it was made. Flows, Opening
// and ClientsAtLimit are gauges; everything else only grows.
type Stats struct {
	Flows   int `json:"flows"`   // in the table now
	Opening int `json:"opening"` // of those, not yet answered
	TCP     int `json:"tcp"`     // of those, each transport
	UDP     int `json:"udp"`
	Echo    int `json:"echo"`
	Most    int `json:"most"` // how many there may be: [Limits.Flows]

	ClientsAtLimit int `json:"clients_at_limit"` // client addresses that have as many flows as one may

	TCPOpened  uint64 `json:"tcp_opened"`  // established TCP flows
	UDPOpened  uint64 `json:"udp_opened"`  // UDP flows with an outside socket
	EchoServed uint64 `json:"echo_served"` // echo replies handed to clients
	BytesOut   uint64 `json:"bytes_out"`   // payload, client to member
	BytesIn    uint64 `json:"bytes_in"`    // payload, member to client

	Retried    uint64            `json:"retried"`     // second dials on a freshly resolved member
	Limited    map[string]uint64 `json:"limited"`     // refused at a limit, by its name
	Rejected   uint64            `json:"rejected"`    // flows the client was told it cannot have, for any reason
	Told       map[string]uint64 `json:"told"`        // of those, by what the client was told: the names of each [Reason]
	Reset      uint64            `json:"reset"`       // TCP flows that ended with RST
	GaveUp     uint64            `json:"gave_up"`     // clients that went away before they were answered
	EchoLost   uint64            `json:"echo_lost"`   // echo requests without a reply
	UDPDropped uint64            `json:"udp_dropped"` // datagrams the outside socket or the client's side did not take

	Dials Histogram `json:"-"` // how long members took to accept a TCP connection
}

type counters struct {
	tcpOpened, udpOpened, echoServed, bytesOut, bytesIn    atomic.Uint64
	retried, rejected, reset, gaveUp, echoLost, udpDropped atomic.Uint64
	limited                                                limitCounters
	told                                                   [Relayed + 1]atomic.Uint64
	dials                                                  histogram
}

// Stats returns the counters as they stand now.
func (t *Translator) Stats() Stats {
	c := &t.stats
	flows, opening, atLimit, protos := t.table.size()
	told := map[string]uint64{}
	for reason := Refused; reason <= Relayed; reason++ {
		if n := c.told[reason].Load(); n > 0 {
			told[reason.String()] = n
		}
	}
	return Stats{
		Flows: flows, Opening: opening, ClientsAtLimit: atLimit, TCP: protos[TCP], UDP: protos[UDP], Echo: protos[Echo], Most: t.table.most(),
		Told: told, Dials: c.dials.snapshot(),
		TCPOpened: c.tcpOpened.Load(), UDPOpened: c.udpOpened.Load(), EchoServed: c.echoServed.Load(),
		BytesOut: c.bytesOut.Load(), BytesIn: c.bytesIn.Load(),
		Retried: c.retried.Load(), Limited: c.limited.byName(), Rejected: c.rejected.Load(), Reset: c.reset.Load(),
		GaveUp: c.gaveUp.Load(), EchoLost: c.echoLost.Load(), UDPDropped: c.udpDropped.Load(),
	}
}

// refuse counts and logs a flow that is not to be, and returns what to tell
// the client.
func (t *Translator) refuse(tuple Tuple, ua netip.Addr, err error) Refusal {
	refusal := RefusalFor(err, tuple.Anycast.Addr())
	var limit Limit
	if errors.As(err, &limit) {
		t.stats.limited[limit].Add(1)
	}
	t.stats.rejected.Add(1)
	t.stats.told[refusal.Reason].Add(1)
	if t.logs() {
		t.logFlow("flow refused", tuple, ua, err, slog.String("told", refusal.String()))
	}
	return refusal
}

// count adds the bytes that moved to the flow and to the whole.
func (t *Translator) countOut(f *flow, n int) {
	f.touch(&f.sent, n)
	t.stats.bytesOut.Add(uint64(n))
}

func (t *Translator) countIn(f *flow, n int) {
	f.touch(&f.got, n)
	t.stats.bytesIn.Add(uint64(n))
}

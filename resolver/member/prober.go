package member

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/pion/stun/v3"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// Errors of a probe. At the end of its context, its error is wrapped as well.
var (
	ErrNoFamily = errors.New("member: no socket of the address's family")
	ErrBusy     = errors.New("member: too many questions are outstanding")
	ErrNoAnswer = errors.New("member: no answer")
	// ErrNoResponder: the host that was reached has nothing on that port.
	ErrNoResponder = errors.New("member: no responder runs there")
	// ErrDraining: every member that was reached takes no new flows.
	ErrDraining = errors.New("member: only members that take no new flows answered")
)

const (
	defaultLanes = 16
	maxLanes     = 64
	maxQuestions = 16384 // outstanding at once
	maxAnswers   = 16    // that wait to be checked, of one question
	readBuffer   = 1 << 20
	maxDatagram  = 2048 // a longer one is no message of ours, and is cut
)

// ProberConfig says how to ask and what to believe.
type ProberConfig struct {
	// Mark is the SO_MARK of the sockets, so that they bypass the TUN; 0 sets
	// none. It needs CAP_NET_ADMIN, or CAP_NET_RAW from Linux 5.17.
	Mark uint32
	// Port is that of the responders; 0 stands for DefaultPort.
	Port uint16
	// Lanes is the number of sockets of each family, 1 to 64; 0 stands for 16.
	// Each has another source port, so that a question that is repeated may
	// take another of several equal paths, to another member.
	Lanes int
	// Rings are the keys by prefix; the longest that contains AA counts.
	Rings []Keyring
	Log   *slog.Logger // nil discards
}

// Prober asks members for their unicast address. Its methods may be called
// from many goroutines; answers arrive only while [Prober.Run] runs.
type Prober struct {
	port   uint16
	rings  atomic.Pointer[[]Keyring] // longest prefix first
	v4, v6 []*lane                   // empty where the family is not to be had
	rtos   estimates
	log    *slog.Logger
	loud   *rate.Limiter // of log lines about refused answers
	stats  proberCounters

	mu        sync.Mutex
	questions map[transactionID]*waiting
}

// lane is one socket.
type lane struct{ conn *net.UDPConn }

// OpenProber opens the sockets. One family may be missing, for a host without
// IPv6, say; if both are, the error says why and wraps [os.ErrPermission] where
// that is the reason.
func OpenProber(c ProberConfig) (*Prober, error) {
	lanes := cmp.Or(c.Lanes, defaultLanes)
	if lanes < 1 || lanes > maxLanes {
		return nil, fmt.Errorf("member: %d lanes: there must be 1 to %d", c.Lanes, maxLanes)
	}
	p := &Prober{
		port: cmp.Or(c.Port, DefaultPort), log: c.Log,
		loud: rate.NewLimiter(1, 10), questions: make(map[transactionID]*waiting),
		rtos: estimates{of: make(map[netip.Addr]estimate)},
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if err := p.SetRings(c.Rings); err != nil {
		return nil, err
	}
	var err4, err6 error
	p.v6, err6 = openLanes("udp6", lanes, c.Mark)
	p.v4, err4 = openLanes("udp4", lanes, c.Mark)
	if len(p.v4)+len(p.v6) == 0 {
		return nil, fmt.Errorf("member: no socket to ask from: %w", errors.Join(err6, err4))
	}
	return p, nil
}

func openLanes(network string, n int, mark uint32) (lanes []*lane, err error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if outer := c.Control(func(fd uintptr) { err = prepareLane(int(fd), network, mark) }); outer != nil {
			return outer
		}
		return err
	}}
	for range n {
		conn, err := config.ListenPacket(context.Background(), network, ":0")
		if err != nil {
			return nil, errors.Join(err, closeLanes(lanes))
		}
		udp := conn.(*net.UDPConn) // what a udp network gives
		// A small buffer loses answers but does not break anything.
		_ = udp.SetReadBuffer(readBuffer)
		lanes = append(lanes, &lane{udp})
	}
	return lanes, nil
}

// prepareLane marks a socket and has it told of ICMP errors: without
// IP_RECVERR, a socket that is not connected hears of none.
func prepareLane(fd int, network string, mark uint32) error {
	if mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
			return os.NewSyscallError("setsockopt SO_MARK", err)
		}
	}
	level, option := unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	if network == "udp4" {
		level, option = unix.IPPROTO_IP, unix.IP_RECVERR
	}
	return os.NewSyscallError("setsockopt RECVERR", unix.SetsockoptInt(fd, level, option, 1))
}

func closeLanes(lanes []*lane) error {
	var errs []error
	for _, l := range lanes {
		if err := l.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, fmt.Errorf("member: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Run hands answers to those who wait for them until ctx ends; then it closes
// the sockets, and whoever still waits is let go by their own contexts.
func (p *Prober) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = p.Close() }) // the readers see it
	defer stop()
	var wg sync.WaitGroup
	for _, l := range slices.Concat(p.v4, p.v6) {
		wg.Go(func() { p.receive(l) })
	}
	wg.Wait()
	return nil
}

// Close closes the sockets. It may be called more than once.
func (p *Prober) Close() error { return errors.Join(closeLanes(p.v4), closeLanes(p.v6)) }

// Serves says whether there is a socket of that family.
func (p *Prober) Serves(aa netip.Addr) bool { return len(p.lanesFor(aa)) > 0 }

func (p *Prober) lanesFor(a netip.Addr) []*lane {
	switch {
	case !a.IsValid() || a.Is4In6():
		return nil
	case a.Is4():
		return p.v4
	}
	return p.v6
}

// noKeys is the ring of whatever has no keys.
var noKeys = &Keyring{}

func (p *Prober) ringFor(aa netip.Addr) *Keyring {
	rings := *p.rings.Load()
	for i := range rings {
		if rings[i].Prefix.Contains(aa) {
			return &rings[i]
		}
	}
	return noKeys
}

// SetRings replaces the keys, or returns an error about the first that is wrong,
// which is [ErrKey]. Questions that are being asked keep the keys they were asked
// with.
func (p *Prober) SetRings(rings []Keyring) error {
	for _, ring := range rings {
		if err := ring.check(); err != nil {
			return err
		}
	}
	rings = slices.Clone(rings)
	slices.SortStableFunc(rings, func(a, b Keyring) int { return cmp.Compare(b.Prefix.Bits(), a.Prefix.Bits()) })
	p.rings.Store(&rings)
	return nil
}

// Probe asks aa for the member behind it, until an answer is believed or ctx
// ends.
func (p *Prober) Probe(ctx context.Context, aa netip.Addr) (Found, error) {
	return p.ProbeLane(ctx, aa, 0, func(Found) bool { return true })
}

// ProbeLane is Probe, asking from the lane of that number first: equal paths
// may lead each to another member. Numbers from the number of lanes on begin
// again with the first. believe is called with each answer for which all is
// shown that the keys of aa ask for, and says whether it will do; if not, the
// wait goes on. It is also told of members that are draining, which will never
// do.
func (p *Prober) ProbeLane(ctx context.Context, aa netip.Addr, lane int, believe func(Found) bool) (Found, error) {
	p.stats.probes.Add(1)
	n := &naming{prober: p, ctx: ctx, aa: aa, lane: lane, believe: believe}
	defer n.end()
	q := question{kind: stun.BindingError, to: netip.AddrPortFrom(aa, p.port), aa: aa, ring: p.ringFor(aa)}
	return p.ask(ctx, q, lane, n)
}

// refuse counts an answer that was not believed, and says so, but not often.
func (p *Prober) refuse(aa, from netip.Addr, why Refusal) {
	p.stats.refused(why)
	if p.loud.Allow() {
		p.log.Warn("answer refused", "anycast", aa, "method", "stun", "from", from, "because", string(why))
	}
}

// ProberStats counts what has gone over the sockets since they were opened.
type ProberStats struct {
	Probes        uint64             `json:"probes"`        // addresses asked
	Confirms      uint64             `json:"confirms"`      // members asked whether they are one
	Transmissions uint64             `json:"transmissions"` // questions sent, repeated ones too
	Answers       uint64             `json:"answers"`       // answers that were believed
	Refused       map[Refusal]uint64 `json:"refused"`       // answers that were not, by reason
	Unmatched     uint64             `json:"unmatched"`     // datagrams that answer no question, forged ones among them
	Unreachable   uint64             `json:"unreachable"`   // ICMP errors about our questions
	Busy          uint64             `json:"busy"`          // questions, or answers, there was no room for
	Errors        uint64             `json:"errors"`        // failed sends and receives
}

type proberCounters struct {
	probes, confirms, transmissions, answers, unmatched, unreachable, busy, errors atomic.Uint64

	mu      sync.Mutex
	refusal map[Refusal]uint64
}

func (c *proberCounters) refused(why Refusal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refusal == nil {
		c.refusal = make(map[Refusal]uint64)
	}
	c.refusal[why]++
}

// Stats returns the counters as they stand now.
func (p *Prober) Stats() ProberStats {
	c := &p.stats
	s := ProberStats{
		Probes: c.probes.Load(), Confirms: c.confirms.Load(), Transmissions: c.transmissions.Load(), Answers: c.answers.Load(),
		Refused: map[Refusal]uint64{}, Unmatched: c.unmatched.Load(), Unreachable: c.unreachable.Load(),
		Busy: c.busy.Load(), Errors: c.errors.Load(),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for why, n := range c.refusal {
		s.Refused[why] = n
	}
	return s
}

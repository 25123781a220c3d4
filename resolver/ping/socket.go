package ping

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// Errors of a request. Each also wraps what the kernel said, or would have
// said.
var (
	ErrNoFamily = errors.New("ping: no socket of the address's family")
	ErrBusy     = fmt.Errorf("ping: too many requests are outstanding: %w", syscall.ENOBUFS)
	ErrClosed   = fmt.Errorf("ping: the socket is closed: %w", context.Canceled)
)

const (
	maxProbes   = 16384 // outstanding transmissions of probes, per family
	maxRelayed  = 16384 // outstanding relayed echoes, per family; the sequence number allows 65,536
	icmpV4Proto = 1
	icmpV6Proto = 58
)

// Config says how the sockets are opened.
type Config struct {
	// Mark is the SO_MARK of the sockets, so that they bypass the TUN; 0
	// sets none. It needs CAP_NET_ADMIN, or CAP_NET_RAW from Linux 5.17.
	Mark uint32
}

// Stats counts what has gone over the sockets since they were opened.
type Stats struct {
	Probes     uint64 `json:"probes"`      // transmissions of probes
	Relayed    uint64 `json:"relayed"`     // clients' echo requests sent on
	Replies    uint64 `json:"replies"`     // replies that somebody waited for
	ICMPErrors uint64 `json:"icmp_errors"` // ICMP errors about a request that waits, whoever sent them
	Unmatched  uint64 `json:"unmatched"`   // replies and ICMP errors nobody waited for, forged ones among them
	Malformed  uint64 `json:"malformed"`   // messages that are no echo reply, and errors that quote no echo request
	Busy       uint64 `json:"busy"`        // requests refused at the limit
	Errors     uint64 `json:"errors"`      // failed sends, and receives that fail again and again
}

type counters struct {
	probes, relayed, replies, icmpErrors, unmatched, malformed, busy, errors atomic.Uint64
}

// Socket sends echo requests. Its methods may be called from many goroutines;
// replies arrive only while [Socket.Run] runs.
type Socket struct {
	v4, v6 *family // nil where the family is not to be had
	stats  counters
	closed chan struct{}
	close  sync.Once
}

// family is one socket and who waits for its replies.
type family struct {
	file   *os.File
	conn   syscall.RawConn // of file
	events *events
	paths  *paths
	proto  int
	raw    bool
	id     uint16 // of our requests; the kernel writes its own on a ping socket

	// whole is whether the socket has DF set on what it sends, IPv4 only. It
	// belongs to whoever writes to conn, which is one at a time.
	whole bool

	mu      sync.Mutex
	probes  map[uint64]*probeWait // by the first half of the nonce
	relayed map[uint16]*relayWait // by sequence number
	nextSeq uint16
}

// Open opens a socket for each family. It needs CAP_NET_RAW, or a group inside
// net.ipv4.ping_group_range. One family may be missing, for a host without
// IPv6, say; if both are, the error says why and wraps [os.ErrPermission]
// where that is the reason.
func Open(c Config) (*Socket, error) {
	v6, err6 := openFamily(true, c.Mark)
	v4, err4 := openFamily(false, c.Mark)
	if v4 == nil && v6 == nil {
		cause := errors.Join(err6, err4)
		if errors.Is(cause, errMark) {
			return nil, fmt.Errorf("ping: %w: run as root or with CAP_NET_ADMIN: %w", errMark, os.ErrPermission)
		}
		if errors.Is(err6, os.ErrPermission) && errors.Is(err4, os.ErrPermission) {
			cause = os.ErrPermission // the kernel has said so four times
		}
		return nil, fmt.Errorf("ping: neither a raw nor a ping socket could be opened: run as root or with CAP_NET_RAW, or allow ping sockets: sysctl -w net.ipv4.ping_group_range='0 2147483647': %w", cause)
	}
	return newSocket(v4, v6), nil
}

func newSocket(v4, v6 *family) *Socket {
	return &Socket{v4: v4, v6: v6, closed: make(chan struct{})}
}

// Run hands replies to those who wait for them until ctx ends; then it closes
// the sockets.
func (s *Socket) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.Close() }) // the readers see it
	defer stop()
	var wg sync.WaitGroup
	for _, f := range s.families() {
		wg.Go(func() { s.receive(f) })
	}
	wg.Wait()
	return nil
}

// Close closes the sockets and lets go whoever waits, with [ErrClosed]. It may
// be called more than once.
func (s *Socket) Close() (err error) {
	s.close.Do(func() {
		close(s.closed)
		for _, f := range s.families() {
			err = errors.Join(err, f.close())
		}
	})
	return err
}

func (s *Socket) families() []*family {
	var have []*family
	for _, f := range []*family{s.v4, s.v6} {
		if f != nil {
			have = append(have, f)
		}
	}
	return have
}

// Stats returns the counters as they stand now.
func (s *Socket) Stats() Stats {
	c := &s.stats
	return Stats{
		Probes: c.probes.Load(), Relayed: c.relayed.Load(), Replies: c.replies.Load(), ICMPErrors: c.icmpErrors.Load(),
		Unmatched: c.unmatched.Load(), Malformed: c.malformed.Load(), Busy: c.busy.Load(), Errors: c.errors.Load(),
	}
}

func (s *Socket) familyOf(a netip.Addr) (*family, error) {
	f := s.v6
	if a.Is4() {
		f = s.v4
	}
	if f == nil || !a.IsValid() || a.Is4In6() {
		return nil, fmt.Errorf("%w: %v: %w", ErrNoFamily, a, syscall.EAFNOSUPPORT)
	}
	return f, nil
}

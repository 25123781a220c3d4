package nat

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	testAA = netip.MustParseAddr("2001:db8:aa::1")
	testU1 = netip.MustParseAddr("2001:db8:1::1")
	testU2 = netip.MustParseAddr("2001:db8:2::1")
)

func testTuple(p Proto, clientPort, port uint16) Tuple {
	return Tuple{
		Proto:   p,
		Client:  netip.AddrPortFrom(netip.MustParseAddr("2001:db8:c::1"), clientPort),
		Anycast: netip.AddrPortFrom(testAA, port),
	}
}

// leg is one end of an in-memory connection with half-close and reset, as TCP
// has them. It blocks on channels only, so synctest can see it wait.
type leg struct {
	net.Conn // nil: only a dialled leg must be one, and its addresses are not used
	r        *io.PipeReader
	w        *io.PipeWriter
}

func newLegs() (a, b leg) {
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	return leg{r: r1, w: w2}, leg{r: r2, w: w1}
}

func (l leg) Read(p []byte) (int, error)  { return l.r.Read(p) }
func (l leg) Write(p []byte) (int, error) { return l.w.Write(p) }
func (l leg) CloseWrite() error           { return l.w.Close() }
func (l leg) Close() error                { return errors.Join(l.w.Close(), l.r.Close()) }
func (l leg) Reset() error {
	return errors.Join(l.w.CloseWithError(syscall.ECONNRESET), l.r.CloseWithError(syscall.ECONNRESET))
}

// fakeTCP is a client's SYN. The client's end of the connection is there once
// accepted is closed; told holds the answer otherwise.
type fakeTCP struct {
	client    leg
	inside    leg
	accepted  chan struct{}
	told      chan Reason
	acceptErr error
}

func newFakeTCP() *fakeTCP {
	client, inside := newLegs()
	return &fakeTCP{client: client, inside: inside, accepted: make(chan struct{}), told: make(chan Reason, 1)}
}

func (s *fakeTCP) Accept() (TCPConn, error) {
	if s.acceptErr != nil {
		return nil, s.acceptErr
	}
	close(s.accepted)
	return s.inside, nil
}

func (s *fakeTCP) Reject(r Reason) { s.told <- r }

// fakeResolver answers from a script: the first address until it is suspected,
// then the next.
type fakeResolver struct {
	mu       sync.Mutex
	members  []netip.Addr
	err      error
	delay    time.Duration
	resolved int
	suspects []netip.Addr
}

func (r *fakeResolver) Resolve(ctx context.Context, _, _ netip.Addr) (netip.Addr, error) {
	r.mu.Lock()
	r.resolved++
	delay := r.delay
	r.mu.Unlock()
	select {
	case <-ctx.Done():
		return netip.Addr{}, ctx.Err()
	case <-time.After(delay):
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return netip.Addr{}, r.err
	}
	return r.members[0], nil
}

func (r *fakeResolver) Suspect(_, ua netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.suspects = append(r.suspects, ua)
	if len(r.members) > 1 {
		r.members = slices.DeleteFunc(slices.Clone(r.members), func(m netip.Addr) bool { return m == ua })
	}
}

func (r *fakeResolver) suspected() []netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.suspects)
}

// fakeNet is where the members live: what dialling each of them does.
type fakeNet struct {
	mu     sync.Mutex
	dialed []netip.AddrPort
	serve  map[netip.Addr]func(ctx context.Context, network string) (net.Conn, error)
}

func (n *fakeNet) dial(ctx context.Context, network string, ua netip.AddrPort) (net.Conn, error) {
	n.mu.Lock()
	n.dialed = append(n.dialed, ua)
	serve := n.serve[ua.Addr()]
	n.mu.Unlock()
	if serve == nil {
		return nil, &net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}
	}
	return serve(ctx, network)
}

func refuse(context.Context, string) (net.Conn, error) {
	return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
}

func silent(ctx context.Context, _ string) (net.Conn, error) {
	<-ctx.Done()
	return nil, &net.OpError{Op: "dial", Err: ctx.Err()}
}

// accept hands the member's end of each connection to members.
func accept(members chan<- leg) func(context.Context, string) (net.Conn, error) {
	return func(context.Context, string) (net.Conn, error) {
		outside, member := newLegs()
		members <- member
		return outside, nil
	}
}

type fakePinger func(ctx context.Context, ua netip.Addr, data []byte) ([]byte, error)

func (p fakePinger) Echo(ctx context.Context, ua netip.Addr, _ uint8, _ bool, data []byte) ([]byte, error) {
	return p(ctx, ua, data)
}

func newTestTranslator(t *testing.T, r Resolver, n *fakeNet, p Pinger, l Limits) *Translator {
	t.Helper()
	if p == nil {
		p = fakePinger(func(context.Context, netip.Addr, []byte) ([]byte, error) { return nil, syscall.ENETUNREACH })
	}
	tr, err := New(Config{Resolver: r, Dial: n.dial, Pinger: p, Limits: l})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

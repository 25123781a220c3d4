package nat

import (
	"context"
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

// fakeTCP is a client's SYN. The client's end of the connection is there once
// accepted is closed; told holds the answer otherwise.
type fakeTCP struct {
	client    peer
	inside    insideLeg
	accepted  chan struct{}
	told      chan Refusal
	acceptErr error
	absent    bool // Accept waits in vain
}

func newFakeTCP() *fakeTCP {
	p := newPipe(true)
	return &fakeTCP{client: peer{p}, inside: insideLeg{p}, accepted: make(chan struct{}), told: make(chan Refusal, 1)}
}

func (s *fakeTCP) Accept(ctx context.Context) (InsideTCP, error) {
	if s.absent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if s.acceptErr != nil {
		return nil, s.acceptErr
	}
	close(s.accepted)
	return s.inside, nil
}

func (s *fakeTCP) Reject(r Refusal) { s.told <- r }

func (s *fakeTCP) Meta() Meta { return Meta{Class: 0xb8} }

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

type (
	serveFunc = func(context.Context) (OutsideTCP, error)

	// fakeNet is where the members live: what dialling each of them does.
	fakeNet struct {
		mu     sync.Mutex
		dialed []netip.AddrPort
		class  uint8 // of the last dial
		serve  map[netip.Addr]serveFunc
		udp    UDPConn // of any member
	}
)

func (n *fakeNet) DialTCP(ctx context.Context, from netip.Addr, ua netip.AddrPort, m Meta) (OutsideTCP, error) {
	n.mu.Lock()
	n.dialed, n.class = append(n.dialed, ua), m.Class
	serve := n.serve[ua.Addr()]
	n.mu.Unlock()
	if serve == nil {
		return nil, &net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}
	}
	return serve(ctx)
}

func (n *fakeNet) DialUDP(context.Context, netip.Addr, netip.AddrPort) (UDPConn, error) {
	return n.udp, nil
}

func refuse(context.Context) (OutsideTCP, error) {
	return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
}

func silent(ctx context.Context) (OutsideTCP, error) {
	<-ctx.Done()
	return nil, &net.OpError{Op: "dial", Err: ctx.Err()}
}

// accept hands the member's end of each connection to members.
func accept(members chan<- peer) serveFunc {
	return func(context.Context) (OutsideTCP, error) {
		p := newPipe(false)
		members <- peer{p}
		return outsideLeg{p}, nil
	}
}

type fakePinger func(ctx context.Context, ua netip.Addr, data []byte) ([]byte, error)

func (p fakePinger) Echo(ctx context.Context, ua netip.Addr, _ uint8, _ bool, data []byte) ([]byte, error) {
	return p(ctx, ua, data)
}

// newTestTranslator returns a translator that runs until the test ends.
func newTestTranslator(t testing.TB, r Resolver, n *fakeNet, p Pinger, l Limits) *Translator {
	t.Helper()
	if p == nil {
		p = fakePinger(func(context.Context, netip.Addr, []byte) ([]byte, error) { return nil, syscall.ENETUNREACH })
	}
	tr, err := New(Config{Resolver: r, Outside: n, Pinger: p, Limits: l})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- tr.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return tr
}

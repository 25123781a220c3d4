package ping

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"

	"aarptun/resolver/member"
)

var loopbacks = []netip.Addr{netip.IPv6Loopback(), netip.AddrFrom4([4]byte{127, 0, 0, 1})}

// eachVariant runs test on both kinds of socket, of a host of its own each.
func eachVariant(t *testing.T, test func(*testing.T, *host, *Socket)) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			h := newHost(t)
			test(t, h, h.socket(v, 0))
		})
	}
}

func TestProbeOfLoopback(t *testing.T) {
	eachVariant(t, func(t *testing.T, _ *host, s *Socket) {
		for _, a := range loopbacks {
			r, err := s.Probe(within(t), a)
			if err != nil || r.From != a || r.RTT <= 0 || r.RTT > 5*time.Second {
				t.Errorf("%v: %+v, %v", a, r, err)
			}
		}
		wantStats(t, s, func(st Stats) bool { return st == Stats{Probes: 2, Replies: 2} })
	})
}

// A kernel that has joined AA answers from UA: the reply has another source
// than was asked.
func TestProbeFindsAnycastMember(t *testing.T) {
	aa := netip.MustParseAddr("2001:db8:aa::1")
	p := newPath(t)
	p.member.sysctl("ipv6.conf.all.forwarding", "1")
	p.router.ip("-6 route add 2001:db8:aa::1 via 2001:db8:2::2")
	p.member.on(func() {
		m, err := member.Join(aa, "eth0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = m.Close() })
	})
	for _, v := range variants {
		s := p.client.socket(v, 0)
		if r, err := s.Probe(within(t), aa); err != nil || r.From != memberV6 {
			t.Errorf("%s: %+v, %v, want %v", v.name, r, err, memberV6)
		}
	}
}

// The member's answer is to the third transmission, so the RTT must be that of
// the third.
func TestProbeIsSentAgain(t *testing.T) {
	aa := netip.MustParseAddr("2001:db8:2::99")
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			p := newPath(t)
			p.router.ip("-6 route add 2001:db8:2::99 via 2001:db8:2::2") // which does not forward, and is silent
			w := p.member.listen()
			s := p.client.socket(v, 0)
			type result struct {
				r   Reply
				err error
			}
			results := make(chan result, 1)
			ctx := within(t)
			go func() {
				r, err := s.Probe(ctx, aa)
				results <- result{r, err}
			}()
			var at [3]time.Time
			nonces := map[string]bool{}
			for i := range at {
				var packet []byte
				packet, at[i] = w.next(t, func(b []byte) bool { return echoRequestV6(b) && netip.AddrFrom16([16]byte(b[24:])) == aa })
				nonces[string(packet[48:])] = true
				if i == 1 {
					p.member.ip("addr add 2001:db8:2::99/128 dev lo nodad")
				}
			}
			got := <-results
			if got.err != nil || got.r.From != aa {
				t.Fatalf("%+v, %v", got.r, got.err)
			}
			// The first gap is 250 ms, the second twice that; the packets'
			// own way, and a busy machine, change that a little.
			for i, want := range []time.Duration{firstRetransmit, 2 * firstRetransmit} {
				if gap := at[i+1].Sub(at[i]); gap < want-50*time.Millisecond || gap > want+2*time.Second {
					t.Errorf("transmission %d came %v after the one before, want %v", i+2, gap, want)
				}
			}
			if got.r.RTT >= at[2].Sub(at[0]) {
				t.Errorf("RTT %v is that of the first transmission, not of the one that was answered", got.r.RTT)
			}
			if len(nonces) != 3 {
				t.Errorf("%d nonces in 3 transmissions", len(nonces))
			}
			wantStats(t, s, func(st Stats) bool { return st.Probes >= 3 && st.Replies >= 1 })
			if n := len(s.v6.probes); n != 0 {
				t.Errorf("%d transmissions are still waited for", n)
			}
		})
	}
}

// What has been asked may be answered, though there is no room, or no route, to
// ask again.
func TestProbeThatCannotBeSentAgain(t *testing.T) {
	p := newPath(t)
	s := p.client.socket(variants[0], 0)
	f := p.member.forger()
	w := p.member.listen()
	replies := make(chan Reply, 1)
	ctx := within(t)
	go func() {
		r, err := s.Probe(ctx, memberV6)
		if err != nil {
			t.Error(err)
		}
		replies <- r
	}()
	asked := w.request(t, true)
	p.client.ip("-6 route add prohibit 2001:db8:2::2")
	eventually(t, "asking again has failed", func() bool { return s.Stats().Errors > 0 })
	f.send(t, clientV6, ipv6.ICMPTypeEchoReply, &icmp.Echo{ID: asked.id, Seq: asked.seq, Data: asked.data})
	if r := <-replies; r.From != memberV6 {
		t.Errorf("the answer is from %v", r.From)
	}
	if len(s.v6.probes) != 0 {
		t.Error("it is still waited for")
	}
}

// silence is a host whose packets to 2001:db8::/32 and 192.0.2.0/24 get lost.
func silence(t testing.TB) *host {
	h := newHost(t)
	h.ip("link add eth0 type veth peer name gone", "link set eth0 arp off", "link set gone up")
	h.address("eth0", []string{"2001:db8::1/32", "192.0.2.1/24"})
	return h
}

func TestProbeEndsWithItsContext(t *testing.T) {
	for _, v := range variants {
		s := silence(t).socket(v, 0)
		for _, aa := range []netip.Addr{netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("192.0.2.2")} {
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			start := time.Now()
			_, err := s.Probe(ctx, aa)
			if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took < 300*time.Millisecond || took > 5*time.Second {
				t.Errorf("%s: %v after %v", v.name, err, took)
			}
			if err == nil || !strings.Contains(err.Error(), aa.String()) {
				t.Errorf("%s: %v does not name %v", v.name, err, aa)
			}
			cancel()
			if _, err := s.Probe(ctx, aa); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: with an ended context: %v", v.name, err)
			}
			ctx, cancel = context.WithCancel(context.Background())
			probed := s.Stats().Probes
			errs := make(chan error, 1)
			go func() {
				_, err := s.Probe(ctx, aa)
				errs <- err
			}()
			eventually(t, "the probe is sent", func() bool { return s.Stats().Probes > probed })
			cancel()
			if err := <-errs; !errors.Is(err, context.Canceled) {
				t.Errorf("%s: cancelled: %v", v.name, err)
			}
		}
		if len(s.v4.probes)+len(s.v6.probes) != 0 {
			t.Errorf("%s: probes are still waited for", v.name)
		}
	}
}

func TestThousandsAtOnce(t *testing.T) {
	const each = 1500
	eachVariant(t, func(t *testing.T, h *host, s *Socket) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		var probes, echoes sync.WaitGroup
		var lost atomic.Int64
		for i := range each {
			for _, a := range loopbacks {
				probes.Go(func() {
					if r, err := s.Probe(ctx, a); err != nil || r.From != a {
						t.Errorf("%v: %+v, %v", a, r, err)
					}
				})
				echoes.Go(func() {
					data := fmt.Sprintf("echo %d", i)
					got, err := s.Echo(ctx, a, 0, i%2 == 0, []byte(data))
					switch {
					case errors.Is(err, context.Canceled):
						lost.Add(1)
					case err != nil || string(got) != data:
						t.Errorf("%q: %q, %v", data, got, err)
					}
				})
			}
		}
		probes.Wait() // those whose replies were lost have asked again
		eventually(t, "each reply is there, or was dropped by the kernel", func() bool {
			st := s.Stats()
			return st.Relayed == 2*each && st.Replies+st.Unmatched+uint64(h.drops()) >= st.Relayed+st.Probes
		})
		drops := h.drops()
		if drops != 0 {
			cancel()
		}
		echoes.Wait()
		if n := lost.Load(); n > drops {
			t.Errorf("%d echoes were not answered; the kernel had no room for %d replies", n, drops)
		}
		if st := s.Stats(); st.Probes < 2*each || st.Errors+st.Busy+st.Malformed != 0 {
			t.Errorf("stats: %+v", st)
		}
		if n := len(s.v4.probes) + len(s.v6.probes) + len(s.v4.relayed) + len(s.v6.relayed); n != 0 {
			t.Errorf("%d requests are still waited for", n)
		}
	})
}

func TestBusyAtTheLimit(t *testing.T) {
	for _, tc := range []struct {
		name  string
		limit int
		ask   func(context.Context, *Socket, netip.Addr) error
	}{
		{"probes", maxProbes, func(ctx context.Context, s *Socket, a netip.Addr) error { _, err := s.Probe(ctx, a); return err }},
		{"echoes", maxRelayed, func(ctx context.Context, s *Socket, a netip.Addr) error {
			_, err := s.Echo(ctx, a, 0, false, nil)
			return err
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := silence(t).socket(variants[0], 0)
			ctx, cancel := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			var busy atomic.Int64
			waiting := func() int {
				s.v6.mu.Lock()
				defer s.v6.mu.Unlock()
				return len(s.v6.probes) + len(s.v6.relayed)
			}
			for range tc.limit {
				// On a slow machine probes that are sent again take some of
				// the room already, and there is none for the last.
				wg.Go(func() {
					if err := tc.ask(ctx, s, netip.MustParseAddr("2001:db8::2")); errors.Is(err, ErrBusy) {
						busy.Add(1)
					}
				})
			}
			eventually(t, "the room is full", func() bool { return waiting() == tc.limit })
			err := tc.ask(ctx, s, netip.MustParseAddr("2001:db8::3"))
			if !errors.Is(err, ErrBusy) || !errors.Is(err, syscall.ENOBUFS) {
				t.Errorf("beyond the limit: %v", err)
			}
			// The other family has room of its own.
			short, stop := context.WithTimeout(ctx, 10*time.Millisecond)
			if err := tc.ask(short, s, netip.MustParseAddr("192.0.2.2")); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("IPv4: %v", err)
			}
			stop()
			cancel()
			wg.Wait()
			if got := s.Stats().Busy; got < uint64(busy.Load())+1 {
				t.Errorf("busy is counted %d times, at least %d were refused", got, busy.Load()+1)
			}
			if n := waiting(); n != 0 {
				t.Errorf("%d are still waited for", n)
			}
		})
	}
}

func TestCloseLetsGo(t *testing.T) {
	for _, v := range variants {
		s := silence(t).socket(v, 0)
		aa := netip.MustParseAddr("2001:db8::2")
		errs := make(chan error, 20)
		for range 10 {
			go func() { _, err := s.Probe(context.Background(), aa); errs <- err }()
			go func() { _, err := s.Echo(context.Background(), aa, 0, false, nil); errs <- err }()
		}
		eventually(t, "all wait", func() bool { st := s.Stats(); return st.Probes >= 10 && st.Relayed == 10 })
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		for range 20 {
			if err := <-errs; !errors.Is(err, ErrClosed) || !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", v.name, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: a second Close: %v", v.name, err)
		}
		if _, err := s.Probe(context.Background(), aa); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: after Close: %v", v.name, err)
		}
		if _, err := s.Echo(context.Background(), aa, 0, true, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: after Close: %v", v.name, err)
		}
	}
}

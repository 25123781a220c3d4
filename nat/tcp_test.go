package nat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestTCPDialsBeforeTheClientIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		members := make(chan peer, 1)
		release := make(chan struct{})
		n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: func(ctx context.Context) (OutsideTCP, error) {
			<-release
			return accept(members)(ctx)
		}}}
		tr := newTestTranslator(t, &fakeResolver{members: []netip.Addr{testU1}}, n, nil, Limits{})
		syn := newFakeTCP()
		var wg sync.WaitGroup
		wg.Go(func() { tr.ServeTCP(t.Context(), testTuple(TCP, 4000, 80), syn) })
		synctest.Wait()
		select {
		case <-syn.accepted:
			t.Fatal("the client was answered before the member had been reached")
		default:
		}
		if got := tr.Flows(); len(got) != 1 || got[0].State != Dialling || got[0].Member != testU1 {
			t.Fatalf("flows while dialling: %+v", got)
		}
		close(release)
		<-syn.accepted
		member := <-members
		synctest.Wait()
		if got := tr.Flows(); len(got) != 1 || got[0].State != Established || got[0].ID != 1 {
			t.Fatalf("flows once established: %+v", got)
		}
		closeQuietly(member)
		closeQuietly(syn.client)
		wg.Wait()
		if got := tr.Flows(); len(got) != 0 {
			t.Fatalf("flows at the end: %+v", got)
		}
	})
}

func TestTCPRejections(t *testing.T) {
	errNoAnswer := fmt.Errorf("resolver: nobody answered: %w", syscall.EHOSTUNREACH)
	for _, tc := range []struct {
		name     string
		u1, u2   serveFunc
		members  []netip.Addr
		resolve  error
		want     Reason
		after    time.Duration
		suspects []netip.Addr
	}{
		{name: "refused", u1: refuse, members: []netip.Addr{testU1}, want: Refused, suspects: []netip.Addr{testU1}},
		{name: "unreachable", members: []netip.Addr{testU1}, want: Unreachable, suspects: []netip.Addr{testU1}},
		{name: "silent", u1: silent, members: []netip.Addr{testU1}, want: Timeout, after: 127 * time.Second, suspects: []netip.Addr{testU1}},
		{name: "nobody answers", resolve: errNoAnswer, want: Unreachable},
		{name: "both refuse", u1: refuse, u2: refuse, members: []netip.Addr{testU1, testU2}, want: Refused, suspects: []netip.Addr{testU1, testU2}},
		{name: "silent, then refused", u1: silent, u2: refuse, members: []netip.Addr{testU1, testU2}, want: Refused, after: 2 * time.Second, suspects: []netip.Addr{testU1, testU2}},
		{name: "out of descriptors", u1: func(context.Context) (OutsideTCP, error) { return nil, syscall.EMFILE },
			members: []netip.Addr{testU1}, want: Busy},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: tc.u1, testU2: tc.u2}}
				r := &fakeResolver{members: tc.members, err: tc.resolve}
				tr := newTestTranslator(t, r, n, nil, Limits{})
				syn := newFakeTCP()
				start := time.Now()
				tr.ServeTCP(t.Context(), testTuple(TCP, 4000, 80), syn)
				if got := <-syn.told; got.Reason != tc.want {
					t.Errorf("the client was told %v, want %v", got, tc.want)
				}
				if took := time.Since(start); took != tc.after {
					t.Errorf("it took %v, want %v", took, tc.after)
				}
				if got := r.suspected(); !slices.Equal(got, tc.suspects) {
					t.Errorf("suspected %v, want %v", got, tc.suspects)
				}
				if s := tr.Stats(); s.Flows != 0 || s.Opening != 0 || s.Rejected != 1 {
					t.Errorf("stats: %+v", s)
				}
			})
		})
	}
}

func TestTCPRetriesOnAFreshMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		members := make(chan peer, 1)
		n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: refuse, testU2: accept(members)}}
		r := &fakeResolver{members: []netip.Addr{testU1, testU2}}
		tr := newTestTranslator(t, r, n, nil, Limits{})
		syn := newFakeTCP()
		var wg sync.WaitGroup
		wg.Go(func() { tr.ServeTCP(t.Context(), testTuple(TCP, 4000, 80), syn) })
		<-syn.accepted
		if got := tr.Flows()[0].Member; got != testU2 {
			t.Errorf("flow is with %v, want %v", got, testU2)
		}
		closeQuietly(<-members)
		closeQuietly(syn.client)
		wg.Wait()
		if s := tr.Stats(); s.Retried != 1 || s.Rejected != 0 || s.TCPOpened != 1 {
			t.Errorf("stats: %+v", s)
		}
	})
}

// An address that is used itself has no other member that could be meant.
func TestTCPToTheAddressItselfIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tuple := testTuple(TCP, 4000, 80)
		aa := tuple.Anycast.Addr()
		n := &fakeNet{serve: map[netip.Addr]serveFunc{aa: refuse}}
		tr := newTestTranslator(t, &fakeResolver{members: []netip.Addr{aa}}, n, nil, Limits{})
		tr.ServeTCP(t.Context(), tuple, newFakeTCP())
		if s := tr.Stats(); s.Retried != 0 || s.Rejected != 1 {
			t.Errorf("stats: %+v", s)
		}
	})
}

func TestTCPClientGivesUpDuringTheDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: silent}}
		r := &fakeResolver{members: []netip.Addr{testU1}}
		tr := newTestTranslator(t, r, n, nil, Limits{})
		syn := newFakeTCP()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		tr.ServeTCP(ctx, testTuple(TCP, 4000, 80), syn)
		if took := time.Since(start); took != time.Second {
			t.Errorf("the dial went on for %v", took)
		}
		if got := <-syn.told; got.Reason != Timeout {
			t.Errorf("told %v, want silence", got)
		}
		if s := tr.Stats(); s.GaveUp != 1 || s.Rejected != 0 {
			t.Errorf("stats: %+v", s)
		}
		if len(r.suspected()) != 0 {
			t.Error("a member was suspected because a client went away")
		}
	})
}

func TestTCPHandshakeNotCompleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		members := make(chan peer, 1)
		n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: accept(members)}}
		tr := newTestTranslator(t, &fakeResolver{members: []netip.Addr{testU1}}, n, nil, Limits{})
		syn := newFakeTCP()
		syn.acceptErr = syscall.ETIMEDOUT
		tr.ServeTCP(t.Context(), testTuple(TCP, 4000, 80), syn)
		if _, err := (<-members).Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the member saw %v, want a reset", err)
		}
	})
}

// established returns a running flow with both far ends.
func established(t *testing.T, tr *Translator, ctx context.Context, tuple Tuple, members <-chan peer, wg *sync.WaitGroup) (client, member peer) {
	t.Helper()
	syn := newFakeTCP()
	wg.Go(func() { tr.ServeTCP(ctx, tuple, syn) })
	<-syn.accepted
	return syn.client, <-members
}

// A forged SYN is not waited for as long as a member, and not at all in a stop.
func TestTCPHandshakeIsNotWaitedForLong(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			members := make(chan peer, 1)
			n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: accept(members)}}
			tr := newTestTranslator(t, &fakeResolver{members: []netip.Addr{testU1}}, n, nil, Limits{})
			syn := newFakeTCP()
			syn.absent = true
			start, want := time.Now(), DefaultTimeouts().Handshake
			if stopped {
				want = 3 * time.Second
				time.AfterFunc(time.Second, func() {
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
					defer cancel()
					_ = tr.Drain(ctx) // the flow has to be cut
				})
			}
			tr.ServeTCP(t.Context(), testTuple(TCP, 4000, 80), syn)
			if took := time.Since(start); took != want {
				t.Errorf("stopped %v: it ended after %v, want %v", stopped, took, want)
			}
			if _, err := (<-members).Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the member saw %v, want a reset", err)
			}
			synctest.Wait()
		})
	}
}

func TestTCPManyFlowsKeepTheirMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m1, m2 := make(chan peer, 1), make(chan peer, 1)
		n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: accept(m1), testU2: accept(m2)}}
		r := &fakeResolver{members: []netip.Addr{testU1, testU2}}
		tr := newTestTranslator(t, r, n, nil, Limits{})
		var wg sync.WaitGroup
		c1, far1 := established(t, tr, t.Context(), testTuple(TCP, 1, 80), m1, &wg)
		r.Suspect(testAA, testU1) // the pin moves on
		c2, far2 := established(t, tr, t.Context(), testTuple(TCP, 2, 80), m2, &wg)
		flows := tr.Flows()
		if flows[0].Member != testU1 || flows[1].Member != testU2 {
			t.Errorf("members: %v, %v", flows[0].Member, flows[1].Member)
		}
		for _, l := range []peer{c1, far1, c2, far2} {
			closeQuietly(l)
		}
		wg.Wait()
	})
}

func TestDrainWaitsThenCuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		members := make(chan peer, 1)
		n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: accept(members)}}
		tr := newTestTranslator(t, &fakeResolver{members: []netip.Addr{testU1}}, n, nil, Limits{})
		var wg sync.WaitGroup
		c1, m1 := established(t, tr, t.Context(), testTuple(TCP, 1, 80), members, &wg)
		c2, m2 := established(t, tr, t.Context(), testTuple(TCP, 2, 80), members, &wg)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		go func() {
			time.Sleep(time.Second)
			closeQuietly(c1)
			closeQuietly(m1)
		}()
		drained := make(chan error, 1)
		go func() { drained <- tr.Drain(ctx) }()
		synctest.Wait()

		late := newFakeTCP()
		tr.ServeTCP(t.Context(), testTuple(TCP, 3, 80), late)
		if got := <-late.told; got.Reason != Timeout {
			t.Errorf("a new flow while draining was told %v", got)
		}
		go wantReset(c2)
		go wantReset(m2)
		if err := <-drained; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Drain returned %v", err)
		}
		wg.Wait()
		if err := tr.Drain(t.Context()); err != nil {
			t.Errorf("Drain of nothing returned %v", err)
		}
	})
}

// detached is a client's SYN that needs no goroutine for the life of its flow.
type detached struct {
	*fakeTCP
	ends atomic.Int32
}

// Detach implements [Detacher].
func (d *detached) Detach() (ended func()) { return func() { d.ends.Add(1) } }

// TestTCPDetached: ServeTCP returns once the flow is established, and its end is
// told once, however it comes.
func TestTCPDetached(t *testing.T) {
	for name, end := range map[string]func(tr *Translator, client, member peer){
		"both FIN":      func(_ *Translator, c, m peer) { _ = c.CloseWrite(); drainTo(m); _ = m.CloseWrite(); drainTo(c) },
		"client resets": func(_ *Translator, c, m peer) { _ = c.Reset(); wantReset(m); _ = m.Reset() },
		"member resets": func(_ *Translator, c, m peer) { _ = m.Reset(); wantReset(c); _ = c.Reset() },
		"cut, twice": func(tr *Translator, c, m peer) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_, _ = tr.Drain(ctx), tr.Drain(ctx)
			wantReset(c)
			wantReset(m)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				members := make(chan peer, 1)
				n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: accept(members)}}
				tr := newTestTranslator(t, &fakeResolver{members: []netip.Addr{testU1}}, n, nil, Limits{})
				syn := &detached{fakeTCP: newFakeTCP()}
				ctx, cancel := context.WithCancel(t.Context())
				tr.ServeTCP(ctx, testTuple(TCP, 4000, 80), syn)
				cancel() // the SYN's context, which is no more the flow's
				member := <-members
				if _, err := member.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(syn.client, make([]byte, 1)); err != nil {
					t.Errorf("the client read %v", err)
				}
				synctest.Wait()
				if got := tr.Flows(); syn.ends.Load() != 0 || len(got) != 1 || got[0].State != Established {
					t.Errorf("the end was told %d times; flows: %+v", syn.ends.Load(), got)
				}
				end(tr, syn.client, member)
				synctest.Wait()
				if n := syn.ends.Load(); n != 1 {
					t.Errorf("the end was told %d times", n)
				}
				if n := len(tr.Flows()); n != 0 {
					t.Errorf("%d flows are left", n)
				}
			})
		})
	}
}

// A SYN that comes to nothing is not detached: its ServeTCP has told all.
func TestTCPThatIsRefusedIsNotDetached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: refuse}}
		tr := newTestTranslator(t, &fakeResolver{members: []netip.Addr{testU1}}, n, nil, Limits{})
		syn := &detached{fakeTCP: newFakeTCP()}
		tr.ServeTCP(t.Context(), testTuple(TCP, 4000, 80), syn)
		if got := <-syn.told; got.Reason != Refused || syn.ends.Load() != 0 {
			t.Errorf("told %v, and its end %d times", got, syn.ends.Load())
		}
	})
}

// TestTCPRunCutsWhatIsLeft: at its end the translator ends every flow.
func TestTCPRunCutsWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		members := make(chan peer, 1)
		n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: accept(members)}}
		tr, err := New(Config{Resolver: &fakeResolver{members: []netip.Addr{testU1}}, Outside: n, Pinger: fakePinger(nil)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = tr.Run(ctx) }) // never fails
		syn := &detached{fakeTCP: newFakeTCP()}
		tr.ServeTCP(t.Context(), testTuple(TCP, 4000, 80), syn)
		cancel()
		wg.Wait()
		wantReset(syn.client)
		wantReset(<-members)
		if syn.ends.Load() != 1 {
			t.Errorf("the end was told %d times", syn.ends.Load())
		}
	})
}

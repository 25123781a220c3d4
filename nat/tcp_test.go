package nat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestTCPDialsBeforeTheClientIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		members := make(chan leg, 1)
		release := make(chan struct{})
		n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: func(ctx context.Context) (TCPConn, error) {
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
		{name: "out of descriptors", u1: func(context.Context) (TCPConn, error) { return nil, syscall.EMFILE },
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
		members := make(chan leg, 1)
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
		members := make(chan leg, 1)
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
func established(t *testing.T, tr *Translator, ctx context.Context, tuple Tuple, members <-chan leg, wg *sync.WaitGroup) (client, member leg) {
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
			members := make(chan leg, 1)
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

func TestTCPEndings(t *testing.T) {
	for _, tc := range []struct {
		name  string
		end   func(client, member leg)
		reset bool
	}{
		{"both FIN", func(c, m leg) { _ = c.CloseWrite(); drainTo(m); _ = m.CloseWrite(); drainTo(c) }, false},
		{"client resets", func(c, m leg) { reset(c); wantReset(m) }, true},
		{"member resets", func(c, m leg) { reset(m); wantReset(c) }, true},
		{"client FIN, member resets", func(c, m leg) { _ = c.CloseWrite(); drainTo(m); reset(m); wantReset(c) }, true},
		{"member FIN, client resets while it sends", func(c, m leg) { _ = m.CloseWrite(); drainTo(c); reset(c); wantReset(m) }, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				members := make(chan leg, 1)
				n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: accept(members)}}
				tr := newTestTranslator(t, &fakeResolver{members: []netip.Addr{testU1}}, n, nil, Limits{})
				var wg sync.WaitGroup
				client, member := established(t, tr, t.Context(), testTuple(TCP, 4000, 80), members, &wg)
				tc.end(client, member)
				wg.Wait()
				if got := tr.Stats().Reset == 1; got != tc.reset {
					t.Errorf("ended by reset: %v, want %v", got, tc.reset)
				}
			})
		})
	}
}

func drainTo(l leg) {
	if _, err := io.Copy(io.Discard, l); err != nil {
		panic(fmt.Sprintf("a FIN arrived as %v", err))
	}
}

func wantReset(l leg) {
	if _, err := io.Copy(io.Discard, l); !errors.Is(err, syscall.ECONNRESET) {
		panic(fmt.Sprintf("a RST arrived as %v", err))
	}
}

func TestTCPHalfCloseHasNoDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		members := make(chan leg, 1)
		n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: accept(members)}}
		tr := newTestTranslator(t, &fakeResolver{members: []netip.Addr{testU1}}, n, nil, Limits{})
		var wg sync.WaitGroup
		client, member := established(t, tr, t.Context(), testTuple(TCP, 4000, 80), members, &wg)
		_ = client.CloseWrite()
		drainTo(member)
		synctest.Wait()
		if got := tr.Flows()[0].State; got != ClientClosed {
			t.Errorf("state %v, want %v", got, ClientClosed)
		}
		time.Sleep(25 * time.Hour)
		want := bytes.Repeat([]byte("late"), 1000)
		go func() {
			_, _ = member.Write(want)
			_ = member.CloseWrite()
		}()
		got, err := io.ReadAll(client)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("after a day of half-close: %d bytes, %v", len(got), err)
		}
		wg.Wait()
	})
}

func TestTCPCarriesEveryByteBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		members := make(chan leg, 1)
		n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: accept(members)}}
		tr := newTestTranslator(t, &fakeResolver{members: []netip.Addr{testU1}}, n, nil, Limits{})
		var wg sync.WaitGroup
		client, member := established(t, tr, t.Context(), testTuple(TCP, 4000, 80), members, &wg)
		for _, way := range []struct{ from, to leg }{{client, member}, {member, client}} {
			wg.Go(func() { sendRandom(t, way.from, way.to) })
		}
		wg.Wait()
		s := tr.Stats()
		if s.BytesOut != 3<<20 || s.BytesIn != 3<<20 {
			t.Errorf("counted %d out, %d in, want %d each", s.BytesOut, s.BytesIn, 3<<20)
		}
	})
}

func sendRandom(t *testing.T, from, to leg) {
	want := make([]byte, 3<<20)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(want) // never fails
	go func() {
		for rest := want; len(rest) > 0; {
			n := min(len(rest), 1+rand.IntN(100_000))
			if _, err := from.Write(rest[:n]); err != nil {
				t.Error(err)
				break
			}
			rest = rest[n:]
		}
		_ = from.CloseWrite()
	}()
	if got, err := io.ReadAll(to); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestTCPManyFlowsKeepTheirMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m1, m2 := make(chan leg, 1), make(chan leg, 1)
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
		for _, l := range []leg{c1, far1, c2, far2} {
			closeQuietly(l)
		}
		wg.Wait()
	})
}

func TestDrainWaitsThenCuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		members := make(chan leg, 1)
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

// TestTCPResetReachesAStalledReceiver: the sender's RST must end the other leg
// also while that one takes nothing, when nobody reads from the sender.
func TestTCPResetReachesAStalledReceiver(t *testing.T) {
	for _, who := range []string{"client", "member"} {
		synctest.Test(t, func(t *testing.T) {
			members := make(chan leg, 1)
			n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: accept(members)}}
			tr := newTestTranslator(t, &fakeResolver{members: []netip.Addr{testU1}}, n, nil, Limits{})
			syn := newFakeTCP()
			var wg sync.WaitGroup
			wg.Go(func() { tr.ServeTCP(t.Context(), testTuple(TCP, 4000, 80), syn) })
			<-syn.accepted
			sender, receiver := syn.client, <-members
			if who == "member" {
				sender, receiver = receiver, sender
			}
			if _, err := sender.Write([]byte("more than is ever read")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour) // a stall is no reason to end a flow
			if n := len(tr.Flows()); n != 1 {
				t.Fatalf("%d flows after an hour of stall", n)
			}
			start := time.Now()
			_ = sender.Reset()
			wg.Wait()
			if took := time.Since(start); took > stallAfter {
				t.Errorf("the flow lived on for %v", took)
			}
			if _, err := receiver.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the receiver read %v", err)
			}
			if n.class != 0xb8 {
				t.Errorf("the member was dialled with class %#x", n.class)
			}
		})
	}
}

// TestTCPResetAfterFIN: an end that has sent FIN and then closes its socket
// answers with RST, which the other end must hear of, though nobody reads from
// the leg any more. The end of a connection after FIN both ways is no reset.
func TestTCPResetAfterFIN(t *testing.T) {
	for _, who := range []string{"client", "member"} {
		synctest.Test(t, func(t *testing.T) {
			members := make(chan leg, 1)
			n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: accept(members)}}
			tr := newTestTranslator(t, &fakeResolver{members: []netip.Addr{testU1}}, n, nil, Limits{})
			syn := newFakeTCP()
			var wg sync.WaitGroup
			wg.Go(func() { tr.ServeTCP(t.Context(), testTuple(TCP, 4000, 80), syn) })
			<-syn.accepted
			closer, other := syn.client, <-members
			if who == "member" {
				closer, other = other, closer
			}
			_ = closer.CloseWrite()
			if _, err := other.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Fatalf("read %v, want EOF", err)
			}
			time.Sleep(time.Hour) // half-closed flows have no time limit
			_ = closer.Reset()
			wg.Wait()
			if _, err := other.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("write %v, want ECONNRESET", err)
			}
			if s := tr.Stats(); s.Reset != 1 || s.Flows != 0 {
				t.Errorf("stats: %+v", s)
			}
		})
	}
}

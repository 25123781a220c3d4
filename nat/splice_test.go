package nat

import (
	"bytes"
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

func TestTCPEndings(t *testing.T) {
	for _, tc := range []struct {
		name  string
		end   func(client, member peer)
		reset bool
	}{
		{"both FIN", func(c, m peer) { _ = c.CloseWrite(); drainTo(m); _ = m.CloseWrite(); drainTo(c) }, false},
		{"client resets", func(c, m peer) { _ = c.Reset(); wantReset(m) }, true},
		{"member resets", func(c, m peer) { _ = m.Reset(); wantReset(c) }, true},
		{"client FIN, member resets", func(c, m peer) { _ = c.CloseWrite(); drainTo(m); _ = m.Reset(); wantReset(c) }, true},
		{"member FIN, client resets while it sends", func(c, m peer) { _ = m.CloseWrite(); drainTo(c); _ = c.Reset(); wantReset(m) }, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				members := make(chan peer, 1)
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

func drainTo(l peer) {
	if _, err := io.Copy(io.Discard, l); err != nil {
		panic(fmt.Sprintf("a FIN arrived as %v", err))
	}
}

func wantReset(l peer) {
	if _, err := io.Copy(io.Discard, l); !errors.Is(err, syscall.ECONNRESET) {
		panic(fmt.Sprintf("a RST arrived as %v", err))
	}
}

func TestTCPHalfCloseHasNoDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		members := make(chan peer, 1)
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
		members := make(chan peer, 1)
		n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: accept(members)}}
		tr := newTestTranslator(t, &fakeResolver{members: []netip.Addr{testU1}}, n, nil, Limits{})
		var wg sync.WaitGroup
		client, member := established(t, tr, t.Context(), testTuple(TCP, 4000, 80), members, &wg)
		for _, way := range []struct{ from, to peer }{{client, member}, {member, client}} {
			wg.Go(func() { sendRandom(t, way.from, way.to) })
		}
		wg.Wait()
		s := tr.Stats()
		if s.BytesOut != 3<<20 || s.BytesIn != 3<<20 {
			t.Errorf("counted %d out, %d in, want %d each", s.BytesOut, s.BytesIn, 3<<20)
		}
	})
}

func sendRandom(t *testing.T, from, to peer) {
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

// TestTCPResetReachesAStalledReceiver: the sender's RST must end the other leg
// also while that one takes nothing, when nobody reads from the sender.
func TestTCPResetReachesAStalledReceiver(t *testing.T) {
	for _, who := range []string{"client", "member"} {
		synctest.Test(t, func(t *testing.T) {
			members := make(chan peer, 1)
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
			// As much as fits, so that both legs are full.
			if _, err := sender.Write(make([]byte, 2*pipeRoom)); err != nil {
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
			if n, err := io.Copy(io.Discard, receiver); n != pipeRoom || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the receiver read %d bytes, %v", n, err)
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
			members := make(chan peer, 1)
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

// A member that dies under a flow is not given to new ones; one that ends the
// flow is alive, and a client's end says nothing of it.
func TestTCPSuspectsAMemberThatDied(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(client, member peer)
		want []netip.Addr
	}{
		{"member does not answer", func(_, m peer) { m.fail(syscall.ETIMEDOUT) }, []netip.Addr{testU1}},
		{"member is unreachable", func(_, m peer) { m.fail(syscall.EHOSTUNREACH) }, []netip.Addr{testU1}},
		{"member resets", func(_, m peer) { _ = m.Reset() }, nil},
		{"client does not answer", func(c, _ peer) { c.fail(syscall.ETIMEDOUT) }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				members := make(chan peer, 1)
				n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: accept(members)}}
				r := &fakeResolver{members: []netip.Addr{testU1}}
				tr := newTestTranslator(t, r, n, nil, Limits{})
				var wg sync.WaitGroup
				client, member := established(t, tr, t.Context(), testTuple(TCP, 4000, 80), members, &wg)
				tc.end(client, member)
				wg.Wait()
				if got := r.suspected(); !slices.Equal(got, tc.want) {
					t.Errorf("suspected %v, want %v", got, tc.want)
				}
				wantReset(client)
				wantReset(member)
			})
		})
	}
}

// TestTCPBytesBeforeARSTArrive: a member's last words reach a client that reads
// slowly, and then its RST.
func TestTCPBytesBeforeARSTArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		members := make(chan peer, 1)
		n := &fakeNet{serve: map[netip.Addr]serveFunc{testU1: accept(members)}}
		tr := newTestTranslator(t, &fakeResolver{members: []netip.Addr{testU1}}, n, nil, Limits{})
		var wg sync.WaitGroup
		client, member := established(t, tr, t.Context(), testTuple(TCP, 4000, 80), members, &wg)
		if _, err := member.Write(make([]byte, 2*pipeRoom)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // both legs are full
		_ = member.Reset()
		got := 0
		for b := make([]byte, 512); ; {
			n, err := client.Read(b)
			got += n
			if err != nil {
				if !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the client read %v", err)
				}
				break
			}
			time.Sleep(stallAfter - 1) // slow, but not stalled
		}
		if got != 2*pipeRoom {
			t.Errorf("the client got %d bytes of %d", got, 2*pipeRoom)
		}
		wg.Wait()
	})
}

// endless is a leg that always has more.
type endless struct {
	insideLeg
	b     [100_000]byte
	turns int
}

// Failed implements [Leg].
func (*endless) Failed() bool { return false }

// MoveTo implements [InsideTCP].
func (e *endless) MoveTo(w TryWriter) error {
	e.turns++
	for {
		if n, err := w.TryWrite(e.b[:]); err != nil || n < len(e.b) {
			return err
		}
	}
}

// bottomless is a leg that takes all and has nothing.
type bottomless struct{ outsideLeg }

// MoveTo implements [OutsideTCP].
func (bottomless) MoveTo(TryReaderFrom) error { return nil }

// TryWrite implements [TryWriter].
func (bottomless) TryWrite(b []byte) (int, error) { return len(b), nil }

// A flow that could go on for ever lets the others have their turns.
func TestSpliceHasABudget(t *testing.T) {
	tr, err := New(Config{Resolver: &fakeResolver{}, Outside: &fakeNet{}, Pinger: fakePinger(nil)})
	if err != nil {
		t.Fatal(err)
	}
	f, err := tr.table.open(testTuple(TCP, 1, 80), func() {})
	if err != nil {
		t.Fatal(err)
	}
	in := &endless{}
	s := tr.newSplice(f, in, bottomless{}, func(error) { t.Error("the flow has ended") })
	for turn := range uint64(3) {
		more, over := s.step()
		if got := f.sent.Load(); !more || over || got != (turn+1)*stepBudget || in.turns != int(turn+1) {
			t.Errorf("after turn %d: %d bytes, more %v, over %v", turn+1, got, more, over)
		}
	}
}

// BenchmarkSplice is what a turn costs beside the legs: that of a flow that has
// nothing to do, and that of one that has more than it may do at once.
func BenchmarkSplice(b *testing.B) {
	tr, err := New(Config{Resolver: &fakeResolver{}, Outside: &fakeNet{}, Pinger: fakePinger(nil)})
	if err != nil {
		b.Fatal(err)
	}
	f, err := tr.table.open(testTuple(TCP, 1, 80), func() {})
	if err != nil {
		b.Fatal(err)
	}
	for name, in := range map[string]InsideTCP{"idle": idle{}, "busy": &endless{}} {
		b.Run(name, func(b *testing.B) {
			s := tr.newSplice(f, in, bottomless{}, func(error) {})
			b.ReportAllocs()
			for b.Loop() {
				if _, over := s.step(); over {
					b.Fatal("the flow has ended")
				}
			}
		})
	}
}

// idle is a leg on which nothing happens.
type idle struct{ insideLeg }

// MoveTo implements [InsideTCP].
func (idle) MoveTo(TryWriter) error { return nil }

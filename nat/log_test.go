package nat

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// lines is a log, each line without what differs from run to run.
type lines struct {
	mu   sync.Mutex
	said []string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = append(l.said, strings.TrimSpace(string(p)))
	return len(p), nil
}

func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// wants compares the lines with what they should be.
func (l *lines) wants(t *testing.T, want ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(l.said, want) {
		t.Errorf("logged\n%s\nwant\n%s", strings.Join(l.said, "\n"), strings.Join(want, "\n"))
	}
}

// telling is a resolver that knows how it has found its members.
type telling struct{ *fakeResolver }

func (telling) MethodOf(netip.Addr, netip.Addr) string { return "icmp" }

func logging(t *testing.T, l *lines, n *fakeNet, p Pinger) *Translator {
	t.Helper()
	tr := newTestTranslator(t, telling{&fakeResolver{members: []netip.Addr{testU1}}}, n, p, Limits{})
	tr.log = l.logger()
	return tr
}

const common = `client=[2001:db8:c::1]:%d anycast=[2001:db8:aa::1]:%d member=2001:db8:1::1 method=icmp`

func begins(id int, proto string, client, port int) string {
	return fmt.Sprintf(`msg="flow begins" id=%d proto=%s `+common, id, proto, client, port)
}

func ends(id int, proto string, client, port int, rest string) string {
	return fmt.Sprintf(`msg="flow ends" id=%d proto=%s `+common+` %s`, id, proto, client, port, rest)
}

// closed is for an end in memory, which always closes.
func closed(error) {}

func TestTCPFlowsAreLogged(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(tr *Translator, client, member peer)
		want string
	}{
		"closed": {func(_ *Translator, client, member peer) { closeQuietly(member); closeQuietly(client) }, "end=closed"},
		"client": {func(_ *Translator, client, _ peer) { closed(client.Reset()) }, `end=client-reset err="connection reset by peer"`},
		"member": {func(_ *Translator, _, member peer) { closed(member.Reset()) }, `end=member-reset err="connection reset by peer"`},
		"cut":    {func(tr *Translator, _, _ peer) { tr.table.cutAll() }, `end=cut err="nat: cut"`},
	} {
		synctest.Test(t, func(t *testing.T) {
			var l lines
			members := make(chan peer, 1)
			tr := logging(t, &l, &fakeNet{serve: map[netip.Addr]serveFunc{testU1: accept(members)}}, nil)
			var wg sync.WaitGroup
			client, member := established(t, tr, t.Context(), testTuple(TCP, 4000, 80), members, &wg)
			_, _ = client.Write([]byte("hello"))
			_, _ = io.ReadFull(member, make([]byte, 5)) // an end that is closed with bytes unread resets
			time.Sleep(3 * time.Second)
			c.end(tr, client, member)
			wg.Wait()
			l.wants(t, begins(1, "tcp", 4000, 80), ends(1, "tcp", 4000, 80, "duration=3s bytes_out=5 bytes_in=0 "+c.want))
		})
		if t.Failed() {
			t.Fatal(name)
		}
	}
}

func TestUDPFlowsAreLogged(t *testing.T) {
	for _, c := range []struct {
		end  func(tr *Translator, inside *packets)
		want string
	}{
		{func(*Translator, *packets) {}, "duration=5m0s bytes_out=3 bytes_in=0 end=idle"},
		{func(_ *Translator, inside *packets) { closeQuietly(inside) }, "duration=0s bytes_out=3 bytes_in=0 end=closed"},
		{func(tr *Translator, _ *packets) { tr.table.cutAll() }, "duration=0s bytes_out=3 bytes_in=0 end=cut"},
	} {
		synctest.Test(t, func(t *testing.T) {
			var l lines
			client, inside := newPackets()
			outside, _ := newPackets()
			tr := logging(t, &l, &fakeNet{udp: outside}, nil)
			_ = client.TrySend(Datagram{Data: []byte("abc")}) // an open in-memory end takes it
			var wg sync.WaitGroup
			wg.Go(func() { tr.ServeUDP(t.Context(), testTuple(UDP, 5000, 7), inside) })
			synctest.Wait()
			c.end(tr, inside)
			wg.Wait()
			l.wants(t, begins(1, "udp", 5000, 7), ends(1, "udp", 5000, 7, c.want))
		})
	}
}

func TestEchoFlowsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lines
		tr := logging(t, &l, &fakeNet{}, fakePinger(func(_ context.Context, _ netip.Addr, data []byte) ([]byte, error) { return slices.Clone(data), nil }))
		for range 2 {
			tr.ServeEcho(t.Context(), testTuple(Echo, 7, 0), &fakeEcho{data: []byte("ping")})
		}
		time.Sleep(61 * time.Second)
		tr.ServeEcho(t.Context(), testTuple(Echo, 8, 0), &fakeEcho{data: []byte("ping")})
		_ = tr.Drain(t.Context()) // nothing is left to wait for
		l.wants(t, begins(1, "echo", 7, 0), ends(1, "echo", 7, 0, "duration=1m0s bytes_out=8 bytes_in=8 end=idle"),
			begins(2, "echo", 8, 0), ends(2, "echo", 8, 0, "duration=0s bytes_out=4 bytes_in=4 end=cut"))
	})
}

// What is not carried is one line that says what the client was told.
func TestRefusedFlowsAreLoggedAndCounted(t *testing.T) {
	var l lines
	tr := logging(t, &l, &fakeNet{serve: map[netip.Addr]serveFunc{testU1: refuse}}, nil)
	syn := newFakeTCP()
	tr.ServeTCP(t.Context(), testTuple(TCP, 4000, 80), syn)
	<-syn.told
	flow := `proto=tcp client=[2001:db8:c::1]:4000 anycast=[2001:db8:aa::1]:80 member=2001:db8:1::1 `
	l.wants(t, `msg="member did not take the flow, trying once more" `+flow+`err="dial: connection refused"`,
		`msg="flow refused" `+flow+`told=refused err="dial: connection refused"`)
	if s := tr.Stats(); s.Rejected != 1 || s.Told["refused"] != 1 || len(s.Told) != 1 {
		t.Errorf("counted %+v", s)
	}
}

// A flow that is not logged costs nothing for it.
func TestNoLogCostsNothing(t *testing.T) {
	tr := newTestTranslator(t, telling{&fakeResolver{members: []netip.Addr{testU1}}}, &fakeNet{}, nil, Limits{})
	f := &flow{tuple: testTuple(TCP, 4000, 80), started: time.Now()}
	f.bind(testU1)
	if n := testing.AllocsPerRun(100, func() {
		tr.logBegin(f)
		tr.logEnd(f, endClosed, errCut)
		tr.logFlow("something", f.tuple, testU1, errCut)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestDialsAreTimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		members := make(chan peer, 1)
		tr := newTestTranslator(t, &fakeResolver{members: []netip.Addr{testU1}}, &fakeNet{serve: map[netip.Addr]serveFunc{
			testU1: func(ctx context.Context) (OutsideTCP, error) {
				time.Sleep(7 * time.Millisecond)
				return accept(members)(ctx)
			},
		}}, nil, Limits{})
		var wg sync.WaitGroup
		client, member := established(t, tr, t.Context(), testTuple(TCP, 4000, 80), members, &wg)
		s := tr.Stats()
		if s.TCP != 1 || s.UDP != 0 || s.Echo != 0 || s.Most != DefaultLimits().Flows {
			t.Errorf("flows: %+v", s)
		}
		closeQuietly(member)
		closeQuietly(client)
		wg.Wait()
		if at := slices.Index(s.Dials.Bounds, 10*time.Millisecond); s.Dials.Sum != 7*time.Millisecond || s.Dials.Counts[at] != 1 || len(s.Dials.Counts) != len(s.Dials.Bounds)+1 {
			t.Errorf("dials: %+v", s.Dials)
		}
		var h histogram
		h.observe(time.Hour)
		if s := h.snapshot(); s.Counts[len(s.Bounds)] != 1 {
			t.Errorf("an hour is counted as %v", s.Counts)
		}
	})
}

package nat

import (
	"bytes"
	"context"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

type fakeEcho struct {
	data   []byte
	mu     sync.Mutex
	reply  []byte
	told   Refusal
	events int
}

func (e *fakeEcho) Data() []byte { return e.data }

func (e *fakeEcho) Reply(data []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reply = data
	e.events++
	return nil
}

func (e *fakeEcho) Meta() Meta { return Meta{Hops: 7, Whole: true} }

func (e *fakeEcho) Reject(r Refusal) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.told = r
	e.events++
}

func TestEchoKeepsItsMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &fakeResolver{members: []netip.Addr{testU1, testU2}}
		var asked []netip.Addr
		tr := newTestTranslator(t, r, &fakeNet{}, fakePinger(func(_ context.Context, ua netip.Addr, data []byte) ([]byte, error) {
			asked = append(asked, ua)
			return bytes.Clone(data), nil
		}), Limits{})
		ask := func(id uint16) {
			e := &fakeEcho{data: []byte("ping")}
			tr.ServeEcho(t.Context(), testTuple(Echo, id, 0), e)
			if string(e.reply) != "ping" || e.events != 1 {
				t.Errorf("reply %q, %d answers", e.reply, e.events)
			}
		}
		ask(1)
		r.Suspect(testAA, testU1) // the pin moves on, the flow does not
		time.Sleep(59 * time.Second)
		ask(1)
		ask(2)
		time.Sleep(61 * time.Second) // the flow ends, so the next is a new one
		ask(1)
		want := []netip.Addr{testU1, testU1, testU2, testU2}
		for i, ua := range want {
			if asked[i] != ua {
				t.Errorf("request %d went to %v, want %v", i, asked[i], ua)
			}
		}
		time.Sleep(61 * time.Second)
		if s := tr.Stats(); s.Flows != 0 || s.EchoServed != 4 {
			t.Errorf("stats: %+v", s)
		}
	})
}

func TestEchoThatIsNotAnsweredIsSilent(t *testing.T) {
	hang := func(ctx context.Context, _ netip.Addr, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for _, tc := range []struct {
		name   string
		r      *fakeResolver
		pinger fakePinger
		told   Reason
	}{
		{"dead member", &fakeResolver{members: []netip.Addr{testU1}}, hang, 0},
		{"nobody answers for AA", &fakeResolver{err: syscall.EHOSTUNREACH}, hang, 0},
		{"resolver hangs", &fakeResolver{delay: time.Hour}, hang, 0},
		{"no route to the member", &fakeResolver{members: []netip.Addr{testU1}},
			func(context.Context, netip.Addr, []byte) ([]byte, error) { return nil, syscall.ENETUNREACH }, NetUnreachable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newTestTranslator(t, tc.r, &fakeNet{}, tc.pinger, Limits{})
				e := &fakeEcho{data: []byte("ping")}
				tr.ServeEcho(t.Context(), testTuple(Echo, 1, 0), e)
				if e.reply != nil || e.told.Reason != tc.told {
					t.Errorf("reply %q, told %v, want no reply and %v", e.reply, e.told.Reason, tc.told)
				}
				time.Sleep(61 * time.Second)
				if s := tr.Stats(); s.Flows != 0 || s.Opening != 0 {
					t.Errorf("stats: %+v", s)
				}
			})
		})
	}
}

func TestEchoFirstRequestsShareOneMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &fakeResolver{members: []netip.Addr{testU1, testU2}, delay: time.Second}
		var mu sync.Mutex
		asked := map[netip.Addr]int{}
		tr := newTestTranslator(t, r, &fakeNet{}, fakePinger(func(_ context.Context, ua netip.Addr, data []byte) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			asked[ua]++
			return data, nil
		}), Limits{})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { tr.ServeEcho(t.Context(), testTuple(Echo, 1, 0), &fakeEcho{}) })
			time.Sleep(150 * time.Millisecond)
			mu.Lock()
			answered := asked[testU1] > 0
			mu.Unlock()
			if answered {
				r.Suspect(testAA, testU1)
			}
		}
		wg.Wait()
		if len(asked) != 1 {
			t.Errorf("one ping run asked %v", asked)
		}
		if err := tr.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestEchoDrainCutsWhatIsNotAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := fakePinger(func(ctx context.Context, _ netip.Addr, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		tr := newTestTranslator(t, &fakeResolver{members: []netip.Addr{testU1}}, &fakeNet{}, hang, Limits{})
		var wg sync.WaitGroup
		wg.Go(func() { tr.ServeEcho(t.Context(), testTuple(Echo, 1, 0), &fakeEcho{}) })
		synctest.Wait()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := tr.Drain(ctx); err == nil {
			t.Error("Drain says the echo ended by itself")
		}
		wg.Wait()
		if took := time.Since(start); took != time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

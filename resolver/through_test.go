package resolver

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// everything lets all but one prefix through, and that one not even asked.
func everything(probers ...Prober) Config {
	return Config{
		Policies: []Policy{
			{Prefix: netip.MustParsePrefix("::/0"), Unresolved: Through},
			{Prefix: netip.MustParsePrefix("2001:db8:5::/48"), Unresolved: Straight},
		},
		Probers: probers, Stale: time.Minute,
	}
}

func silent(ctx context.Context, _ int64) (Answer, error) {
	<-ctx.Done()
	return Answer{}, ctx.Err()
}

func TestThrough(t *testing.T) {
	private := netip.MustParseAddr("fd00::1")
	for _, c := range []struct {
		name       string
		echo, stun func(context.Context, int64) (Answer, error)
		member     netip.Addr
		takes      time.Duration
	}{
		{"a member answers", after(30*time.Millisecond, ua1), silent, ua1, 30 * time.Millisecond},
		{"it answers itself, and its responder is soon", after(30*time.Millisecond, aa), after(40*time.Millisecond, ua1), ua1, 40 * time.Millisecond},
		{"it answers itself, and nobody else does", after(40*time.Millisecond, aa), silent, aa, (40 + 20 + 20) * time.Millisecond},
		{"it does not answer", silent, silent, aa, 300 * time.Millisecond},
		{"it names a private address", after(30*time.Millisecond, private), silent, aa, 300 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				echo, stun := &script{name: "icmp", answer: c.echo}, &script{name: "stun", answer: c.stun}
				r := newTest(t, everything(echo, stun))
				began := time.Now()
				pin, err := r.Lookup(context.Background(), aa)
				if took := time.Since(began); err != nil || pin.Member != c.member || took != c.takes || pin.SelfAnswer != (c.member == aa) {
					t.Fatalf("%+v, %v, after %v: want %v after %v", pin, err, took, c.member, c.takes)
				}
				// What was found out holds, without being asked again.
				asked := echo.asked.Load()
				time.Sleep(20 * time.Second)
				if again, err := r.Lookup(context.Background(), aa); err != nil || again.Member != c.member || echo.asked.Load() != asked {
					t.Errorf("then %+v, %v, asked %d times", again, err, echo.asked.Load()-asked)
				}
			})
		})
	}
}

// While it is used, an ordinary address is asked in the background alone.
func TestThroughIsRenewedUnnoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		echo := &script{name: "icmp", answer: silent}
		r := newTest(t, everything(echo))
		slow := 0
		for range 100 {
			began := time.Now()
			if pin, err := r.Lookup(context.Background(), aa); err != nil || pin.Member != aa {
				t.Fatalf("%+v, %v", pin, err)
			}
			if time.Since(began) > 0 {
				slow++
			}
			time.Sleep(30 * time.Second)
		}
		if slow != 1 || echo.asked.Load() < 10 {
			t.Errorf("%d look-ups had to wait, want the first; it was asked %d times in 50 minutes", slow, echo.asked.Load())
		}
	})
}

// A member that falls silent does not make its AA an ordinary address.
func TestThroughKnowsAnycast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		echo := &script{name: "icmp", answer: func(ctx context.Context, n int64) (Answer, error) {
			if n == 1 {
				return Answer{UA: ua1}, nil
			}
			return silent(ctx, n)
		}}
		r := newTest(t, everything(echo))
		if pin, err := r.Lookup(context.Background(), aa); err != nil || pin.Member != ua1 {
			t.Fatalf("%+v, %v", pin, err)
		}
		r.Suspect(aa, ua1)
		if pin, err := r.Lookup(context.Background(), aa); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("%+v, %v, want no answer", pin, err)
		}
		time.Sleep(2 * time.Minute)
		if pin, err := r.Lookup(context.Background(), aa); err != nil || pin.Member != aa {
			t.Errorf("long after: %+v, %v, want the address itself", pin, err)
		}
	})
}

func TestStraightAsksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		echo := &script{name: "icmp", answer: after(0, ua1)}
		r := newTest(t, everything(echo))
		to := netip.MustParseAddr("2001:db8:5::1")
		if pin, err := r.Lookup(context.Background(), to); err != nil || pin.Member != to || echo.asked.Load() != 0 {
			t.Errorf("%+v, %v, asked %d times", pin, err, echo.asked.Load())
		}
	})
}

func TestThroughProvesNothing(t *testing.T) {
	c := everything()
	c.Policies[0].Proof = Ed25519
	if _, err := New(c); err == nil {
		t.Error("a proof is asked for, and who gives none is let through")
	}
}

package member

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestHealthFallsAfterTwoAndRisesAfterOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		r := &Responder{
			log: slog.New(slog.DiscardHandler), interval: 2 * time.Second, timeout: time.Second,
			health: health{unhealthy: true},
			check: func(context.Context) error {
				if down.Load() {
					return errors.New("down")
				}
				return nil
			},
		}
		r.draining.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { r.watch(ctx); close(done) }()
		expect := func(what, want string) {
			t.Helper()
			synctest.Wait()
			if got := r.State(); got != want || r.draining.Load() != (want != "answering") {
				t.Errorf("%s: %s, draining %v", what, got, r.draining.Load())
			}
		}
		expect("the first check", "answering")
		time.Sleep(time.Second) // from now on between two checks
		down.Store(true)
		time.Sleep(2 * time.Second)
		expect("one failure", "answering")
		time.Sleep(2 * time.Second)
		expect("two failures", "unhealthy")
		down.Store(false)
		time.Sleep(2 * time.Second)
		expect("one success", "answering")
		down.Store(true)
		time.Sleep(2 * time.Second)
		down.Store(false)
		time.Sleep(2 * time.Second)
		down.Store(true)
		time.Sleep(2 * time.Second)
		expect("two failures, not in a row", "answering")
		r.Drain(true)
		time.Sleep(2 * time.Second)
		expect("draining and unhealthy", "draining")
		r.Drain(false)
		expect("only unhealthy", "unhealthy")
		cancel()
		<-done
	})
}

func TestCheckHasItsTimeOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended time.Time
		began := time.Now()
		r := &Responder{
			log: slog.New(slog.DiscardHandler), interval: time.Minute, timeout: time.Second,
			check: func(ctx context.Context) error { <-ctx.Done(); ended = time.Now(); return ctx.Err() },
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { r.watch(ctx); close(done) }()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if ended.Sub(began) != time.Second {
			t.Errorf("the check ended after %v", ended.Sub(began))
		}
		cancel()
		<-done
	})
}

func TestCommand(t *testing.T) {
	if err := Command("exit 0")(t.Context()); err != nil {
		t.Error(err)
	}
	if err := Command("exit 3")(t.Context()); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Error(err)
	}
}

// TestCommandIsKilledWhole: what a check has started ends with it.
func TestCommandIsKilledWhole(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Command("sleep 1000 & echo $! >" + pidFile + ".new && mv " + pidFile + ".new " + pidFile + "; wait")(ctx)
	}()
	var pid int
	eventually(t, "the check runs", func() bool {
		text, err := os.ReadFile(pidFile)
		if err == nil {
			pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		return err == nil
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	eventually(t, "its child is gone", func() bool {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ") // nobody may reap it here
	})
}

func TestConnect(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	here, nowhere := addr("127.0.0.1"), addr("127.0.0.2")
	if err := Connect(port, nowhere, here)(t.Context()); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, addrs := range [][]netip.Addr{nil, {here}} {
		if err := Connect(port, addrs...)(t.Context()); err == nil {
			t.Errorf("%v: connected", addrs)
		}
	}
}

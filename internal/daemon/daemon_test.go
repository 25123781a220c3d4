package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aarptun/internal/admin"
	"aarptun/internal/capture"
	"aarptun/internal/config"
	"aarptun/internal/metrics"
	"aarptun/nat"
	"aarptun/tun"
)

// running is a daemon that runs.
type running struct {
	client *admin.Client
	log    *lockedBuffer
	end    context.CancelFunc
	ended  chan error
}

// lockedBuffer is a log that can be read while it is written.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// start runs a daemon and returns when it is ready. It is ended with the test,
// if not before.
func start(t *testing.T, cfg config.Config) *running {
	t.Helper()
	return startReloading(t, cfg, Reload{})
}

// startReloading is start for a daemon that can reload.
func startReloading(t *testing.T, cfg config.Config, reload Reload) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{client: admin.NewClient(cfg.AdminSocket), log: &lockedBuffer{}, end: cancel, ended: make(chan error, 1)}
	ready := make(chan struct{}, 2)
	go func() {
		r.ended <- Run(ctx, cfg, "test", slog.New(slog.NewTextHandler(r.log, nil)), func() error {
			ready <- struct{}{}
			return nil
		}, reload)
		close(r.ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-r.ended
		if len(ready) > 0 {
			t.Error("ready was called twice")
		}
	})
	select {
	case <-ready:
	case err := <-r.ended:
		t.Fatalf("it did not start: %v", err)
	}
	return r
}

// stop ends the daemon, which must have nothing to complain of.
func (r *running) stop(t *testing.T) {
	t.Helper()
	r.end()
	select {
	case err := <-r.ended:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
	if text := r.log.String(); strings.Contains(text, "level=WARN") || strings.Contains(text, "level=ERROR") {
		t.Errorf("it complained:\n%s", text)
	}
}

func TestRunCarriesAndPutsBack(t *testing.T) {
	cfg := onHost(t)
	r := start(t, cfg)
	if rules := ip(t, "rule") + ip(t, "-6", "rule"); strings.Count(rules, "not from all fwmark 0xaa lookup 170 proto 170") != 2 {
		t.Errorf("ready, and the rules are\n%s", rules)
	}
	if routes := ip(t, "-6", "route", "show", "table", "170"); !strings.Contains(routes, testPrefix6+" dev aarptun0") {
		t.Errorf("ready, and the routes are\n%s", routes)
	}
	status, err := r.client.Status(t.Context())
	if err != nil || status.Version != "test" || status.PID != os.Getpid() || status.Device != "aarptun0" || status.MTU != 1500 ||
		len(status.Prefixes) != 2 || time.Since(status.Started) > patience || status.NAT.Flows != 0 {
		t.Errorf("status: %+v, %v", status, err)
	}
	if status.Goroutines < 1 || status.OpenFiles < 1 || status.ResidentBytes < 1 {
		t.Errorf("status of the process: %+v", status)
	}
	if ping, ok := status.Rooms["ping"].(map[string]any); !ok || ping["probes"] != 0.0 {
		t.Errorf("status of ping: %v", status.Rooms)
	}

	udp := dial(t, "udp", testAA)
	exchange(t, udp, "hello")
	r.sees(t, udp, nat.UDP, testMember, "static", 5)
	tcp := dial(t, "tcp", testAA6)
	exchange(t, tcp, "hello there")
	r.sees(t, tcp, nat.TCP, testMember6, "icmp", 11)
	if status, err = r.client.Status(t.Context()); err != nil || status.NAT.Flows != 2 || status.NAT.UDPOpened != 1 || status.NAT.TCPOpened != 1 ||
		status.NAT.BytesOut != 16 || status.NAT.BytesIn != 16 || status.Resolver.Static != 1 || status.Resolver.Pins != 2 {
		t.Errorf("status: %+v, %v", status, err)
	}
	r.stop(t)
	if _, err := r.client.Status(t.Context()); !errors.Is(err, admin.ErrNotRunning) {
		t.Errorf("after the end: %v", err)
	}
}

// dial opens a flow to AA, which is closed with the test.
func dial(t *testing.T, network, aa string) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout(network, net.JoinHostPort(aa, strconv.Itoa(testPort)), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // it may have been closed before
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// exchange sends a text and wants it back.
func exchange(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	back := make([]byte, len(text))
	if _, err := io.ReadFull(conn, back); err != nil || string(back) != text {
		t.Fatalf("sent %q, got %q, %v", text, back, err)
	}
}

// sees waits until the flow of conn is shown with all that it has carried, and
// wants the pin of its address. Bytes are counted when they have been sent, so
// the client may have them first.
func (r *running) sees(t *testing.T, conn net.Conn, proto nat.Proto, ua, method string, bytes uint64) {
	t.Helper()
	want := nat.FlowInfo{
		Proto: proto, Client: netip.MustParseAddrPort(conn.LocalAddr().String()), Anycast: netip.MustParseAddrPort(conn.RemoteAddr().String()),
		Member: netip.MustParseAddr(ua), State: nat.Established, Path: nat.PathTUN, Sent: bytes, Got: bytes,
	}
	r.waits(t, func(flows []nat.FlowInfo) bool {
		return slices.ContainsFunc(flows, func(f nat.FlowInfo) bool {
			f.ID, f.Started, f.Active = 0, time.Time{}, time.Time{}
			return f == want
		})
	})
	pins, err := r.client.Pins(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(pins.Pins, func(p admin.Pin) bool {
		return p.Anycast == want.Anycast.Addr() && p.Member == want.Member && p.Method == method && p.TTL > 0 && p.TTL <= config.Default().CacheTTL.Milliseconds()
	}) {
		t.Errorf("no pin of %v to %s by %s in %+v", want.Anycast, ua, method, pins.Pins)
	}
}

// waits asks for the flows until they are as they should be.
func (r *running) waits(t *testing.T, ok func([]nat.FlowInfo) bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		flows, err := r.client.Flows(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if ok(flows.Flows) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the flows are still %+v", flows.Flows)
		}
	}
}

// A stop lets the flows that exist go on, takes on no new ones, and ends when
// the last flow has.
func TestAStopLetsFlowsGoOn(t *testing.T) {
	cfg := onHost(t)
	cfg.DrainTimeout = time.Hour
	r := start(t, cfg)
	conn := dial(t, "tcp", testAA6)
	exchange(t, conn, "before")
	r.end()
	r.takesNoMore(t)
	for range 3 {
		exchange(t, conn, "while it drains")
	}
	select {
	case err := <-r.ended:
		t.Fatalf("it has ended with flows open: %v", err)
	default:
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	r.stop(t)
}

// takesNoMore dials until the daemon has begun to drain, and wants silence then:
// a refusal would be final for the client.
func (r *running) takesNoMore(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		late, err := net.DialTimeout("tcp", net.JoinHostPort(testAA, strconv.Itoa(testPort)), 100*time.Millisecond)
		if err == nil {
			if err := late.Close(); err != nil { // it came in time
				t.Fatal(err)
			}
		}
		status, statusErr := r.client.Status(t.Context())
		if statusErr != nil {
			t.Fatal(statusErr)
		}
		if status.NAT.Limited["draining"] > 0 {
			if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("while it drains, a new client is told %v", err)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not begin to drain")
		}
	}
}

// A stop in the middle of a dial that would take minutes ends in time. The
// client is told nothing: its next SYN goes where it would have gone without us.
func TestStopWithAFlowThatIsBeingDialled(t *testing.T) {
	cfg := onHost(t)
	r := start(t, cfg)
	ctx, hangUp := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", testDeadAA+":80")
		if err == nil {
			err = errors.Join(errors.New("connected"), conn.Close())
		}
		failed <- err
	}()
	r.waits(t, func(flows []nat.FlowInfo) bool {
		return len(flows) == 1 && flows[0].State == nat.Dialling && flows[0].Member == netip.MustParseAddr(testDead)
	})
	r.stop(t)
	hangUp()
	if err := <-failed; !strings.Contains(err.Error(), "operation was canceled") {
		t.Errorf("the client was told %v", err)
	}
}

// The same host carries again, as often as is asked for.
func TestRunAgain(t *testing.T) {
	cfg := onHost(t)
	for range 3 {
		start(t, cfg).stop(t)
	}
}

// A room that fails ends Run, says why, and what was changed is put back.
func TestARoomThatFails(t *testing.T) {
	cfg := onHost(t)
	r := start(t, cfg)
	ip(t, "link", "del", cfg.TUN)
	select {
	case err := <-r.ended:
		if !errors.Is(err, tun.ErrGone) || strings.Contains(err.Error(), "\n") {
			t.Errorf("Run: %v, want one line that says what has failed", err)
		}
	case <-time.After(patience):
		t.Fatal("the device is gone, and it goes on")
	}
	if text := r.log.String(); !strings.Contains(text, "a room has failed, stopping") {
		t.Errorf("it did not say so:\n%s", text)
	}
}

// Whatever goes wrong at the start, its error says so, and nothing is left.
func TestAStartThatFails(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		before, after func(*testing.T, *config.Config)
		ready         error
		want          error
	}{
		"the device name is taken": {
			before: func(t *testing.T, cfg *config.Config) {
				ip(t, "link", "add", cfg.TUN, "type", "veth", "peer", "name", "other0")
			},
			after: func(t *testing.T, cfg *config.Config) { ip(t, "link", "del", cfg.TUN) },
			want:  tun.ErrNameTaken,
		},
		"the table is taken": {
			before: func(t *testing.T, _ *config.Config) {
				ip(t, "route", "add", "203.0.113.0/24", "dev", "v0", "table", "170")
			},
			after: func(t *testing.T, _ *config.Config) {
				ip(t, "route", "del", "203.0.113.0/24", "dev", "v0", "table", "170")
			},
			want: tun.ErrTableTaken,
		},
		"the state directory is a file": {
			before: func(t *testing.T, cfg *config.Config) { cfg.StateDir = file(t) },
			want:   tun.ErrConfig,
		},
		"the admin socket is a file": {
			before: func(t *testing.T, cfg *config.Config) { cfg.AdminSocket = file(t) },
			want:   admin.ErrPath,
		},
		"the admin socket is in use": {
			before: func(t *testing.T, cfg *config.Config) {
				cfg.AdminSocket = filepath.Join(t.TempDir(), "admin.sock")
				listener, err := net.Listen("unix", cfg.AdminSocket)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = listener.Close() })
			},
			want: admin.ErrInUse,
		},
		"the metrics listener is in use": {
			before: func(t *testing.T, cfg *config.Config) {
				listener, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = listener.Close() })
				cfg.MetricsListen = listener.Addr().String()
			},
			want: metrics.ErrListen,
		},
		"the metrics socket is a file": {
			before: func(t *testing.T, cfg *config.Config) { cfg.MetricsListen = file(t) },
			want:   metrics.ErrListen,
		},
		"the admin socket is a file, and all else is open": {
			before: func(t *testing.T, cfg *config.Config) {
				cfg.MetricsListen, cfg.Pcap = filepath.Join(cfg.StateDir, "m"), filepath.Join(t.TempDir(), "x")
				cfg.AdminSocket = file(t)
			},
			want: admin.ErrPath,
		},
		"the capture is a directory": {
			before: func(t *testing.T, cfg *config.Config) { cfg.Pcap = t.TempDir() },
			want:   capture.ErrFile,
		},
		"IPv6 is disabled": {
			before: func(t *testing.T, _ *config.Config) { disableIPv6(t, "1") },
			after:  func(t *testing.T, _ *config.Config) { disableIPv6(t, "0") },
			want:   tun.ErrConfig,
		},
		"nobody hears that it is ready": {ready: broken, want: broken},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := onHost(t)
			if c.after != nil {
				t.Cleanup(func() { c.after(t, &cfg) })
			}
			if c.before != nil {
				c.before(t, &cfg)
			}
			unchanged(t, filepath.Dir(cfg.AdminSocket))
			said := false
			err := Run(t.Context(), cfg, "test", slog.New(slog.DiscardHandler), func() error {
				said = true
				return c.ready
			}, Reload{})
			if !errors.Is(err, c.want) || said != (c.ready != nil) {
				t.Errorf("Run: %v, ready %v, want %v", err, said, c.want)
			}
		})
	}
}

func file(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// disableIPv6 is about devices that are made from now on.
func disableIPv6(t *testing.T, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// Without CAP_NET_RAW there are no probes, and with the device made already.
func TestAStartWithoutCapNetRaw(t *testing.T) {
	cfg := onHost(t)
	ended := make(chan error, 1)
	go func() {
		// A thread has capabilities of its own. It is not unlocked, and so
		// ends with the goroutine.
		runtime.LockOSThread()
		if err := drop(unix.CAP_NET_RAW); err != nil {
			ended <- err
			return
		}
		ended <- Run(t.Context(), cfg, "test", slog.New(slog.DiscardHandler), func() error { return nil }, Reload{})
	}()
	if err := <-ended; !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_RAW") {
		t.Errorf("Run: %v, want a missing permission that is named", err)
	}
}

// drop takes a capability from the calling thread.
func drop(capability int) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[capability/32].Effective &^= 1 << (capability % 32)
	return unix.Capset(&header, &data[0])
}

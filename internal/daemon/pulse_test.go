package daemon

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"aarptun/tun"
)

// systemd is the socket on which it listens.
type systemd struct{ conn *net.UnixConn }

func listenAsSystemd(t *testing.T, watchdog time.Duration) systemd {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // what was said, was heard
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(watchdog.Microseconds(), 10))
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	return systemd{conn}
}

// hears returns the next message, or "" if there is none for so long.
func (s systemd) hears(t *testing.T, wait time.Duration) string {
	t.Helper()
	buf := make([]byte, 4096)
	if err := s.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	n, err := s.conn.Read(buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// waitsFor hears messages until one has the text.
func (s systemd) waitsFor(t *testing.T, text string) {
	t.Helper()
	for message := "begin"; message != ""; {
		if message = s.hears(t, patience); strings.Contains(message, text) {
			return
		}
	}
	t.Fatalf("systemd did not hear %q", text)
}

// silent drains what was said and wants nothing more for so long.
func (s systemd) silent(t *testing.T, wait time.Duration) {
	t.Helper()
	for s.hears(t, time.Millisecond) != "" {
	}
	if message := s.hears(t, wait); message != "" {
		t.Errorf("systemd hears %q from a daemon that hangs", message)
	}
}

func TestSystemdHearsOfALife(t *testing.T) {
	const watchdog = 150 * time.Millisecond
	cfg := onHost(t)
	s := listenAsSystemd(t, watchdog)
	r := start(t, cfg)
	s.waitsFor(t, "READY=1")
	s.waitsFor(t, "WATCHDOG=1")
	s.waitsFor(t, "WATCHDOG=1")
	conn := dial(t, "tcp", testAA)
	s.waitsFor(t, "STATUS=carrying 1 flows, ")
	s.waitsFor(t, "WATCHDOG=1")
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	r.stop(t)
	s.waitsFor(t, "STOPPING=1")
}

// beating runs a pulse until the test ends.
func beating(t *testing.T, p *pulse) {
	t.Helper()
	p.status = func() string { return "" }
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A room that holds its lock for ever stops the pulse, and one that lets go of it
// starts it again.
func TestAHungRoomStopsThePulse(t *testing.T) {
	const watchdog = 90 * time.Millisecond
	s := listenAsSystemd(t, watchdog)
	lock := make(chan struct{}, 1)
	log := &lockedBuffer{}
	beating(t, &pulse{
		watchdog: watchdog, log: slog.New(slog.NewTextHandler(log, nil)),
		rooms:   []beat{{"translator", func() { lock <- struct{}{}; <-lock }}},
		packets: packetLoop{waiting: func() bool { return false }, moved: func() uint64 { return 0 }},
	})
	s.waitsFor(t, "WATCHDOG=1")
	lock <- struct{}{}
	time.Sleep(watchdog) // the beat that was under way
	s.silent(t, 3*watchdog)
	if text := log.String(); !strings.Contains(text, "a room hangs") || !strings.Contains(text, "translator does not answer") {
		t.Errorf("the log says %q", text)
	}
	<-lock
	s.waitsFor(t, "WATCHDOG=1")
}

// A device that nobody reads: packets wait and none is counted.
func TestAPacketLoopThatStandsStopsThePulse(t *testing.T) {
	const watchdog = 90 * time.Millisecond
	cfg := onHost(t)
	host, err := tun.Open(tunConfig(cfg))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := host.AddRoutes(); err != nil {
		t.Fatal(err)
	}
	s := listenAsSystemd(t, watchdog)
	log := &lockedBuffer{}
	beating(t, &pulse{
		watchdog: watchdog, log: slog.New(slog.NewTextHandler(log, nil)),
		packets: packetLoop{waiting: host.Device().Waiting, moved: func() uint64 { return 0 }},
	})
	s.waitsFor(t, "WATCHDOG=1")
	s.waitsFor(t, "WATCHDOG=1")
	conn, err := net.Dial("udp", net.JoinHostPort(testAA, "9"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("read me")); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	time.Sleep(watchdog) // two looks
	s.silent(t, 3*watchdog)
	if text := log.String(); strings.Count(text, "none is read") != 1 {
		t.Errorf("the log says %q", text)
	}
	bufs := [][]byte{make([]byte, 2048)}
	for host.Device().Waiting() {
		if _, err := host.Device().Read(bufs); err != nil {
			t.Fatal(err)
		}
	}
	s.waitsFor(t, "WATCHDOG=1")
}

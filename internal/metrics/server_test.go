package metrics

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// serve runs a server until the test ends.
func serve(t *testing.T, address string) *Server {
	t.Helper()
	figures, _ := counting()
	s, err := Listen(address, fixed(figures), "1.2.3", quiet)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

func ask(t *testing.T, s *Server, method, path string) (status int, contentType, body string) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, s.Addr().Network(), s.Addr().String())
	}}
	request, err := http.NewRequestWithContext(t.Context(), method, "http://aarptun"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header.Get("Content-Type"), string(text)
}

func TestOnlyTheMetricsAreServed(t *testing.T) {
	s := serve(t, "127.0.0.1:0")
	status, kind, text := ask(t, s, http.MethodGet, "/metrics")
	if status != http.StatusOK || !strings.HasPrefix(kind, "text/plain; version=0.0.4") || !strings.Contains(text, `aarptun_build_info{goversion="go`) {
		t.Errorf("%d %s\n%s", status, kind, text)
	}
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{http.MethodPost, "/metrics", http.StatusMethodNotAllowed}, {http.MethodGet, "/", http.StatusNotFound},
		{http.MethodGet, "/debug/pprof/", http.StatusNotFound}, {http.MethodGet, "/metrics/", http.StatusNotFound},
	} {
		if status, _, _ := ask(t, s, c.method, c.path); status != c.want {
			t.Errorf("%s %.20s: %d, want %d", c.method, c.path, status, c.want)
		}
	}
}

func TestHeadersAreBounded(t *testing.T) {
	s := serve(t, "127.0.0.1:0")
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "GET /metrics?"+strings.Repeat("x", 8*maxHeader)+" HTTP/1.0\r\n\r\n") // not all of it is taken
	answer, _ := io.ReadAll(conn)                                                                     // it may be reset behind it
	if text := string(answer); text != "" && !strings.HasPrefix(text, "HTTP/1.1 431 ") {
		t.Errorf("it is told %q", text)
	}
	_ = conn.Close() // all was read
	if status, _, _ := ask(t, s, http.MethodGet, "/metrics"); status != http.StatusOK {
		t.Errorf("then: %d", status)
	}
}

// More clients than there is room for wait, and those that say nothing leave none
// the less.
func TestConnectionsAreBounded(t *testing.T) {
	s := serve(t, "127.0.0.1:0")
	var silent []net.Conn
	for range maxConns {
		conn, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, conn)
	}
	late, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(late, "GET /metrics HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := late.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := late.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one more was answered: %d bytes, %v", n, err)
	}
	for _, conn := range silent {
		_ = conn.Close() // nothing was said
	}
	if err := late.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(late).ReadString('\n'); !strings.Contains(line, "200 OK") {
		t.Errorf("then it is told %q, %v", line, err)
	}
	_ = late.Close() // it was read from only
}

func TestTheSocketOfAPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	s := serve(t, path) // in its place
	if status, _, _ := ask(t, s, http.MethodGet, "/metrics"); status != http.StatusOK {
		t.Errorf("%d", status)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != socketMode {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := Listen(path, fixed{}, "", quiet); !errors.Is(err, ErrListen) || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second one: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file, fixed{}, "", quiet); !errors.Is(err, ErrListen) || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file: %v", err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
		t.Errorf("the file has %q, %v", text, err)
	}
	if _, err := Listen("192.0.2.1:9470", fixed{}, "", quiet); !errors.Is(err, ErrListen) || !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("an address that is not here: %v", err)
	}
}

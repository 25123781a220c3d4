package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/netutil"

	"aarptun/nat"
)

func TestClientGetsWhatTheSourceSays(t *testing.T) {
	path, source := socketPath(t), newFixed()
	serve(t, path, source)
	c := NewClient(path)
	if got, err := c.Status(t.Context()); err != nil || !reflect.DeepEqual(got, source.status) {
		t.Errorf("status: %+v, %v, want %+v", got, err, source.status)
	}
	if got, err := c.Flows(t.Context()); err != nil || !reflect.DeepEqual(got.Flows, source.flows) {
		t.Errorf("flows: %+v, %v, want %+v", got, err, source.flows)
	}
	if got, err := c.Pins(t.Context()); err != nil || !reflect.DeepEqual(got.Pins, source.pins) {
		t.Errorf("pins: %+v, %v, want %+v", got, err, source.pins)
	}
}

func TestOnlyTheOwnerMayConnect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "for", "it", "admin.sock")
	stop := serve(t, path, newFixed())
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("mode %v, %v, want a socket of mode 0600", info.Mode(), err)
	}
	if list := names(t, filepath.Dir(path)); len(list) != 1 {
		t.Errorf("beside the socket there is something else: %v", list)
	}
	if err := stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if list := names(t, filepath.Dir(path)); len(list) != 0 {
		t.Errorf("after the end there is still %v", list)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := socketPath(t)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false) // as when a daemon is killed
	if stale, err := IsStale(path); stale || !errors.Is(err, ErrInUse) {
		t.Errorf("while it is answered: %v, %v", stale, err)
	}
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	if stale, err := IsStale(path); !stale || err != nil {
		t.Errorf("once it is dead: %v, %v", stale, err)
	}
	serve(t, path, newFixed())
	if _, err := NewClient(path).Status(t.Context()); err != nil {
		t.Error(err)
	}
}

// A start that was killed before its socket had its name leaves it under another.
func TestHalfMadeSocketIsRemoved(t *testing.T) {
	for _, path := range []string{socketPath(t), "/proc/self/cwd/" + strings.Repeat("x", 92)} {
		t.Chdir(t.TempDir())
		config := net.ListenConfig{Control: ownersOnly}
		dead, err := config.Listen(t.Context(), "unix", filepath.Base(unnamed(path)))
		if err != nil {
			t.Fatal(err)
		}
		dead.(*net.UnixListener).SetUnlinkOnClose(false)
		if err := errors.Join(dead.Close(), os.Rename(filepath.Base(unnamed(path)), unnamed(path))); err != nil {
			t.Fatal(err)
		}
		if stale, err := IsStale(path); !stale || err != nil {
			t.Errorf("IsStale: %v, %v", stale, err)
		}
		if removed, err := RemoveStale(path); !removed || err != nil {
			t.Errorf("RemoveStale: %v, %v", removed, err)
		}
		if list := names(t, filepath.Dir(path)); len(list) != 0 {
			t.Errorf("left: %v", list)
		}
	}
}

func TestLiveSocketIsRefusedAndLivesOn(t *testing.T) {
	path := socketPath(t)
	serve(t, path, newFixed())
	_, err := Listen(path, newFixed(), slog.New(slog.DiscardHandler))
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want ErrInUse with the path", err)
	}
	if removed, err := RemoveStale(path); removed || !errors.Is(err, ErrInUse) {
		t.Errorf("RemoveStale: %v, %v", removed, err)
	}
	if _, err := NewClient(path).Status(t.Context()); err != nil {
		t.Errorf("the one that lives: %v", err)
	}
}

func TestWhatIsNoSocketIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	file, full := filepath.Join(dir, "file"), filepath.Join(dir, "full")
	if err := errors.Join(os.WriteFile(file, []byte("precious"), 0o600), os.Mkdir(full, 0o700),
		os.Symlink(file, filepath.Join(dir, "link")), os.Symlink("nowhere", filepath.Join(dir, "dangling"))); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, full, filepath.Join(dir, "link"), filepath.Join(dir, "dangling"), filepath.Join(file, "below")} {
		_, err := Listen(path, newFixed(), slog.New(slog.DiscardHandler))
		if !errors.Is(err, ErrPath) || !strings.Contains(err.Error(), "--admin-socket") {
			t.Errorf("%s: got %v, want ErrPath with the remedy", path, err)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
		t.Errorf("the file holds %q, %v", text, err)
	}
	if list := names(t, dir); len(list) != 4 {
		t.Errorf("something was left: %v", list)
	}
}

func TestUnwritableDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if probe, err := os.MkdirTemp(dir, ""); err == nil {
		t.Skipf("this user may write anywhere, also to %s", probe)
	}
	_, err := Listen(filepath.Join(dir, "admin.sock"), newFixed(), slog.New(slog.DiscardHandler))
	if !errors.Is(err, os.ErrPermission) {
		t.Errorf("got %v, want a missing permission", err)
	}
}

func TestTheLongestPathWorks(t *testing.T) {
	dir := t.TempDir()
	for length := range 2 {
		want := 106 + length // an address has 108 bytes, with its NUL (unix(7))
		path := filepath.Join(dir, strings.Repeat("x", want-len(dir)-len("//s")), "s")
		if len(path) != want {
			t.Fatalf("%d bytes, want %d", len(path), want)
		}
		serve(t, path, newFixed())
		if _, err := NewClient(path).Status(t.Context()); err != nil {
			t.Errorf("%d bytes: %v", want, err)
		}
	}
}

func TestAnotherDaemonsSocketIsNotRemoved(t *testing.T) {
	path := socketPath(t)
	stop := serve(t, path, newFixed())
	if err := os.Remove(path); err != nil { // by an operator, say
		t.Fatal(err)
	}
	serve(t, path, newFixed())
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := NewClient(path).Status(t.Context()); err != nil {
		t.Errorf("the second one: %v", err)
	}
}

func TestAServerThatNeverRanIsClosed(t *testing.T) {
	path := socketPath(t)
	s, err := Listen(path, newFixed(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if list := names(t, filepath.Dir(path)); len(list) != 0 {
		t.Errorf("it left %v", list)
	}
}

func TestWrongRequestsAreRefused(t *testing.T) {
	path := socketPath(t)
	serve(t, path, newFixed())
	huge := strings.Repeat("x", 64<<10)
	for _, c := range []struct {
		request string
		want    int
	}{
		{"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", http.StatusOK},
		{"GET /v1/flows HTTP/1.0\r\n\r\n", http.StatusOK},
		{"GET /v2/status HTTP/1.1\r\nHost: x\r\n\r\n", http.StatusNotFound},
		{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", http.StatusNotFound},
		{"POST /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", http.StatusMethodNotAllowed},
		{"GET /v1/status HTTP/1.1\r\n\r\n", http.StatusBadRequest},
		{"GET /v1/status HTTP/3.7\r\nHost: x\r\n\r\n", http.StatusHTTPVersionNotSupported},
		{"hello\r\n\r\n", http.StatusBadRequest},
		{"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", http.StatusBadRequest}, // TLS
		{"GET /" + huge + " HTTP/1.1\r\nHost: x\r\n\r\n", http.StatusRequestHeaderFieldsTooLarge},
		{"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + huge + "\r\n\r\n", http.StatusRequestHeaderFieldsTooLarge},
	} {
		if got := raw(t, path, c.request); got != c.want {
			t.Errorf("%.40q: answered %d, want %d", c.request, got, c.want)
		}
	}
	if _, err := NewClient(path).Status(t.Context()); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

// raw sends bytes and returns the status of the answer.
func raw(t *testing.T, path, request string) int {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	// A server that refuses may close before it has read everything.
	_, _ = io.WriteString(conn, request)
	minor, status := 0, 0
	if _, err := fmt.Fscanf(conn, "HTTP/1.%d %d", &minor, &status); err != nil {
		t.Errorf("%.40q: no answer: %v", request, err)
	}
	return status
}

// pipeListener hands out one end of in-memory connections, which synctest can
// see waiting.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipeListener() *pipeListener { return &pipeListener{make(chan net.Conn), make(chan struct{})} }

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { close(l.closed); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// dial returns the client's end.
func (l *pipeListener) dial() net.Conn {
	client, server := net.Pipe()
	l.conns <- server
	return client
}

// Somebody who sends nothing, or a byte now and then, is cut off in time: the
// 64 places are not his.
func TestSlowRequestsAreCut(t *testing.T) {
	for name, begin := range map[string]string{"nothing": "", "half a line": "GET /v1/st", "half a head": "GET /v1/status HTTP/1.1\r\nHost: x\r\n"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				listener := newPipeListener()
				server := newServer("", newFixed(), slog.New(slog.DiscardHandler)).http
				ended := make(chan error, 1)
				go func() { ended <- server.Serve(listener) }()
				client := listener.dial()
				if _, err := io.WriteString(client, begin); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				if _, err := io.Copy(io.Discard, client); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took != requestTimeout {
					t.Errorf("cut after %v, want %v", took, requestTimeout)
				}
				if err := server.Close(); err != nil {
					t.Error(err)
				}
				<-ended // http.ErrServerClosed
			})
		})
	}
}

// The 65th client waits until one of the 64 has gone, and is then served.
func TestConnectionsAreBounded(t *testing.T) {
	path, source := socketPath(t), newFixed()
	serve(t, path, source)
	var conns []net.Conn
	for range maxConns {
		conn := dialAndAsk(t, path)
		if !answered(t, conn, time.Now().Add(time.Minute)) {
			t.Fatal("one of the first 64 is not answered")
		}
		conns = append(conns, conn) // kept alive: it holds its place
	}
	late := dialAndAsk(t, path)
	if answered(t, late, time.Now().Add(50*time.Millisecond)) {
		t.Error("the 65th was served beside 64 others")
	}
	if err := conns[0].Close(); err != nil {
		t.Fatal(err)
	}
	if !answered(t, late, time.Now().Add(time.Minute)) {
		t.Error("the 65th was not served when a place was free")
	}
	for _, conn := range append(conns[1:], late) {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

func dialAndAsk(t *testing.T, path string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	return conn
}

func answered(t *testing.T, conn net.Conn, deadline time.Time) bool {
	t.Helper()
	if err := conn.SetReadDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	status := 0
	_, err := fmt.Fscanf(conn, "HTTP/1.1 %d", &status)
	return err == nil && status == http.StatusOK
}

// A stop lets the request under way have its answer, and Run waits for it.
func TestStopWaitsForTheRequestUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener, source, end, ended := startHeld(t)
		client := listener.dial()
		told := ask(client)
		<-source.asked
		end()
		synctest.Wait()
		select {
		case <-ended:
			t.Fatal("Run returned while a request was being answered")
		default:
		}
		close(source.held)
		if answer := <-told; !strings.HasPrefix(answer, "HTTP/1.1 200") || !strings.Contains(answer, `"version":"1.2.3"`) {
			t.Errorf("the request under way was told %q", answer)
		}
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// One that takes longer than a second is cut off, and waited for all the same.
func TestStopCutsWhoTakesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener, source, end, ended := startHeld(t)
		told := ask(listener.dial())
		<-source.asked
		began := time.Now()
		end()
		if answer := <-told; answer != "" {
			t.Errorf("told %q, want to be cut off", answer)
		}
		if took := time.Since(began); took < shutdownTimeout || took > 2*shutdownTimeout {
			t.Errorf("cut after %v, want %v", took, shutdownTimeout)
		}
		synctest.Wait()
		select {
		case <-ended:
			t.Fatal("Run returned while a request was being answered")
		default:
		}
		close(source.held)
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// startHeld runs a Server on pipes whose Status waits.
func startHeld(t *testing.T) (l *pipeListener, source *fixed, end func(), ended chan error) {
	source = newFixed()
	source.asked, source.held = make(chan struct{}), make(chan struct{})
	l = newPipeListener()
	s := newServer(filepath.Join(t.TempDir(), "none"), source, slog.New(slog.DiscardHandler))
	s.listener = netutil.LimitListener(l, maxConns)
	ctx, cancel := context.WithCancel(context.Background())
	ended = make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return l, source, cancel, ended
}

// ask sends a request and returns all that is answered until the end.
func ask(client net.Conn) <-chan string {
	told := make(chan string, 1)
	go func() {
		// The end of the connection is what is waited for, however it comes.
		_, _ = io.WriteString(client, "GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		answer, _ := io.ReadAll(client)
		told <- string(answer)
	}()
	return told
}

// 10,000 flows, 3 MB, go through, to a client that reads, and do not keep the server
// from its end for one that does not.
func TestManyFlows(t *testing.T) {
	path, source := socketPath(t), newFixed()
	one := source.flows[0]
	source.flows = make([]nat.FlowInfo, 10_000)
	for i := range source.flows {
		source.flows[i] = one
		source.flows[i].ID = uint64(i)
	}
	stop := serve(t, path, source)
	got, err := NewClient(path).Flows(t.Context())
	if err != nil || len(got.Flows) != len(source.flows) || got.Flows[9_999].ID != 9_999 {
		t.Errorf("%d flows, %v", len(got.Flows), err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "GET /v1/flows HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if !answered(t, conn, time.Now().Add(time.Minute)) { // and reads no further
		t.Fatal("no answer begins")
	}
	if err := stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

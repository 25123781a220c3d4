package admin

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
)

// once answers one connection on a real socket with what talk does.
func once(t *testing.T, path string, talk func(net.Conn)) {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := listener.Accept()
		if err != nil {
			return // nobody came, and the test says so
		}
		talk(conn)
		_ = conn.Close() // the client may have closed it first
	}()
	t.Cleanup(func() { _ = listener.Close(); <-ended })
}

// readHead reads the request, so that what follows meets a client that waits.
func readHead(conn net.Conn) {
	buf := make([]byte, 4096)
	for head := ""; !strings.Contains(head, "\r\n\r\n"); {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		head += string(buf[:n])
	}
}

func TestClientSaysWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		talk func(net.Conn)
		is   error
		want string
	}{
		"it ends before it answers": {readHead, ErrNotRunning, "it ended while it was asked"},
		"it ends amid the answer": {func(c net.Conn) {
			readHead(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"flows\":[")
		}, ErrNotRunning, "it ended while it was asked"},
		"it does not know the question": {func(c net.Conn) {
			readHead(c)
			_, _ = io.WriteString(c, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
		}, nil, "404 Not Found to /v1/flows: is it another version of aarptun?"},
		"it answers something else": {func(c net.Conn) {
			readHead(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{\"flows\":\"no\"}")
		}, nil, "gives a wrong answer to /v1/flows"},
		"it is no HTTP server": {func(c net.Conn) {
			readHead(c)
			_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_10.0\r\n")
		}, nil, "malformed HTTP"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			once(t, path, c.talk)
			_, err := NewClient(path).Flows(t.Context())
			if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if c.is == nil && errors.Is(err, ErrNotRunning) {
				t.Errorf("%v: something does run", err)
			}
		})
	}
}

func TestClientWithoutDaemon(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "nothing"), filepath.Join(dir, "no", "directory"), file, filepath.Join(file, "below"), dir} {
		if _, err := NewClient(path).Pins(t.Context()); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "aarptun run") {
			t.Errorf("%s: got %v, want ErrNotRunning with the remedy", path, err)
		}
	}
}

func TestClientGivesUpInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		c := NewClient("/stuck")
		c.http.Transport = transport(func(context.Context, string, string) (net.Conn, error) { return client, nil })
		go readHead(server) // and says nothing
		_, err := c.Status(t.Context())
		if !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "within 10s") {
			t.Errorf("got %v", err)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestClientStopsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ctx, cancel := context.WithCancel(t.Context())
	once(t, path, func(c net.Conn) {
		readHead(c)
		cancel()
		readHead(c) // until the client has gone
	})
	if _, err := NewClient(path).Status(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, ErrNotRunning) {
		t.Errorf("got %v, want the context's error", err)
	}
}

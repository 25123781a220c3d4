package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/net/netutil"

	"aarptun/nat"
)

// ErrInUse says that another daemon listens on the socket.
var ErrInUse = errors.New("admin: the socket is in use by another aarptun")

const (
	// socketMode lets only the owner in: flows name who talks to whom.
	socketMode = 0o600
	dirMode    = 0o755

	// A client that is slower than this has gone, or means harm.
	requestTimeout = 10 * time.Second
	maxHeader      = 16 << 10
	maxConns       = 64 // the next client waits in the kernel's queue
)

// Source is where the answers come from.
type Source interface {
	Status() Status
	Flows() []nat.FlowInfo
	Pins() []Pin
}

// Server answers on one unix socket.
type Server struct {
	listener *net.UnixListener
	http     *http.Server
	path     string
}

// Listen opens the socket at path, an absolute path, and makes its directory
// if there is none. A socket that a dead daemon left is replaced; one that is
// answered is [ErrInUse]; anything else at path is left alone and is an error.
func Listen(path string, source Source, log *slog.Logger) (*Server, error) {
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	if _, err := RemoveStale(path); err != nil {
		return nil, err
	}
	// The socket is made in a directory of ours and shows up under its name
	// only when its mode is right, so that there is no moment in which others
	// could connect.
	private, err := os.MkdirTemp(filepath.Dir(path), ".admin-")
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	defer os.RemoveAll(private) //nolint:errcheck // only an empty directory is left, and the next start makes its own
	listener, err := listenAt(filepath.Join(private, "s"), path)
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	s := &Server{listener: listener, path: path}
	s.http = &http.Server{
		Handler:           handler(source),
		ReadHeaderTimeout: requestTimeout, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

func listenAt(private, path string) (*net.UnixListener, error) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: private, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false) // it will have moved
	if err := os.Chmod(private, socketMode); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	if err := os.Rename(private, path); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// RemoveStale removes the socket of a daemon that is dead, and reports whether
// there was one. A socket that is answered is [ErrInUse].
func RemoveStale(path string) (removed bool, err error) {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("admin: %w", err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return false, fmt.Errorf("admin: %s exists and is not a socket: choose another path with --admin-socket", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		return false, errors.Join(fmt.Errorf("%w: %s: choose another path with --admin-socket", ErrInUse, path), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return false, fmt.Errorf("admin: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("admin: %w", err)
	}
	return true, nil
}

// Run answers until ctx ends; then it closes the socket, removes it, and
// returns when no request is being answered any more.
func (s *Server) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- s.http.Serve(netutil.LimitListener(s.listener, maxConns)) }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		// The deadline of a request bounds how long this takes; a second is
		// long for an answer from memory.
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if s.http.Shutdown(stop) != nil {
			err = s.http.Close()
		}
		<-ended
	}
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, s.remove())
}

// Close ends a server that was never run.
func (s *Server) Close() error { return errors.Join(s.listener.Close(), s.remove()) }

func (s *Server) remove() error {
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("admin: %w", err)
	}
	return nil
}

func handler(source Source) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { answer(w, source.Status()) })
	mux.HandleFunc("GET /v1/flows", func(w http.ResponseWriter, _ *http.Request) { answer(w, Flows{source.Flows()}) })
	mux.HandleFunc("GET /v1/pins", func(w http.ResponseWriter, _ *http.Request) { answer(w, Pins{source.Pins()}) })
	return mux
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	// An error here means that the client has gone, and it is the only one
	// who could be told.
	_ = json.NewEncoder(w).Encode(v)
}

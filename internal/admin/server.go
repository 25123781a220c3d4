package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/netutil"

	"aarptun/nat"
)

var (
	// ErrInUse says that another daemon listens on the socket.
	ErrInUse = errors.New("admin: the socket is in use by another aarptun")
	// ErrPath says that there can be no socket at the path that was asked for.
	// It also wraps the kernel's error, if that is why.
	ErrPath = errors.New("admin: wrong path for the socket")
)

const (
	// socketMode lets only the owner in: flows name who talks to whom.
	socketMode = 0o600
	dirMode    = 0o755

	// A client that is slower than this has gone, or means harm.
	requestTimeout  = 10 * time.Second
	shutdownTimeout = time.Second
	maxHeader       = 16 << 10
	maxConns        = 64 // the next client waits in the kernel's queue
)

// Source is where the answers come from.
type Source interface {
	Status() Status
	Flows() []nat.FlowInfo
	Pins() []Pin
	// Flush forgets the pins of an AA, or all if it is the zero Addr; with cut it
	// also ends the flows to it that the kernel carries.
	Flush(anycast netip.Addr, cut bool) (Flushed, error)
}

// Server answers on one unix socket.
type Server struct {
	listener net.Listener
	socket   os.FileInfo // tells our socket from another's at the same path
	http     *http.Server
	path     string
	conns    sync.WaitGroup // connections that are being served
}

// Listen opens the socket at path, an absolute path, and makes its directory
// if there is none. A socket that a dead daemon left is replaced; one that is
// answered is [ErrInUse]; anything else at path is left alone and is
// [ErrPath].
func Listen(path string, source Source, log *slog.Logger) (*Server, error) {
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return nil, wrongPath(err)
	}
	if _, err := RemoveStale(path); err != nil {
		return nil, err
	}
	s := newServer(path, source, log)
	if err := s.listen(); err != nil {
		return nil, wrongPath(err)
	}
	return s, nil
}

func newServer(path string, source Source, log *slog.Logger) *Server {
	s := &Server{path: path}
	s.http = &http.Server{
		Handler:           handler(source),
		ReadHeaderTimeout: requestTimeout, ReadTimeout: requestTimeout,
		// The time to write runs from the end of the head, and net/http waits for the
		// rest of a request before it answers: twice the time, or who never sends
		// that rest gets half an answer.
		WriteTimeout:   2 * requestTimeout,
		MaxHeaderBytes: maxHeader,
		ConnState:      s.follow,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s
}

func wrongPath(err error) error {
	return fmt.Errorf("%w: %w: choose another with --admin-socket", ErrPath, err)
}

// listen makes the socket under another name, and gives it its own when it listens
// and only the owner can connect, so that there is no moment in which others could,
// or in which somebody takes it for a dead one.
func (s *Server) listen() error {
	// The other name's path might not fit into an address (unix(7), 107 bytes), so
	// the directory is named by its descriptor.
	dir, err := os.Open(filepath.Dir(s.path))
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // nothing was written
	made := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(unnamed(s.path)))
	config := net.ListenConfig{Control: ownersOnly}
	opened, err := config.Listen(context.Background(), "unix", made) // it does not wait
	if err != nil {
		return err
	}
	listener := opened.(*net.UnixListener)
	listener.SetUnlinkOnClose(false) // it will have moved
	if err := os.Rename(made, s.path); err != nil {
		return errors.Join(err, listener.Close(), os.Remove(made))
	}
	if s.socket, err = os.Lstat(s.path); err != nil {
		return errors.Join(err, listener.Close())
	}
	s.listener = netutil.LimitListener(listener, maxConns)
	return nil
}

// unnamed is where the socket of path is before it has its name. It is left there
// if its owner is killed at that moment.
func unnamed(path string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(filepath.Base(path))) // never fails
	return filepath.Join(filepath.Dir(path), fmt.Sprintf(".admin-%08x", h.Sum32()))
}

// ownersOnly sets the mode that the socket will have in the file system: bind(2)
// takes it over from the socket itself.
func ownersOnly(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) { failed = syscall.Fchmod(int(fd), socketMode) })
	return errors.Join(err, failed)
}

// follow counts the connections. A new one is reported by the goroutine that
// accepts, so none comes once that has ended.
func (s *Server) follow(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.conns.Add(1)
	case http.StateClosed:
		s.conns.Done()
	}
}

// RemoveStale removes the socket of a daemon that is dead, and reports whether
// there was one. A socket that is answered is [ErrInUse].
func RemoveStale(path string) (removed bool, err error) {
	for _, name := range []string{path, unnamed(path)} {
		stale, err := isStale(name)
		if err != nil {
			return removed, err
		}
		if !stale {
			continue
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return removed, fmt.Errorf("admin: %w", err)
		}
		removed = true
	}
	return removed, nil
}

// IsStale reports whether there is the socket of a daemon that is dead. A
// socket that is answered is [ErrInUse], and anything else [ErrPath].
func IsStale(path string) (bool, error) {
	stale, err := isStale(path)
	if err != nil || stale {
		return stale, err
	}
	return isStale(unnamed(path))
}

func isStale(path string) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, wrongPath(err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return false, wrongPath(fmt.Errorf("%s exists and is not a socket", path))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return false, wrongPath(err)
	}
	defer dir.Close() //nolint:errcheck // nothing was written
	if len(path) > maxAddress {
		path = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		return false, errors.Join(fmt.Errorf("%w: %s: choose another path with --admin-socket", ErrInUse, path), conn.Close())
	}
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // it has just been removed
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return false, fmt.Errorf("admin: %w", err)
	}
	return true, nil
}

// maxAddress is how long the path in an address may be (unix(7)).
const maxAddress = 107

// Run answers until ctx ends; then it closes the socket, removes it, and
// returns when no request is being answered any more.
func (s *Server) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- s.http.Serve(s.listener) }()
	var err error
	select {
	case err = <-ended:
		err = errors.Join(err, s.http.Close())
	case <-ctx.Done():
		// A second is long for an answer from memory; who has not read his by
		// then is cut off.
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if s.http.Shutdown(stop) != nil {
			err = s.http.Close()
		}
		<-ended // http.ErrServerClosed
	}
	s.conns.Wait()
	return errors.Join(err, s.remove())
}

// Close ends a server that was never run.
func (s *Server) Close() error { return errors.Join(s.listener.Close(), s.remove()) }

// remove takes the socket away, unless another daemon has put its own there.
func (s *Server) remove() error {
	if info, err := os.Lstat(s.path); err != nil || !os.SameFile(info, s.socket) {
		return nil
	}
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("admin: %w", err)
	}
	return nil
}

func handler(source Source) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { answer(w, source.Status()) })
	mux.HandleFunc("GET /v1/flows", func(w http.ResponseWriter, r *http.Request) {
		query, err := parseQuery(r.URL.Query())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer(w, query.pick(source.Flows()))
	})
	mux.HandleFunc("POST /v1/flush", func(w http.ResponseWriter, r *http.Request) { flush(w, r, source) })
	mux.HandleFunc("GET /v1/members", func(w http.ResponseWriter, _ *http.Request) { answer(w, members(source.Flows(), source.Pins())) })
	mux.HandleFunc("GET /v1/pins", func(w http.ResponseWriter, _ *http.Request) { answer(w, Pins{source.Pins()}) })
	return mux
}

// flush does what the query asks for: anycast=AA, or all, and cut=true.
func flush(w http.ResponseWriter, r *http.Request, source Source) {
	query := r.URL.Query()
	var aa netip.Addr
	if text := query.Get("anycast"); text != "" {
		var err error
		if aa, err = netip.ParseAddr(text); err != nil {
			http.Error(w, fmt.Sprintf("anycast %q is not an IP address", text), http.StatusBadRequest)
			return
		}
	}
	cut := query.Get("cut")
	if cut != "" && cut != "true" && cut != "false" {
		http.Error(w, fmt.Sprintf("cut %q: it must be true or false", cut), http.StatusBadRequest)
		return
	}
	flushed, err := source.Flush(aa, cut == "true")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, flushed)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	// An error here means that the client has gone, and it is the only one
	// who could be told.
	_ = json.NewEncoder(w).Encode(v)
}

package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
)

// ErrListen says that the address cannot be listened on.
var ErrListen = errors.New("metrics: cannot listen")

const (
	// A client that is slower than this has gone, or means harm.
	requestTimeout  = 10 * time.Second
	idleTimeout     = 2 * time.Minute // Prometheus keeps its connection from scrape to scrape
	shutdownTimeout = time.Second
	maxHeader       = 8 << 10
	maxConns        = 16 // the next client waits in the kernel's queue
	maxScrapes      = 4  // at once; the next is told 503

	// socketMode lets the group in: who scrapes is seldom who runs aarptun, and
	// a setgid directory gives the socket its group.
	socketMode = 0o660
)

// Server answers GET /metrics.
type Server struct {
	listener net.Listener
	http     *http.Server
	conns    sync.WaitGroup // connections that are being served
}

// Listen opens address: "HOST:PORT", or the absolute path of a unix socket, which
// may be there if nobody answers on it. If it cannot, the error is an [ErrListen].
func Listen(address string, source Source, version string, log *slog.Logger) (*Server, error) {
	listen := func() (net.Listener, error) { return net.Listen("tcp", address) }
	if filepath.IsAbs(address) {
		listen = func() (net.Listener, error) { return listenUnix(address) }
	}
	listener, err := listen()
	if err != nil {
		var outer *net.OpError
		if errors.As(err, &outer) {
			err = outer.Err // it repeats the address
		}
		return nil, fmt.Errorf("%w on %s: %w: choose another with --metrics-listen", ErrListen, address, err)
	}
	s := &Server{listener: netutil.LimitListener(listener, maxConns)}
	s.http = &http.Server{
		Handler:           handler(source, version, log),
		ReadHeaderTimeout: requestTimeout, ReadTimeout: requestTimeout, IdleTimeout: idleTimeout,
		WriteTimeout:   2 * requestTimeout, // it runs while the rest of a request is waited for
		MaxHeaderBytes: maxHeader,
		ConnState:      s.follow,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// listenUnix opens a socket, in place of one that a dead daemon has left. Go
// removes it when the listener is closed.
func listenUnix(path string) (net.Listener, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != os.ModeSocket:
		return nil, errors.New("there is a file that is no socket")
	default:
		conn, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			return nil, errors.Join(syscall.EADDRINUSE, conn.Close())
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, err
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
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

// Addr is where the Server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Run answers until ctx ends, and returns when no request is being answered any
// more.
func (s *Server) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- s.http.Serve(s.listener) }()
	defer s.conns.Wait()
	select {
	case err := <-ended:
		return errors.Join(err, s.http.Close())
	case <-ctx.Done():
	}
	// A second is long for an answer from memory.
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	var err error
	if s.http.Shutdown(stop) != nil {
		err = s.http.Close()
	}
	<-ended // http.ErrServerClosed
	return err
}

// Close ends a server that was never run.
func (s *Server) Close() error { return s.listener.Close() }

func handler(source Source, version string, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(newRegistry(source, version), promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes, EnableOpenMetrics: true,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}))
	return mux
}

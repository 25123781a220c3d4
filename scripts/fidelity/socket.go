package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// table holds the sockets of one host and carries out calls on them.
type table struct {
	mu      sync.Mutex
	sockets map[int]*socket
	last    int
}

func newTable() *table { return &table{sockets: map[int]*socket{}} }

// socket is a file descriptor that never blocks: each operation waits by itself.
type socket struct {
	fd int
	v6 bool
}

func (t *table) add(s *socket) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	t.sockets[t.last] = s
	return t.last
}

func (t *table) get(id int) *socket {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sockets[id]
}

func (t *table) remove(id int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.sockets, id)
}

// closeAll ends what a situation left open.
func (t *table) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, s := range t.sockets {
		_ = unix.Close(s.fd) // there is nobody left to tell
		delete(t.sockets, id)
	}
}

// do implements [host].
func (t *table) do(c Call) Result {
	begin := time.Now()
	r := t.dispatch(c)
	r.Took = time.Since(begin)
	return r
}

func (t *table) dispatch(c Call) Result {
	if c.Op == "socket" {
		s, err := newSocket(c)
		if err != nil {
			return failed(err)
		}
		return Result{Socket: t.add(s)}
	}
	s := t.get(c.Socket)
	if s == nil {
		return Result{Errno: unix.EBADF}
	}
	switch c.Op {
	case "accept":
		return t.accept(s, c)
	case "close":
		t.remove(c.Socket)
		return failed(unix.Close(s.fd))
	case "reset":
		t.remove(c.Socket)
		// A linger time of zero makes close send RST (socket(7) SO_LINGER).
		if err := unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return failed(err)
		}
		return failed(unix.Close(s.fd))
	case "send":
		return s.send(c)
	case "recv":
		return s.recv(c)
	case "queued":
		return s.queued(c)
	case "sendmsg":
		return s.sendmsg(c)
	case "recvmsg":
		return s.recvmsg(c)
	case "errors":
		return s.errors(c)
	}
	return s.simple(c)
}

// simple are the operations of one system call.
func (s *socket) simple(c Call) Result {
	switch c.Op {
	case "bind":
		return failed(unix.Bind(s.fd, s.sockaddr(c.Addr)))
	case "listen":
		return failed(unix.Listen(s.fd, c.N))
	case "connect":
		return s.connect(c)
	case "disconnect": // sends RST and leaves a socket that is not connected
		return failed(disconnect(s.fd))
	case "names":
		return s.names()
	case "shutdown":
		return failed(unix.Shutdown(s.fd, unix.SHUT_WR))
	case "setopt":
		return failed(unix.SetsockoptInt(s.fd, c.Level, c.Option, c.N))
	case "setbytes":
		return failed(unix.SetsockoptString(s.fd, c.Level, c.Option, string(c.Data)))
	case "getopt":
		n, err := unix.GetsockoptInt(s.fd, c.Level, c.Option)
		r := failed(err)
		r.N = n
		return r
	case "class":
		return s.flowClass()
	case "atmark":
		n, err := unix.IoctlGetInt(s.fd, unix.SIOCATMARK)
		r := failed(err)
		r.N = n
		return r
	case "poll":
		events, ok := s.poll(int16(c.N), c.Wait)
		return Result{Events: events, Late: !ok}
	}
	return Result{Errno: unix.ENOSYS}
}

// failed is the result of an operation that only can fail.
func failed(err error) Result {
	var errno syscall.Errno
	if err != nil && !errors.As(err, &errno) {
		errno = unix.EIO
	}
	return Result{Errno: errno}
}

func newSocket(c Call) (*socket, error) {
	family := unix.AF_INET
	if c.V6 {
		family = unix.AF_INET6
	}
	kind, proto := unix.SOCK_RAW, 0
	switch c.Kind {
	case "tcp":
		kind = unix.SOCK_STREAM
	case "mptcp":
		kind, proto = unix.SOCK_STREAM, unix.IPPROTO_MPTCP
	case "udp":
		kind = unix.SOCK_DGRAM
	case "icmp", "ping":
		proto = unix.IPPROTO_ICMP
		if c.V6 {
			proto = unix.IPPROTO_ICMPV6
		}
		if c.Kind == "ping" {
			kind = unix.SOCK_DGRAM
		}
	default:
		n, err := strconv.Atoi(c.Kind)
		if err != nil {
			return nil, err
		}
		proto = n
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	return &socket{fd, c.V6}, err
}

func (s *socket) sockaddr(a netip.AddrPort) unix.Sockaddr {
	if s.v6 {
		return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// poll waits for events; errors are always waited for.
func (s *socket) poll(events int16, wait time.Duration) (int16, bool) {
	until := time.Now().Add(wait)
	for {
		fds := []unix.PollFd{{Fd: int32(s.fd), Events: events}}
		left := time.Until(until)
		n, err := unix.Poll(fds, max(0, int(left/time.Millisecond)))
		if n > 0 {
			return fds[0].Revents, true
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if left <= 0 || err != nil {
			return 0, false
		}
	}
}

func (s *socket) connect(c Call) Result {
	err := unix.Connect(s.fd, s.sockaddr(c.Addr))
	if !errors.Is(err, unix.EINPROGRESS) {
		return failed(err)
	}
	// An entry of the error queue wakes poll too, before the socket has failed.
	for until := time.Now().Add(c.Wait); ; time.Sleep(time.Millisecond) {
		events, ok := s.poll(unix.POLLOUT, time.Until(until))
		if !ok || time.Now().After(until) {
			return Result{Late: true}
		}
		if events&(unix.POLLOUT|unix.POLLHUP) != 0 {
			break
		}
	}
	errno, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return failed(err)
	}
	return Result{Errno: syscall.Errno(errno)}
}

func disconnect(fd int) error {
	// x/sys has no AF_UNSPEC address.
	raw := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	return rawConnect(fd, &raw)
}

func (t *table) accept(s *socket, c Call) Result {
	if _, ok := s.poll(unix.POLLIN, c.Wait); !ok {
		return Result{Late: true}
	}
	fd, sa, err := unix.Accept4(s.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		return failed(err)
	}
	return Result{Socket: t.add(&socket{fd, s.v6}), Addr: addrPort(sa)}
}

func (s *socket) names() Result {
	local, err := unix.Getsockname(s.fd)
	if err != nil {
		return failed(err)
	}
	r := Result{Local: addrPort(local)}
	peer, err := unix.Getpeername(s.fd)
	if err == nil {
		r.Addr = addrPort(peer)
	}
	r.Errno = failed(err).Errno
	return r
}

// pattern is a stream of bytes, the same for the same seed.
func pattern(seed string) *rand.ChaCha8 {
	var key [32]byte
	copy(key[:], seed)
	return rand.NewChaCha8(key)
}

// sum is a short form of a hash: enough to see that bytes differ.
func sum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)[:4]) }

func sumOf(b []byte) string {
	h := sha256.New()
	_, _ = h.Write(b) // never fails
	return sum(h)
}

// send moves a stream out, and stops when nothing has been taken for Wait.
func (s *socket) send(c Call) (r Result) {
	stream, h := pattern(c.Seed), sha256.New()
	buf, pending := make([]byte, 64<<10), []byte{}
	for r.N < c.N {
		if len(pending) == 0 {
			pending = buf[:min(len(buf), c.N-r.N)]
			_, _ = stream.Read(pending) // never fails
		}
		n, err := unix.SendmsgN(s.fd, pending, nil, nil, unix.MSG_NOSIGNAL|c.Flags)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if _, ok := s.poll(unix.POLLOUT, c.Wait); !ok {
				r.Late = true
			}
		case err != nil:
			r.Errno = failed(err).Errno
		default:
			_, _ = h.Write(pending[:n]) // never fails
			r.N += n
			pending = pending[n:]
		}
		if r.Late || r.Errno != 0 {
			break
		}
	}
	r.Sum = sum(h)
	return r
}

// recv moves a stream in, and stops when nothing has come for Wait.
func (s *socket) recv(c Call) (r Result) {
	h := sha256.New()
	buf := make([]byte, 64<<10)
	for r.N < c.N {
		n, _, err := unix.Recvfrom(s.fd, buf[:min(len(buf), c.N-r.N)], c.Flags)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if _, ok := s.poll(unix.POLLIN, c.Wait); !ok {
				r.Late = true
			}
		case err != nil:
			r.Errno = failed(err).Errno
		case n == 0:
			r.EOF = true
		default:
			_, _ = h.Write(buf[:n]) // never fails
			r.N += n
			if c.Slow > 0 {
				time.Sleep(c.Slow) // a reader that is slow is what is wanted
			}
		}
		if r.Late || r.EOF || r.Errno != 0 {
			break
		}
	}
	r.Sum = sum(h)
	return r
}

// queued waits until at least N bytes can be read and returns how many can.
func (s *socket) queued(c Call) Result {
	until := time.Now().Add(c.Wait)
	for {
		n, err := unix.IoctlGetInt(s.fd, unix.SIOCINQ)
		if err != nil {
			return failed(err)
		}
		if n >= c.N || time.Now().After(until) {
			return Result{N: n, Late: n < c.N}
		}
		time.Sleep(5 * time.Millisecond) // no event says how much is there
	}
}

package main

import (
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// The member's ports.
const (
	portSink   = 7001 // takes chunks, and then says how much that was
	portSource = 7002 // sends chunks for as long as it is asked to
	portEcho   = 7003 // and the three after it
	portUDP    = 7010 // counts datagrams by session
	portCount  = 7011 // says how many of a session came, and when
	echoPorts  = 4
)

// probe is the first byte of a datagram that is answered and not counted; all
// others begin with 0.
const probe = 1

// datagramHeader is probe or 0, and then the session.
const datagramHeader = 16

func memberCommand(args []string) (int, error) {
	flags := flag.NewFlagSet("member", flag.ExitOnError)
	_ = flags.Parse(args) // it exits
	failed := make(chan error, 8)
	serve := func(port int, handle func(*net.TCPConn) error) {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{Port: port})
		if err != nil {
			failed <- err
			return
		}
		go func() { failed <- acceptAll(l, handle) }()
	}
	counts := newCounter()
	serve(portSink, sink)
	serve(portSource, source)
	for n := range echoPorts {
		serve(portEcho+n, echo)
	}
	serve(portCount, counts.tell)
	udp, err := net.ListenUDP("udp", &net.UDPAddr{Port: portUDP})
	if err != nil {
		return 1, err
	}
	forceReceiveBuffer(udp, 8<<20)
	go func() { failed <- counts.count(udp) }()
	select {
	case err := <-failed:
		return 1, err
	default:
	}
	fmt.Println("serving")
	return 1, <-failed
}

func acceptAll(l *net.TCPListener, handle func(*net.TCPConn) error) error {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return err
		}
		go func() {
			_ = handle(c) // the client sees what went wrong by what it does not get
			_ = c.Close()
		}()
	}
}

func sink(c *net.TCPConn) error {
	total, err := takeChunks(c)
	if err != nil {
		return err
	}
	_, err = c.Write(binary.BigEndian.AppendUint64(nil, total))
	return err
}

func source(c *net.TCPConn) error {
	var asked [8]byte
	if _, err := io.ReadFull(c, asked[:]); err != nil {
		return err
	}
	d := min(time.Duration(binary.BigEndian.Uint64(asked[:])), time.Minute)
	if err := c.SetDeadline(time.Now().Add(d + grace)); err != nil {
		return err
	}
	_, err := sendChunks(c, d)
	return err
}

// echo has a small buffer: 100,000 of it may be open.
func echo(c *net.TCPConn) error {
	buf := make([]byte, 64)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return err
		}
	}
}

// counter counts datagrams by session.
type counter struct {
	mu       sync.Mutex
	sessions map[uint64]*arrivals
}

// arrivals is what came of a session.
type arrivals struct {
	n           uint64
	first, last time.Time
}

func newCounter() *counter { return &counter{sessions: map[uint64]*arrivals{}} }

func (k *counter) count(udp *net.UDPConn) error {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return err
		}
		if n < datagramHeader {
			continue
		}
		if buf[0] == probe {
			_, _ = udp.WriteToUDPAddrPort(buf[:n], from) // who asks, asks again
			continue
		}
		k.add(binary.BigEndian.Uint64(buf[8:]))
	}
}

func (k *counter) add(session uint64) {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.sessions[session]
	if s == nil {
		if len(k.sessions) >= 64 {
			clear(k.sessions) // one is measured at a time: the others are over
		}
		s = &arrivals{first: now}
		k.sessions[session] = s
	}
	s.n++
	s.last = now
}

// tell answers questions about sessions: how many, and nanoseconds between the
// first and the last.
func (k *counter) tell(c *net.TCPConn) error {
	for {
		var session [8]byte
		if _, err := io.ReadFull(c, session[:]); err != nil {
			return err
		}
		var answer [16]byte
		k.mu.Lock()
		if s := k.sessions[binary.BigEndian.Uint64(session[:])]; s != nil {
			binary.BigEndian.PutUint64(answer[:], s.n)
			binary.BigEndian.PutUint64(answer[8:], uint64(s.last.Sub(s.first)))
		}
		k.mu.Unlock()
		if _, err := c.Write(answer[:]); err != nil {
			return err
		}
	}
}

// forceReceiveBuffer makes the buffer larger than the host's limit where that is
// allowed; elsewhere as large as it may be.
func forceReceiveBuffer(c *net.UDPConn, size int) {
	_ = c.SetReadBuffer(size) // the smaller one is the same for all variants
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUFFORCE, size)
	})
}

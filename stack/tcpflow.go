package stack

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"aarptun/nat"
)

// tcpConn is the inside half of an established flow.
//
// Bytes go straight between the socket of the member and the memory of the
// endpoint, in both directions. That is safe because neither outlives the call in
// which it is used: what the client has sent is written to the socket, without
// waiting, while the endpoint is locked, and only a holder of that lock gives
// the memory of its receive queue back (Endpoint.Read, and the purges on Close,
// Abort and RST); what the member has sent is read into memory that the endpoint
// does not know of before it is full. So no flow ever sends, or is sent, what
// another has left in a buffer.
type tcpConn struct {
	endpoint tcpip.Endpoint
	queue    *waiter.Queue
	entry    waiter.Entry
	closed   bool

	move moveTo
	take takeFrom
}

const (
	// gatherBelow is the size of a piece below which it is copied to its
	// neighbours: a system call for each would cost more.
	gatherBelow = 16 << 10

	// gatherRoom is how much is copied together.
	gatherRoom = 64 << 10
)

var gatherPool = sync.Pool{New: func() any { return new([gatherRoom]byte) }}

// Watch implements [nat.Leg]. notify is called by netstack, with the endpoint
// locked.
func (c *tcpConn) Watch(notify func(free bool)) {
	const events = waiter.ReadableEvents | waiter.WritableEvents | waiter.EventHUp | waiter.EventErr
	c.entry = waiter.NewFunctionEntry(events, func(waiter.EventMask) { notify(false) })
	c.queue.EventRegister(&c.entry)
}

// MoveTo implements [nat.InsideTCP]. Large pieces of what was received are
// written from where they lie; small ones are copied together, and taken out of
// the queue when they have been written.
func (c *tcpConn) MoveTo(w nat.TryWriter) error {
	for {
		c.move = moveTo{w: w}
		_, err := c.endpoint.Read(&c.move, tcpip.ReadOptions{})
		c.taken(c.move.n)
		if c.move.small {
			var more bool
			if more, c.move.failed = c.moveSmall(w); more {
				continue
			}
		}
		switch {
		case c.move.failed != nil:
			return c.move.failed
		case c.move.small || c.move.full:
			return nil
		}
		switch err.(type) {
		case nil: // what is behind it, if only a FIN?
		case *tcpip.ErrWouldBlock:
			return nil
		case *tcpip.ErrClosedForReceive:
			return io.EOF
		default:
			return fmt.Errorf("stack: read: %w", errnoOf(err))
		}
	}
}

// taken lets the receive buffer grow with what is taken.
func (c *tcpConn) taken(n int) {
	if n == 0 {
		return
	}
	if endpoint, ok := c.endpoint.(*tcp.Endpoint); ok {
		endpoint.ModerateRecvBuf(n)
	}
}

// moveSmall writes the small pieces at the front of the receive queue; more says
// that all of them were written.
func (c *tcpConn) moveSmall(w nat.TryWriter) (more bool, err error) {
	room := gatherPool.Get().(*[gatherRoom]byte)
	defer gatherPool.Put(room)
	g := gather{room: room[:0]}
	if _, err := c.endpoint.Read(&g, tcpip.ReadOptions{Peek: true}); err != nil || len(g.room) == 0 {
		return false, nil // it has been reset since, and whoever reads next is told
	}
	n, err := w.TryWrite(g.room)
	if n > 0 {
		d := discard(n)
		if _, failed := c.endpoint.Read(&d, tcpip.ReadOptions{}); d != 0 {
			// It has been reset since. Whatever it is, no byte goes twice.
			return false, fmt.Errorf("stack: %d bytes are gone that were written: %v: %w", int(d), failed, syscall.ECONNABORTED)
		}
		c.taken(n)
	}
	return err == nil && n == len(g.room), err
}

var errStop = errors.New("stack: no more for now") // told to netstack, and to nobody else

// moveTo writes large pieces of a receive queue, while it is locked.
type moveTo struct {
	w      nat.TryWriter
	n      int
	small  bool // the next piece is small
	full   bool // w would have to wait
	failed error
}

// Write implements [io.Writer].
func (m *moveTo) Write(b []byte) (n int, err error) {
	if len(b) < gatherBelow {
		m.small = true
		return 0, errStop
	}
	n, m.failed = m.w.TryWrite(b)
	m.n += n
	if n < len(b) {
		m.full = true
		return n, errStop
	}
	return n, nil
}

// gather copies small pieces.
type gather struct{ room []byte }

// Write implements [io.Writer].
func (g *gather) Write(b []byte) (int, error) {
	if len(b) >= gatherBelow || len(g.room)+len(b) > cap(g.room) {
		return 0, errStop
	}
	g.room = append(g.room, b...)
	return len(b), nil
}

// discard takes so many bytes.
type discard int

// Write implements [io.Writer].
func (d *discard) Write(b []byte) (int, error) {
	n := min(len(b), int(*d))
	*d -= discard(n)
	if n < len(b) {
		return n, errStop
	}
	return n, nil
}

// takeFrom is a [tcpip.Payloader] of n bytes that r has.
type takeFrom struct {
	r io.Reader
	n int
}

// Len implements [tcpip.Payloader].
func (t *takeFrom) Len() int { return t.n }

// Read implements [io.Reader].
func (t *takeFrom) Read(b []byte) (int, error) {
	n, err := t.r.Read(b)
	t.n -= n
	return n, err
}

// TryReadFrom implements [nat.TryReaderFrom].
func (c *tcpConn) TryReadFrom(r io.Reader, most int) (int, error) {
	c.take = takeFrom{r: r, n: most}
	n, err := c.endpoint.Write(&c.take, tcpip.WriteOptions{})
	switch err.(type) {
	case nil:
		return int(n), nil
	case *tcpip.ErrWouldBlock, *tcpip.ErrBadBuffer: // of the latter r knows why
		return 0, nil
	}
	return int(n), fmt.Errorf("stack: write: %w", errnoOf(err))
}

// CloseWrite implements [nat.Leg].
func (c *tcpConn) CloseWrite() error {
	if err := c.endpoint.Shutdown(tcpip.ShutdownWrite); err != nil {
		return fmt.Errorf("stack: shutdown: %w", errnoOf(err))
	}
	return nil
}

// Close implements [nat.Leg]. What is queued is still delivered.
func (c *tcpConn) Close() error {
	if c.end() {
		c.endpoint.Close()
	}
	return nil
}

// Reset implements [nat.Leg].
func (c *tcpConn) Reset() error {
	if c.end() {
		c.endpoint.Abort()
	}
	return nil
}

// end reports whether the connection is still to be ended.
func (c *tcpConn) end() bool {
	first := !c.closed
	c.closed = true
	if first && c.entry.Mask() != 0 {
		c.queue.EventUnregister(&c.entry)
	}
	return first
}

// Failed implements [nat.Leg]. A connection that has ended with FIN both ways is
// closed and has no error; what it has received may still wait to be read.
func (c *tcpConn) Failed() bool {
	switch tcp.EndpointState(c.endpoint.State()) {
	case tcp.StateError:
		return true
	case tcp.StateClose:
		// A RST behind the client's FIN.
		endpoint, ok := c.endpoint.(*tcp.Endpoint)
		if !ok {
			return true
		}
		_, aborted := endpoint.LastError().(*tcpip.ErrAborted)
		return aborted
	}
	return false
}

// errnoOf gives netstack's errors the numbers that the kernel's have.
func errnoOf(err tcpip.Error) error {
	switch err.(type) {
	case *tcpip.ErrConnectionReset:
		return syscall.ECONNRESET
	case *tcpip.ErrConnectionRefused:
		return syscall.ECONNREFUSED
	case *tcpip.ErrConnectionAborted, *tcpip.ErrAborted:
		return syscall.ECONNABORTED
	case *tcpip.ErrTimeout:
		return syscall.ETIMEDOUT
	case *tcpip.ErrClosedForSend, *tcpip.ErrNotConnected:
		return syscall.EPIPE
	case *tcpip.ErrNetworkUnreachable:
		return syscall.ENETUNREACH
	case *tcpip.ErrHostUnreachable:
		return syscall.EHOSTUNREACH
	case *tcpip.ErrMessageTooLong:
		return syscall.EMSGSIZE
	case *tcpip.ErrNoBufferSpace:
		return syscall.ENOBUFS
	}
	return fmt.Errorf("%v", err)
}

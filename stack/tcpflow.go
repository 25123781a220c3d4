package stack

import (
	"errors"
	"io"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"aarptun/nat"
)

// tcpConn is the inside leg of an established flow.
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
	*conn
	take takeFrom // the writer's
}

func newTCPConn(ep tcpip.Endpoint, queue *waiter.Queue) *tcpConn {
	return &tcpConn{conn: newConn(ep, queue)}
}

const (
	// copyBuffer is what a flow's bytes are copied through, one way, where they
	// cannot go straight.
	copyBuffer = 64 << 10

	// gatherBelow is the size of a piece below which it is copied to its
	// neighbours: a system call for each would cost more.
	gatherBelow = 16 << 10
)

var copyPool = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// Read implements [io.Reader]. The receive buffer grows with what is taken.
func (c *tcpConn) Read(b []byte) (int, error) {
	n, err := c.conn.Read(b)
	if n > 0 {
		c.endpoint.ModerateRecvBuf(n)
	}
	return n, err
}

// WriteTo implements [nat.TCPConn].
func (c *tcpConn) WriteTo(w io.Writer) (total int64, err error) {
	g := &gather{w: w}
	g.direct, _ = w.(nat.TryWriter)
	for {
		if err = c.awaitReadable(); err == nil {
			err = c.drain(g)
		}
		if errors.Is(err, io.EOF) {
			return g.total, nil
		}
		if err != nil {
			return g.total, err
		}
	}
}

// drain writes what is there to read. It waits only with bytes of its own, when
// the endpoint is not locked.
func (c *tcpConn) drain(g *gather) error {
	before := g.taken
	_, err := c.endpoint.Read(g, tcpip.ReadOptions{})
	if g.taken > before {
		c.endpoint.ModerateRecvBuf(int(g.taken - before))
	}
	if err := g.finish(); err != nil {
		return err
	}
	switch err.(type) {
	case nil, *tcpip.ErrWouldBlock, *tcpip.ErrBadBuffer: // the last says that nothing was taken
		return nil
	}
	return c.wrap("read", err)
}

// gather is what an endpoint writes its receive queue to, piece by piece, while
// it is locked: large pieces go straight on, small ones are copied.
type gather struct {
	w      io.Writer
	direct nat.TryWriter // nil if there is none
	full   bool          // it would have to wait
	failed error
	taken  int64 // from the endpoint, bytes
	total  int64 // written

	buf *[copyBuffer]byte // nil if nothing was copied
	n   int
}

// Write implements [io.Writer] for the endpoint.
func (g *gather) Write(b []byte) (n int, err error) {
	if len(b) >= gatherBelow && g.direct != nil && !g.full && g.failed == nil {
		if n, err = g.straight(b); n == len(b) || err != nil {
			g.taken += int64(n)
			return n, err
		}
	}
	if g.failed == nil {
		n += g.copy(b[n:])
	}
	g.taken += int64(n)
	if n < len(b) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// straight writes b, after what was copied before it.
func (g *gather) straight(b []byte) (n int, err error) {
	if g.flush(); g.full || g.failed != nil {
		return 0, g.failed
	}
	n, g.failed = g.direct.TryWrite(b)
	g.total += int64(n)
	g.full = n < len(b)
	return n, g.failed
}

// copy keeps what there is room for.
func (g *gather) copy(b []byte) int {
	if g.buf == nil {
		g.buf = copyPool.Get().(*[copyBuffer]byte)
	}
	n := copy(g.buf[g.n:], b)
	g.n += n
	return n
}

// flush writes what was copied, as far as that needs no waiting.
func (g *gather) flush() {
	if g.n == 0 {
		return
	}
	var n int
	n, g.failed = g.direct.TryWrite(g.buf[:g.n])
	g.total += int64(n)
	g.full = n < g.n
	g.n = copy(g.buf[:], g.buf[n:g.n])
}

// finish writes the rest of what was copied, and waits if it must.
func (g *gather) finish() error {
	if g.buf == nil {
		return g.failed
	}
	if g.direct != nil && !g.full && g.failed == nil {
		g.flush()
	}
	if g.n > 0 && g.failed == nil {
		var n int
		n, g.failed = g.w.Write(g.buf[:g.n])
		g.total += int64(n)
	}
	copyPool.Put(g.buf)
	g.buf, g.n, g.full = nil, 0, false
	return g.failed
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
	return int(n), c.wrap("write", err)
}

// awaitReadable blocks until Read would not.
func (c *tcpConn) awaitReadable() error {
	const events = waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr
	err := c.wait(events, func() tcpip.Error {
		if c.endpoint.Readiness(events) == 0 {
			return &tcpip.ErrWouldBlock{}
		}
		return nil
	})
	if err != nil {
		return c.wrap("read", err)
	}
	return nil
}

// CloseWrite implements [nat.TCPConn].
func (c *tcpConn) CloseWrite() error {
	if err := c.endpoint.Shutdown(tcpip.ShutdownWrite); err != nil {
		return c.wrap("shutdown", err)
	}
	return nil
}

// Reset implements [nat.TCPConn].
func (c *tcpConn) Reset() error {
	c.once.Do(func() {
		close(c.closed)
		c.endpoint.Abort()
	})
	return nil
}

// AwaitReset implements [nat.TCPConn].
func (c *tcpConn) AwaitReset(stop <-chan struct{}) bool {
	entry, notify := waiter.NewChannelEntry(waiter.EventHUp | waiter.EventErr)
	c.queue.EventRegister(&entry)
	defer c.queue.EventUnregister(&entry)
	for {
		if c.hasFailed() {
			return true
		}
		select {
		case <-notify:
		case <-c.closed:
			return true
		case <-stop:
			return false
		}
	}
}

// hasFailed reports whether the connection has been reset or has failed. One
// that has ended with FIN both ways is closed and has no error; what it has
// received may still wait to be read.
func (c *tcpConn) hasFailed() bool {
	switch tcp.EndpointState(c.endpoint.State()) {
	case tcp.StateError:
		return true
	case tcp.StateClose:
		// A RST behind the client's FIN.
		_, aborted := c.endpoint.LastError().(*tcpip.ErrAborted)
		return aborted
	}
	return false
}

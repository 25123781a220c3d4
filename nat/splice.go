package nat

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
)

// outsideError is what the member's leg failed with.
type outsideError struct{ err error }

func (e *outsideError) Error() string { return e.err.Error() }
func (e *outsideError) Unwrap() error { return e.err }

// splice moves bytes both ways until both directions have ended, and closes
// both legs. FIN is passed on as FIN and leaves the other direction open for
// as long as its ends like; anything else ends both legs with RST, as it would
// have ended the connection between the two. It returns nil if the flow ended
// with FIN both ways, and else what ended it.
func (t *Translator) splice(ctx context.Context, f *flow, inside, outside TCPConn) error {
	var first atomic.Pointer[error]
	breakBoth := func(err error) {
		if first.CompareAndSwap(nil, &err) {
			reset(inside)
			reset(outside)
		}
	}
	stop := context.AfterFunc(ctx, func() { breakBoth(context.Cause(ctx)) })

	in := &direction{t: t, f: f, src: outside, dst: inside, count: t.countIn, broken: breakBoth, ended: make(chan struct{})}
	out := &direction{t: t, f: f, src: inside, dst: outside, count: t.countOut, broken: breakBoth, ended: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(func() {
		switch readErr, writeErr := out.run(); {
		case readErr != nil:
			breakBoth(readErr)
		case writeErr != nil:
			breakBoth(&outsideError{writeErr})
		default:
			f.closedBy(ClientClosed)
			out.awaitEnd(in)
		}
	})
	switch readErr, writeErr := in.run(); {
	case readErr != nil:
		breakBoth(&outsideError{readErr})
	case writeErr != nil:
		breakBoth(writeErr)
	default:
		f.closedBy(MemberClosed)
		in.awaitEnd(out)
	}
	wg.Wait()
	stop()
	// Both directions have ended, so nobody reads from or writes to the legs.
	// Close after FIN both ways only frees them; after RST it does nothing.
	closeQuietly(inside)
	closeQuietly(outside)
	if err := first.Load(); err != nil {
		return *err
	}
	return nil
}

// closedBy notes which end has sent FIN first; the second FIN ends the flow.
func (f *flow) closedBy(s State) { f.state.CompareAndSwap(uint32(Established), uint32(s)) }

// direction is one way of an established flow.
type direction struct {
	t        *Translator
	f        *flow
	dst, src TCPConn
	count    func(*flow, int)
	broken   func(error)
	ended    chan struct{} // closed before FIN is passed on to dst, or when it never will be
	endOnce  sync.Once
}

func (d *direction) end() { d.endOnce.Do(func() { close(d.ended) }) }

// run moves bytes from src to dst until src ends, then passes the FIN on.
// Without an error src ended with FIN and dst has taken every byte and the FIN.
func (d *direction) run() (readErr, writeErr error) {
	defer d.end()
	g := &gauge{dst: d.dst, count: func(n int) { d.count(d.f, n) }, watch: newStallWatch(d.src, d.broken)}
	if _, err := d.src.WriteTo(g); err != nil {
		if g.err != nil {
			return nil, g.err
		}
		return err, nil
	}
	d.end()
	return nil, d.dst.CloseWrite()
}

// awaitEnd watches a leg that has sent FIN, and that nobody reads from any more,
// until the other direction is about to send it a FIN too: what is left after
// that is the end of the connection, which looks like a reset. A leg that has
// closed its socket answers data with RST, and the sender must hear of it.
func (d *direction) awaitEnd(other *direction) {
	if !d.src.AwaitReset(other.ended) {
		return
	}
	select {
	case <-other.ended: // it was the end, seen before the news of it
	default:
		d.broken(syscall.ECONNRESET)
	}
}

// gauge is a leg that is written to: it counts, and watches over each write that
// may have to wait.
type gauge struct {
	dst   TCPConn
	count func(int)
	watch *stallWatch
	err   error // of the last write, which tells it from an error of the reader
}

// Write implements [io.Writer].
func (g *gauge) Write(b []byte) (n int, err error) {
	g.watch.begin()
	n, g.err = g.dst.Write(b)
	g.watch.end()
	g.count(n)
	return n, g.err
}

// TryWrite implements [TryWriter]; a leg that is none always has to wait.
func (g *gauge) TryWrite(b []byte) (n int, err error) {
	if leg, ok := g.dst.(TryWriter); ok {
		n, g.err = leg.TryWrite(b)
		g.count(n)
	}
	return n, g.err
}

// TryReadFrom implements [TryReaderFrom], likewise.
func (g *gauge) TryReadFrom(r io.Reader, most int) (n int, err error) {
	if leg, ok := g.dst.(TryReaderFrom); ok {
		n, g.err = leg.TryReadFrom(r, most)
		g.count(n)
	}
	return n, g.err
}

// reset ends a leg with RST. Its error would only say that the leg is gone,
// which is what was wanted.
func reset(c TCPConn) { _ = c.Reset() }

// closeQuietly frees what is already finished; there is nobody left to tell.
func closeQuietly(c io.Closer) { _ = c.Close() }

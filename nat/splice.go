package nat

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
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

	var wg sync.WaitGroup
	wg.Go(func() {
		readErr, writeErr := t.copy(f, outside, inside, t.countOut, breakBoth)
		switch {
		case readErr != nil:
			breakBoth(readErr)
		case writeErr != nil:
			breakBoth(&outsideError{writeErr})
		default:
			f.closedBy(ClientClosed)
		}
	})
	readErr, writeErr := t.copy(f, inside, outside, t.countIn, breakBoth)
	switch {
	case readErr != nil:
		breakBoth(&outsideError{readErr})
	case writeErr != nil:
		breakBoth(writeErr)
	default:
		f.closedBy(MemberClosed)
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

// copy moves bytes from src to dst until src ends, then passes the FIN on.
// Without an error src ended with FIN and dst has taken every byte and the FIN.
func (t *Translator) copy(f *flow, dst, src TCPConn, count func(*flow, int), broken func(error)) (readErr, writeErr error) {
	g := &gauge{dst: dst, count: func(n int) { count(f, n) }, watch: newStallWatch(src, broken)}
	if _, err := src.WriteTo(g); err != nil {
		if g.err != nil {
			return nil, g.err
		}
		return err, nil
	}
	return nil, dst.CloseWrite()
}

// gauge is a leg that is written to: it counts, and watches over each write.
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

// reset ends a leg with RST. Its error would only say that the leg is gone,
// which is what was wanted.
func reset(c TCPConn) { _ = c.Reset() }

// closeQuietly frees what is already finished; there is nobody left to tell.
func closeQuietly(c io.Closer) { _ = c.Close() }

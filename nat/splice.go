package nat

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// spliceBuffer is the most that one direction of a flow holds of its bytes
// outside the two sockets; what the receiver does not take stays with the
// sender (backpressure).
const spliceBuffer = 64 << 10

var splicePool = sync.Pool{New: func() any { return new([spliceBuffer]byte) }}

// splice moves bytes both ways until both directions have ended, and closes
// both legs. FIN is passed on as FIN and leaves the other direction open for
// as long as its ends like; anything else ends both legs with RST, as it would
// have ended the connection between the two. It reports whether the flow ended
// with FIN both ways.
func (t *Translator) splice(ctx context.Context, f *flow, inside, outside TCPConn) (clean bool) {
	var broken atomic.Bool
	breakBoth := func() {
		if !broken.Swap(true) {
			reset(inside)
			reset(outside)
		}
	}
	stop := context.AfterFunc(ctx, breakBoth)

	var wg sync.WaitGroup
	wg.Go(func() {
		if err := t.copy(f, outside, inside, t.countOut); err != nil {
			breakBoth()
			return
		}
		f.closedBy(ClientClosed)
	})
	if err := t.copy(f, inside, outside, t.countIn); err != nil {
		breakBoth()
	} else {
		f.closedBy(MemberClosed)
	}
	wg.Wait()
	stop()
	// Both directions have ended, so nobody reads from or writes to the legs.
	// Close after FIN both ways only frees them; after RST it does nothing.
	closeQuietly(inside)
	closeQuietly(outside)
	return !broken.Load()
}

// closedBy notes which end has sent FIN first; the second FIN ends the flow.
func (f *flow) closedBy(s State) { f.state.CompareAndSwap(uint32(Established), uint32(s)) }

// copy moves bytes from src to dst until src ends, then passes the FIN on. A
// nil error means src ended with FIN and dst has taken every byte and the FIN.
func (t *Translator) copy(f *flow, dst, src TCPConn, count func(*flow, int)) error {
	buf := splicePool.Get().(*[spliceBuffer]byte)
	defer splicePool.Put(buf)
	for {
		n, err := src.Read(buf[:])
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
			count(f, n)
		}
		if errors.Is(err, io.EOF) {
			return dst.CloseWrite()
		}
		if err != nil {
			return err
		}
	}
}

// reset ends a leg with RST. Its error would only say that the leg is gone,
// which is what was wanted.
func reset(c TCPConn) { _ = c.Reset() }

// closeQuietly frees what is already finished; there is nobody left to tell.
func closeQuietly(c io.Closer) { _ = c.Close() }

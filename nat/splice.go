package nat

import (
	"errors"
	"io"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// stepBudget is how many bytes one direction of a flow moves before another
	// flow has its turn.
	stepBudget = 1 << 20

	// stallAfter is how long a leg that has been reset may go on to be emptied
	// while the other takes nothing. It is long beside the pauses of a healthy
	// receiver, and short beside a person.
	stallAfter = 100 * time.Millisecond
)

// outsideError is what the member's leg failed with.
type outsideError struct{ err error }

func (e *outsideError) Error() string { return e.err.Error() }
func (e *outsideError) Unwrap() error { return e.err }

// errCut is why a flow ended that was told to.
var errCut = errors.New("nat: cut")

// splice is an established TCP flow: bytes move both ways until both directions
// have ended. FIN is passed on as FIN and leaves the other direction open for as
// long as its ends like; anything else ends both legs with RST, as it would have
// ended the connection between the two.
//
// It is a state machine that runs when one of its legs has something to say, and
// holds neither a goroutine nor a buffer in between: most flows are idle most of
// the time. One worker at a time runs it.
type splice struct {
	t       *Translator
	f       *flow
	inside  InsideTCP
	outside OutsideTCP
	ended   func(error) // called once; nil if the flow ended with FIN both ways

	turn turn
	cut  atomic.Bool
	out  outwards
	in   inwards

	stall     *time.Timer // nil until a leg was reset while the other was full
	stallOver atomic.Bool
	stallAt   uint64 // bytes moved when it was set
}

// direction is one way of a flow.
type direction struct {
	f      *flow
	count  func(*flow, int)
	budget int   // bytes left in this turn
	full   bool  // the receiver, or the budget, stands in the way
	ended  bool  // FIN was passed on
	err    error // of the receiver
	moved  uint64
}

func (d *direction) begin() { d.budget, d.full, d.err = stepBudget, false, nil }

// wrote notes that n of so many bytes were written.
func (d *direction) wrote(n, of int, err error) (int, error) {
	d.budget -= n
	d.moved += uint64(n)
	d.full = n < of
	d.err = err
	if n > 0 {
		d.count(d.f, n)
	}
	return n, err
}

// outwards is the member's half as seen by the client's.
type outwards struct {
	direction
	to OutsideTCP
}

// TryWrite implements [TryWriter].
func (d *outwards) TryWrite(b []byte) (int, error) {
	n, err := d.to.TryWrite(b[:min(len(b), d.budget)])
	return d.wrote(n, len(b), err)
}

// inwards is the client's half as seen by the member's.
type inwards struct {
	direction
	to InsideTCP
}

// TryReadFrom implements [TryReaderFrom].
func (d *inwards) TryReadFrom(r io.Reader, most int) (int, error) {
	n := 0
	var err error
	if d.budget > 0 {
		n, err = d.to.TryReadFrom(r, min(most, d.budget))
	}
	return d.wrote(n, most, err)
}

// newSplice is run from its start on.
func (t *Translator) newSplice(f *flow, inside InsideTCP, outside OutsideTCP, ended func(error)) *splice {
	s := &splice{t: t, f: f, inside: inside, outside: outside, ended: ended}
	s.out = outwards{direction: direction{f: f, count: t.countOut}, to: outside}
	s.in = inwards{direction: direction{f: f, count: t.countIn}, to: inside}
	s.turn.step, s.turn.workers = s.step, &t.workers
	return s
}

func (s *splice) start() {
	s.inside.Watch(s.turn.notify)
	s.outside.Watch(s.turn.notify)
	s.turn.notify(true)
}

// cutNow ends the flow with RST both ways, soon.
func (s *splice) cutNow() {
	s.cut.Store(true)
	s.turn.notify(false)
}

// step does what can be done now. more says that there is more, over that the
// flow has ended.
func (s *splice) step() (more, over bool) {
	if s.cut.Load() {
		s.breakBoth(errCut)
		return false, true
	}
	err := s.moveOut()
	if err == nil {
		err = s.moveIn()
	}
	if err == nil && s.out.ended && s.in.ended {
		// Close after FIN both ways only frees them.
		closeQuietly(s.inside)
		closeQuietly(s.outside)
		s.ended(nil)
		return false, true
	}
	if err == nil {
		err = s.lookForReset()
	}
	if err != nil {
		s.breakBoth(err)
		return false, true
	}
	return s.out.full && s.out.budget <= 0 || s.in.full && s.in.budget <= 0, false
}

func (s *splice) moveOut() error {
	if s.out.ended {
		return nil
	}
	s.out.begin()
	err := s.inside.MoveTo(&s.out)
	if s.out.err != nil {
		return &outsideError{s.out.err}
	}
	if err == io.EOF {
		s.out.ended = true
		s.f.closedBy(ClientClosed)
		if err = s.outside.CloseWrite(); err != nil {
			return &outsideError{err}
		}
	}
	return err
}

func (s *splice) moveIn() error {
	if s.in.ended {
		return nil
	}
	s.in.begin()
	err := s.outside.MoveTo(&s.in)
	if s.in.err != nil {
		return s.in.err
	}
	if err == io.EOF {
		s.in.ended = true
		s.f.closedBy(MemberClosed)
		return s.inside.CloseWrite()
	}
	if err != nil {
		return &outsideError{err}
	}
	return nil
}

// lookForReset looks for a RST that reading does not find: behind a FIN, since a
// leg that has closed its socket answers data with RST and the sender must hear
// of it, or behind bytes that the other leg does not take. Without us it would
// have reached that one; a receiver that still takes some gets them first.
func (s *splice) lookForReset() error {
	inside, outside := (s.out.ended || s.out.full) && s.inside.Failed(), (s.in.ended || s.in.full) && s.outside.Failed()
	switch moved := s.out.moved + s.in.moved; {
	case !inside && !outside:
		return nil
	case inside && s.out.ended:
		return syscall.ECONNRESET
	case outside && s.in.ended:
		return &outsideError{syscall.ECONNRESET}
	case s.stall == nil || s.stallAt != moved:
		s.stallAt = moved
		s.stallOver.Store(false)
		if s.stall != nil {
			s.stall.Stop()
		}
		s.stall = time.AfterFunc(stallAfter, func() {
			s.stallOver.Store(true)
			s.turn.notify(false)
		})
		return nil
	case s.stallOver.Load() && !inside:
		return &outsideError{syscall.ECONNRESET}
	case s.stallOver.Load():
		return syscall.ECONNRESET
	}
	return nil
}

func (s *splice) breakBoth(err error) {
	if s.stall != nil {
		s.stall.Stop()
	}
	reset(s.inside)
	reset(s.outside)
	s.ended(err)
}

// closedBy notes which end has sent FIN first; the second FIN ends the flow.
func (f *flow) closedBy(s State) { f.state.CompareAndSwap(uint32(Established), uint32(s)) }

// reset ends a leg with RST. Its error would only say that the leg is gone,
// which is what was wanted.
func reset(c Leg) { _ = c.Reset() }

// closeQuietly frees what is already finished; there is nobody left to tell.
func closeQuietly(c io.Closer) { _ = c.Close() }

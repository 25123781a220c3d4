package nat

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// pipeRoom is what waits in each direction of a pipe, bytes.
const pipeRoom = 4 << 10

// pipe is an in-memory TCP connection. One end is a [peer], as a program has it;
// the other is the translator's, an [insideLeg] or an [outsideLeg]. It waits by
// a condition, so synctest can see it wait.
type pipe struct {
	purge bool // a RST takes away what the leg has not read, as in netstack and not in the kernel

	busy    atomic.Bool // the leg is being used
	changed sync.Cond   // of mu; what the peer waits for

	mu         sync.Mutex
	notify     func(free bool)
	toLeg      stream
	toPeer     stream
	reset      bool  // by either end
	cause      error // if it was neither, but this
	legClosed  bool
	peerClosed bool
}

// stream is one direction.
type stream struct {
	b   []byte
	fin bool
}

func newPipe(purge bool) *pipe {
	p := &pipe{purge: purge}
	p.changed.L = &p.mu
	return p
}

// use holds the leg to its contract: one goroutine at a time, and nothing after
// its end. It returns with the lock held, as netstack has its endpoint locked
// while it hands over bytes.
func (p *pipe) use() (done func()) {
	if p.busy.Swap(true) {
		panic("a leg is used by two at once")
	}
	p.mu.Lock()
	if p.legClosed {
		panic("a leg is used after its end")
	}
	return func() {
		p.mu.Unlock()
		p.busy.Store(false)
	}
}

// happened is called by the peer, with the lock held, as netstack calls.
func (p *pipe) happened() {
	p.changed.Broadcast()
	if p.notify != nil && !p.legClosed {
		p.notify(false)
	}
}

// leave gives the lock back and tells the leg once more, as the poller does that
// lets who is told use it.
func (f peer) leave() {
	notify := f.p.notify
	if f.p.legClosed {
		notify = nil
	}
	f.p.mu.Unlock()
	if notify != nil && !f.p.purge {
		notify(true)
	}
}

// Watch implements [Leg].
func (p *pipe) Watch(notify func(free bool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notify = notify
}

// Failed implements [Leg].
func (p *pipe) Failed() bool {
	defer p.use()()
	return p.reset
}

// CloseWrite implements [Leg].
func (p *pipe) CloseWrite() error {
	defer p.use()()
	if p.reset {
		return syscall.ENOTCONN
	}
	p.toPeer.fin = true
	p.changed.Broadcast()
	return nil
}

// Close implements [Leg].
func (p *pipe) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.legClosed {
		return nil
	}
	p.legClosed = true
	p.reset = p.reset || !p.toLeg.fin || len(p.toLeg.b) > 0
	p.toPeer.fin = true
	p.changed.Broadcast()
	return nil
}

// Reset implements [Leg].
func (p *pipe) Reset() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.legClosed {
		p.legClosed, p.reset = true, true
		p.changed.Broadcast()
	}
	return nil
}

// ended is what there is to read for the leg when no byte is.
func (p *pipe) ended() error {
	switch {
	case p.cause != nil:
		return p.cause
	case p.reset:
		return syscall.ECONNRESET
	case p.toLeg.fin:
		return io.EOF
	}
	return nil
}

// put appends to what the peer reads; like a host whose program has closed its
// socket, the peer answers that with RST.
func (p *pipe) put(b []byte) {
	p.toPeer.b = append(p.toPeer.b, b...)
	if p.peerClosed {
		p.reset = true
	}
	p.changed.Broadcast()
	if p.reset && p.notify != nil {
		p.notify(false)
	}
}

// insideLeg is a pipe's end as a client's half.
type insideLeg struct{ *pipe }

// MoveTo implements [InsideTCP]. It hands over a part at a time.
func (l insideLeg) MoveTo(w TryWriter) error {
	defer l.use()()
	for len(l.toLeg.b) > 0 && (!l.reset || !l.purge) {
		part := l.toLeg.b[:min(1000, len(l.toLeg.b))]
		n, err := w.TryWrite(part)
		l.toLeg.b = l.toLeg.b[n:]
		l.changed.Broadcast()
		if err != nil {
			return err
		}
		if n < len(part) {
			return nil
		}
	}
	return l.ended()
}

// TryReadFrom implements [TryReaderFrom].
func (l insideLeg) TryReadFrom(r io.Reader, most int) (int, error) {
	defer l.use()()
	if l.reset {
		return 0, syscall.ECONNRESET
	}
	b := make([]byte, min(most, pipeRoom-len(l.toPeer.b)))
	if _, err := io.ReadFull(r, b); err != nil || len(b) == 0 {
		return 0, nil
	}
	l.put(b)
	return len(b), nil
}

// outsideLeg is a pipe's end as a member's half.
type outsideLeg struct{ *pipe }

// TryWrite implements [TryWriter].
func (l outsideLeg) TryWrite(b []byte) (int, error) {
	defer l.use()()
	if l.reset {
		return 0, syscall.ECONNRESET
	}
	n := min(len(b), pipeRoom-len(l.toPeer.b))
	if n > 0 {
		l.put(b[:n])
	}
	return n, nil
}

// MoveTo implements [OutsideTCP].
func (l outsideLeg) MoveTo(w TryReaderFrom) error {
	defer l.use()()
	for len(l.toLeg.b) > 0 && (!l.reset || !l.purge) {
		most := len(l.toLeg.b)
		n, err := w.TryReadFrom((*streamReader)(&l.toLeg), most)
		l.changed.Broadcast()
		if err != nil {
			return err
		}
		if n < most {
			return nil
		}
	}
	return l.ended()
}

// streamReader takes from a stream whose lock is held.
type streamReader stream

// Read implements [io.Reader].
func (s *streamReader) Read(b []byte) (int, error) {
	n := copy(b, s.b)
	s.b = s.b[n:]
	return n, nil
}

// peer is a pipe's end as a program has it: it blocks.
type peer struct{ p *pipe }

// Read implements [io.Reader].
func (f peer) Read(b []byte) (int, error) {
	f.p.mu.Lock()
	defer f.leave()
	for {
		switch s := &f.p.toPeer; {
		case f.p.peerClosed:
			return 0, net.ErrClosed
		case len(s.b) > 0:
			n := copy(b, s.b)
			s.b = s.b[n:]
			f.p.happened()
			return n, nil
		case f.p.reset:
			return 0, syscall.ECONNRESET
		case s.fin:
			return 0, io.EOF
		}
		f.p.changed.Wait()
	}
}

// Write implements [io.Writer].
func (f peer) Write(b []byte) (total int, err error) {
	f.p.mu.Lock()
	defer f.leave()
	for {
		s := &f.p.toLeg
		switch {
		case f.p.peerClosed:
			return total, net.ErrClosed
		case f.p.reset:
			return total, syscall.ECONNRESET
		case s.fin:
			return total, syscall.EPIPE
		}
		if n := min(len(b), pipeRoom-len(s.b)); n > 0 {
			s.b = append(s.b, b[:n]...)
			b, total = b[n:], total+n
			f.p.happened()
		}
		if len(b) == 0 {
			return total, nil
		}
		f.p.changed.Wait()
	}
}

// CloseWrite sends FIN.
func (f peer) CloseWrite() error {
	f.p.mu.Lock()
	defer f.leave()
	f.p.toLeg.fin = true
	f.p.happened()
	return nil
}

// Close sends FIN, or RST if it has not read everything.
func (f peer) Close() error {
	f.p.mu.Lock()
	defer f.leave()
	f.p.peerClosed, f.p.toLeg.fin = true, true
	f.p.reset = f.p.reset || len(f.p.toPeer.b) > 0
	f.p.happened()
	return nil
}

// Reset sends RST.
func (f peer) Reset() error {
	f.p.mu.Lock()
	defer f.leave()
	f.p.reset = true
	f.p.happened()
	return nil
}

// fail ends the connection for the leg, as the kernel does when nobody answers.
func (f peer) fail(cause error) {
	f.p.mu.Lock()
	defer f.leave()
	f.p.cause, f.p.reset = cause, true
	f.p.happened()
}

var (
	_ InsideTCP  = insideLeg{}
	_ OutsideTCP = outsideLeg{}
)

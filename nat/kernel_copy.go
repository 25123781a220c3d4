package nat

import (
	"fmt"
	"io"
	"sync"
	"syscall"
	"unsafe"
)

const (
	// copyBuffer is what is read at once where bytes cannot go straight from
	// socket to socket; what the receiver does not take stays with the sender
	// (backpressure).
	copyBuffer = 64 << 10

	// mostTaken is what is taken straight at once.
	mostTaken = 256 << 10
)

var copyBuffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// TryWrite implements [TryWriter].
func (c *kernelTCP) TryWrite(b []byte) (n int, err error) {
	outer := c.raw.Control(func(fd uintptr) {
		for n < len(b) {
			var m int
			switch m, err = syscall.Write(int(fd), b[n:]); err {
			case nil:
				n += m
			case syscall.EINTR:
				err = nil
			case syscall.EAGAIN:
				err = nil
				return
			default:
				return
			}
		}
	})
	if outer != nil {
		err = outer
	}
	if err != nil {
		return n, fmt.Errorf("nat: write: %w", err)
	}
	return n, nil
}

// WriteTo implements [io.WriterTo].
func (c *kernelTCP) WriteTo(w io.Writer) (int64, error) {
	p := &pump{}
	p.direct, _ = w.(TryReaderFrom)
	read := p.read
	for {
		if err := c.raw.Read(read); err != nil {
			return p.total, fmt.Errorf("nat: read: %w", err)
		}
		if p.failed != nil {
			return p.total, p.failed
		}
		if p.errno != nil {
			return p.total, fmt.Errorf("nat: read: %w", p.errno)
		}
		if p.n == 0 {
			return p.total, nil
		}
		n, err := w.Write(p.buf[:p.n])
		p.total += int64(n)
		copyBuffers.Put(p.buf)
		if err != nil {
			return p.total, err
		}
	}
}

// pump reads from a socket. It holds no buffer while there is nothing to read.
type pump struct {
	direct TryReaderFrom // nil if there is none
	source socketReader
	total  int64 // bytes written

	buf    *[copyBuffer]byte // what was read, n bytes; 0 stands for FIN
	n      int
	errno  error // of reading
	failed error // of writing
}

// read is called with the socket at first and after each of its events, until it
// returns true. It returns false only when the socket is found empty: a FIN that
// came with the last byte is no event of its own.
func (p *pump) read(fd uintptr) bool {
	for p.direct != nil {
		p.source.fd = int(fd)
		ready := readable(int(fd))
		if ready == 0 {
			break // nothing, or FIN, or RST
		}
		n, err := p.direct.TryReadFrom(&p.source, min(ready, mostTaken))
		p.total += int64(n)
		if err != nil {
			p.failed = err
			return true
		}
		if n == 0 || n == ready {
			break // it would have to wait, or there is no more
		}
	}
	p.buf = copyBuffers.Get().(*[copyBuffer]byte)
	p.n, p.errno = readSocket(int(fd), p.buf[:])
	if p.errno != nil || p.n == 0 {
		copyBuffers.Put(p.buf)
	}
	return p.errno != syscall.EAGAIN
}

// socketReader reads from a socket that is known to have something.
type socketReader struct{ fd int }

// Read implements [io.Reader].
func (s *socketReader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := readSocket(s.fd, b)
	if n == 0 && err == nil {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func readSocket(fd int, b []byte) (n int, err error) {
	for {
		if n, err = syscall.Read(fd, b); err != syscall.EINTR {
			return n, err
		}
	}
}

// readable is how many bytes can be read without waiting (tcp(7), SIOCINQ).
func readable(fd int) int {
	var n int32
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCINQ, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return 0
	}
	return int(n)
}

package nat

import (
	"fmt"
	"io"
	"syscall"
	"unsafe"
)

// mostTaken is what is taken from a socket at once.
const mostTaken = 256 << 10

// TryWrite implements [TryWriter].
func (c *kernelTCP) TryWrite(b []byte) (n int, err error) {
	for n < len(b) {
		m, errno := quick(syscall.SYS_WRITE, c.fd, unsafe.Pointer(&b[n]), len(b)-n)
		switch errno {
		case 0:
			n += m
		case syscall.EINTR:
		case syscall.EAGAIN:
			return n, nil
		default:
			return n, fmt.Errorf("nat: write: %w", errno)
		}
	}
	return n, nil
}

// quick is a system call that does not wait. The scheduler is not told of it: it
// would take the processor away from a call that lasts 20 microseconds, as one
// with 64 KiB does, only to give it back.
func quick(call uintptr, fd int, p unsafe.Pointer, n int) (int, syscall.Errno) {
	r, _, errno := syscall.RawSyscall(call, uintptr(fd), uintptr(p), uintptr(n))
	if errno != 0 {
		return 0, errno
	}
	return int(r), 0
}

// MoveTo implements [OutsideTCP]. What comes after the length was asked for is an
// event, so the socket need not be found empty.
func (c *kernelTCP) MoveTo(w TryReaderFrom) error {
	if !c.news.Swap(false) {
		return nil
	}
	for {
		ready := readable(c.fd)
		all := ready <= mostTaken
		if ready == 0 {
			if c.events.Load()&(syscall.EPOLLRDHUP|syscall.EPOLLHUP|syscall.EPOLLERR|syscall.EPOLLPRI) == 0 {
				return nil
			}
			// FIN or RST; or urgent data, which is not counted alone.
			var err error
			if ready, err = peek(c.fd); err == syscall.EAGAIN {
				return nil
			} else if err != nil {
				return fmt.Errorf("nat: read: %w", err)
			} else if ready == 0 && c.failed {
				return fmt.Errorf("nat: read: %w", syscall.ECONNRESET)
			} else if ready == 0 {
				c.news.Store(true) // it stays so
				return io.EOF
			}
		}
		ready = min(ready, mostTaken)
		c.source = socketReader{fd: c.fd}
		n, err := w.TryReadFrom(&c.source, ready)
		if err != nil {
			return err
		}
		if c.source.err != nil {
			return fmt.Errorf("nat: read: %w", c.source.err)
		}
		if n < ready {
			c.news.Store(true) // it is not all taken
			return nil
		}
		if all && c.events.Load()&(syscall.EPOLLRDHUP|syscall.EPOLLPRI) == 0 {
			return nil // after urgent data the length was that up to it
		}
	}
}

// socketReader reads from a socket that is known to have something.
type socketReader struct {
	fd  int
	err error
}

// Read implements [io.Reader].
func (s *socketReader) Read(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	if n, err = readSocket(s.fd, b); n == 0 && err == nil {
		err = io.ErrUnexpectedEOF
	}
	s.err = err
	return n, err
}

// peek returns 1 if there is a byte to read, and 0 after FIN.
func peek(fd int) (int, error) {
	var b [1]byte
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b)), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}

func readSocket(fd int, b []byte) (n int, err error) {
	for {
		n, errno := quick(syscall.SYS_READ, fd, unsafe.Pointer(&b[0]), len(b))
		switch errno {
		case 0:
			return n, nil
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}

// readable is how many bytes can be read without waiting (tcp(7), SIOCINQ).
func readable(fd int) int {
	var n int32
	if _, _, errno := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCINQ, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return 0
	}
	return int(n)
}

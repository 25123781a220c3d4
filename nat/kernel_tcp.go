package nat

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

// kernelTCP is a kernel socket as a leg of a flow.
type kernelTCP struct {
	file *os.File
	raw  syscall.RawConn
	v4   bool
}

func newKernelTCP(file *os.File, v4 bool) (*kernelTCP, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &kernelTCP{file: file, raw: raw, v4: v4}, nil
}

// Read implements [io.Reader].
func (c *kernelTCP) Read(b []byte) (int, error) { return c.file.Read(b) }

// Write implements [io.Writer].
func (c *kernelTCP) Write(b []byte) (int, error) { return c.file.Write(b) }

// Close implements [io.Closer]; what is queued is still sent.
func (c *kernelTCP) Close() error { return c.file.Close() }

// CloseWrite implements [TCPConn].
func (c *kernelTCP) CloseWrite() error {
	if err := control(c.raw, func(fd int) error { return syscall.Shutdown(fd, syscall.SHUT_WR) }); err != nil {
		return fmt.Errorf("nat: shutdown: %w", err)
	}
	return nil
}

// Reset implements [TCPConn]: closing with a linger time of zero makes the
// kernel send RST (tcp(7), socket(7) SO_LINGER).
func (c *kernelTCP) Reset() error {
	return errors.Join(control(c.raw, func(fd int) error {
		return syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	}), c.Close())
}

// AwaitReset implements [TCPConn]. The poller wakes its waiting reader at every
// event of the socket, errors too, so the reader only has to look.
func (c *kernelTCP) AwaitReset(stop <-chan struct{}) (reset bool) {
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-stop:
			_ = c.file.SetReadDeadline(time.Unix(1, 0)) // fails only on a closed connection
		case <-ended:
		}
	})
	err := c.raw.Read(func(fd uintptr) bool {
		reset = hasFailed(int(fd))
		return reset
	})
	close(ended)
	wg.Wait()
	if err != nil && !reset && !errors.Is(err, os.ErrDeadlineExceeded) {
		return true // it is closed
	}
	_ = c.file.SetReadDeadline(time.Time{}) // as above
	return reset
}

// hasFailed reports whether a connection has been reset or has failed. One that
// has ended with FIN both ways has no error; what it has received may still wait
// to be read.
func hasFailed(fd int) bool {
	if tcpState(fd) != tcpClosed {
		return false
	}
	// This takes the error away (socket(7), SO_ERROR), and a writer that is too
	// late for it is told EPIPE, which is as good.
	errno, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_ERROR)
	return err != nil || errno != 0
}

// control runs f on the descriptor and returns its error.
func control(c syscall.RawConn, f func(fd int) error) error {
	var err error
	if outer := c.Control(func(fd uintptr) { err = f(int(fd)) }); outer != nil {
		return outer
	}
	return err
}

func setRecvErr(fd int, v4 bool, on int) error {
	level, option := syscall.IPPROTO_IPV6, syscall.IPV6_RECVERR
	if v4 {
		level, option = syscall.IPPROTO_IP, syscall.IP_RECVERR
	}
	if err := syscall.SetsockoptInt(fd, level, option, on); err != nil {
		return fmt.Errorf("nat: setsockopt RECVERR: %w", err)
	}
	return nil
}

// commonHops is the hop limit that nearly every host sends with, ours too
// (RFC 1700, "IP TTL"; Linux's ip_default_ttl).
const commonHops = 64

func setHops(fd int, v4 bool, hops uint8) error {
	if hops == 0 || hops == commonHops {
		return nil
	}
	level, option := syscall.IPPROTO_IPV6, syscall.IPV6_UNICAST_HOPS
	if v4 {
		level, option = syscall.IPPROTO_IP, syscall.IP_TTL
	}
	if err := syscall.SetsockoptInt(fd, level, option, int(hops)); err != nil {
		return fmt.Errorf("nat: set the hop limit %d: %w", hops, err)
	}
	return nil
}

func setClass(fd int, v4 bool, class uint8) error {
	if class == 0 {
		return nil // the default
	}
	level, option := syscall.IPPROTO_IPV6, syscall.IPV6_TCLASS
	if v4 {
		level, option = syscall.IPPROTO_IP, syscall.IP_TOS
	}
	if err := syscall.SetsockoptInt(fd, level, option, int(class)); err != nil {
		return fmt.Errorf("nat: set the traffic class %#x: %w", class, err)
	}
	return nil
}

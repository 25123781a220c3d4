package nat

import (
	"errors"
	"fmt"
	"syscall"
)

// kernelTCP is a kernel socket as the outside half of a flow.
type kernelTCP struct {
	polled
	source socketReader
	failed bool // the kernel says so only once
}

// Failed implements [Leg].
func (c *kernelTCP) Failed() bool {
	if !c.failed && c.events.Load()&(syscall.EPOLLERR|syscall.EPOLLHUP) != 0 && c.fd >= 0 {
		c.failed = hasFailed(c.fd)
	}
	return c.failed
}

// CloseWrite implements [Leg].
func (c *kernelTCP) CloseWrite() error {
	if err := syscall.Shutdown(c.fd, syscall.SHUT_WR); err != nil {
		return fmt.Errorf("nat: shutdown: %w", err)
	}
	return nil
}

// Reset implements [Leg]: closing with a linger time of zero makes the kernel
// send RST (tcp(7), socket(7) SO_LINGER).
func (c *kernelTCP) Reset() error {
	if c.fd < 0 {
		return nil
	}
	return errors.Join(syscall.SetsockoptLinger(c.fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1}), c.Close())
}

// States of a connection (linux/tcp_states.h).
const (
	tcpSynSent = 2
	// tcpClosed is that of a connection that has been reset or has failed, and
	// also of one that has ended with FIN both ways.
	tcpClosed = 7
)

// tcpState is the first byte of struct tcp_info.
func tcpState(fd int) int {
	info, err := syscall.GetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_INFO)
	if err != nil {
		return tcpClosed
	}
	return info & 0xff
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

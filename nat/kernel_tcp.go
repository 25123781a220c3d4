package nat

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Kernel opens the outside halves of flows as sockets of this host's kernel.
type Kernel struct {
	// Control is called with each socket before it is used, as that of
	// [net.Dialer], so that the socket can be made to bypass the TUN.
	Control func(network, address string, c syscall.RawConn) error
}

// keepalive is the kernel's own default (tcp(7)), asked for: a dead peer is
// noticed, and no idle flow is cut before the 2 h 4 min of RFC 5382 REQ-5.
var keepalive = net.KeepAliveConfig{Enable: true, Idle: 2 * time.Hour, Interval: 75 * time.Second, Count: 9}

const dscpMask = 0xfc // the ECN bits of a TCP segment are the kernel's own affair (RFC 3168)

// DialTCP implements [Outside].
//
// A failed dial closes its socket, and the socket's error queue with it, so a
// second descriptor of the socket is kept until the queue has been read.
func (k *Kernel) DialTCP(ctx context.Context, ua netip.AddrPort, m Meta) (TCPConn, error) {
	v4 := ua.Addr().Is4()
	spare := -1
	d := net.Dialer{KeepAliveConfig: keepalive, Control: func(network, address string, c syscall.RawConn) error {
		if err := k.Control(network, address, c); err != nil {
			return err
		}
		return control(c, func(fd int) error {
			var err error
			if spare, err = dup(fd); err != nil {
				return err
			}
			return errors.Join(setRecvErr(fd, v4, 1), setClass(fd, v4, m.Class&dscpMask), setHops(fd, v4, m.Hops))
		})
	}}
	conn, err := d.DialTCP(ctx, "tcp", netip.AddrPort{}, ua)
	if spare >= 0 {
		defer func() { _ = syscall.Close(spare) }() // nothing is written to it
	}
	if err != nil {
		if spare >= 0 {
			if said := dequeueError(spare, v4); said != nil {
				return nil, fmt.Errorf("nat: dial %v: %w", ua, said)
			}
		}
		return nil, fmt.Errorf("nat: %w", err)
	}
	// On an established connection the queue would make errors fatal that TCP
	// outlives (RFC 1122 section 4.2.3.9).
	if err := setRecvErr(spare, v4, 0); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return newKernelTCP(conn)
}

// kernelTCP is a kernel socket as a leg of a flow.
type kernelTCP struct {
	*net.TCPConn
	raw syscall.RawConn
}

func newKernelTCP(conn *net.TCPConn) (*kernelTCP, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("nat: %w", err)
	}
	return &kernelTCP{TCPConn: conn, raw: raw}, nil
}

// Reset implements [TCPConn]: closing with a linger time of zero makes the
// kernel send RST (tcp(7), socket(7) SO_LINGER).
func (c *kernelTCP) Reset() error {
	return errors.Join(c.SetLinger(0), c.Close())
}

// tcpClosed is the state of a connection that has been reset or has failed, and
// also of one that has ended with FIN both ways (linux/tcp_states.h, TCP_CLOSE).
const tcpClosed = 7

// AwaitReset implements [TCPConn]. The poller wakes its waiting reader at every
// event of the socket, errors too, so the reader only has to look.
func (c *kernelTCP) AwaitReset(stop <-chan struct{}) (reset bool) {
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-stop:
			_ = c.SetReadDeadline(time.Unix(1, 0)) // fails only on a closed connection
		case <-ended:
		}
	})
	err := c.raw.Read(func(fd uintptr) bool {
		reset = hasFailed(int(fd))
		return reset
	})
	close(ended)
	wg.Wait()
	if !reset && errors.Is(err, net.ErrClosed) {
		return true
	}
	_ = c.SetReadDeadline(time.Time{}) // as above
	return reset
}

// hasFailed reports whether a connection has been reset or has failed. One that
// has ended with FIN both ways has no error; what it has received may still wait
// to be read.
func hasFailed(fd int) bool {
	// The first byte of struct tcp_info is the state.
	info, err := syscall.GetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_INFO)
	if err != nil {
		return true
	}
	if info&0xff != tcpClosed {
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

func dup(fd int) (int, error) {
	spare, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		return -1, fmt.Errorf("nat: dup: %w", errno)
	}
	return int(spare), nil
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

package nat

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
)

// Control is called with each socket before it is used, as that of
// [net.Dialer], so that the socket can be made to bypass the TUN.
type Control func(network, address string, c syscall.RawConn) error

// Kernel opens the outside halves of flows as sockets of this host's kernel.
type Kernel struct {
	control Control
	poller  *poller
}

// NewKernel returns a Kernel whose sockets work once it is run, and which is
// to be closed. A nil Control does nothing.
func NewKernel(c Control) (*Kernel, error) {
	p, err := newPoller()
	if err != nil {
		return nil, err
	}
	if c == nil {
		c = func(string, string, syscall.RawConn) error { return nil }
	}
	return &Kernel{control: c, poller: p}, nil
}

// Run tells flows what happens to their sockets, until ctx ends.
func (k *Kernel) Run(ctx context.Context) error { return k.poller.run(ctx) }

// Close frees what NewKernel has opened. No flow may be left.
func (k *Kernel) Close() error { return k.poller.close() }

const dscpMask = 0xfc // the ECN bits of a TCP segment are the kernel's own affair (RFC 3168)

// DialTCP implements [Outside].
//
// It is done without package net because a failed dial there closes its socket,
// and with it the error queue that says what the network said; and because a flow
// needs fewer than half of the system calls that a [net.Dialer] makes.
func (k *Kernel) DialTCP(ctx context.Context, from netip.Addr, ua netip.AddrPort, m Meta) (OutsideTCP, error) {
	c, err := k.connect(from, ua, m)
	if err != nil {
		return nil, fmt.Errorf("nat: dial %v: %w", ua, err)
	}
	err = c.awaitConnected(ctx)
	if err == nil {
		// On an established connection the queue would make errors fatal that
		// TCP outlives (RFC 1122 section 4.2.3.9).
		err = setRecvErr(c.fd, c.v4, 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("nat: dial %v: %w", ua, err), c.Close())
	}
	return c, nil
}

// connect makes a socket and starts to connect it.
func (k *Kernel) connect(from netip.Addr, ua netip.AddrPort, m Meta) (*kernelTCP, error) {
	v4 := ua.Addr().Is4()
	family := syscall.AF_INET6
	if v4 {
		family = syscall.AF_INET
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	err = k.prepareTCP(fd, ua, m)
	if err == nil && from.IsValid() {
		err = bindAs(fd, from)
	}
	if err != nil {
		return nil, errors.Join(err, syscall.Close(fd))
	}
	for {
		if err = syscall.Connect(fd, sockaddr(ua)); err != syscall.EINTR {
			break
		}
	}
	if err != nil && err != syscall.EINPROGRESS {
		return nil, errors.Join(connectError(fd, v4, err), syscall.Close(fd))
	}
	c := &kernelTCP{polled: polled{poller: k.poller, fd: fd, v4: v4}}
	if err := k.poller.add(&c.polled, tcpEvents); err != nil {
		return nil, errors.Join(err, syscall.Close(fd))
	}
	return c, nil
}

// prepareTCP sets what must be set before the SYN is sent. Keepalive has the
// host's own times (tcp(7)): a dead peer is noticed, and by the kernel's default
// no idle flow is cut before the 2 h 4 min of RFC 5382 REQ-5.
func (k *Kernel) prepareTCP(fd int, ua netip.AddrPort, m Meta) error {
	v4 := ua.Addr().Is4()
	network := "tcp6"
	if v4 {
		network = "tcp4"
	}
	if err := k.control(network, ua.String(), rawFD(fd)); err != nil {
		return err
	}
	if err := errors.Join(syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1),
		syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)); err != nil {
		return fmt.Errorf("setsockopt: %w", err)
	}
	return errors.Join(setRecvErr(fd, v4, 1), setClass(fd, v4, m.Class&dscpMask), setHops(fd, v4, m.Hops))
}

// rawFD is a descriptor that nobody else has yet, as a [syscall.RawConn].
type rawFD int

// Control implements [syscall.RawConn].
func (fd rawFD) Control(f func(fd uintptr)) error {
	f(uintptr(fd))
	return nil
}

// Read implements [syscall.RawConn]; there is nothing to read yet.
func (rawFD) Read(func(fd uintptr) bool) error { return errors.ErrUnsupported }

// Write implements [syscall.RawConn], likewise.
func (rawFD) Write(func(fd uintptr) bool) error { return errors.ErrUnsupported }

func sockaddr(a netip.AddrPort) syscall.Sockaddr {
	if a.Addr().Is4() {
		return &syscall.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &syscall.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// connectError is what the network said, if it did, and else err.
func connectError(fd int, v4 bool, err error) error {
	if said := dequeueError(fd, v4); said != nil {
		return said
	}
	return fmt.Errorf("connect: %w", err)
}

// awaitConnected blocks until the handshake has succeeded or failed, or ctx ends.
func (c *kernelTCP) awaitConnected(ctx context.Context) error {
	// A near member has answered by now: what it sends is received while we send.
	if tcpState(c.fd) == tcpSynSent {
		happened := make(chan struct{}, 1)
		c.Watch(func(bool) {
			select {
			case happened <- struct{}{}:
			default:
			}
		})
		for tcpState(c.fd) == tcpSynSent {
			select {
			case <-happened:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	if tcpState(c.fd) != tcpClosed {
		return nil
	}
	errno, err := syscall.GetsockoptInt(c.fd, syscall.SOL_SOCKET, syscall.SO_ERROR)
	return connectError(c.fd, c.v4, errors.Join(err, syscall.Errno(errno)))
}

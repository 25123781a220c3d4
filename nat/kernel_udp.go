package nat

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"unsafe"
)

// Numbers that package syscall lacks (linux/in6.h).
const (
	ipv6DontFrag     = 62
	ipv6RecvTClass   = 66
	ipv6RecvHopLimit = 51
	ipv6HopLimit     = 52
	udpSegment       = 103 // linux/udp.h
	udpGRO           = 104
)

// udpReceiveBuffer is what may wait for us in the kernel for one flow, bytes.
const udpReceiveBuffer = 1 << 20

// DialUDP implements [Outside]. The socket is connected, so that the kernel
// drops what strangers send to it.
func (k *Kernel) DialUDP(_ context.Context, from netip.Addr, ua netip.AddrPort) (UDPConn, error) {
	v4 := ua.Addr().Is4()
	family, network := syscall.AF_INET6, "udp6"
	if v4 {
		family, network = syscall.AF_INET, "udp4"
	}
	fd, err := syscall.Socket(family, syscall.SOCK_DGRAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("nat: socket: %w", err)
	}
	c := &kernelUDP{polled: polled{poller: k.poller, fd: fd, v4: v4}}
	err = k.control(network, ua.String(), rawFD(fd))
	if err == nil {
		err = prepareUDP(fd, v4)
	}
	if err == nil && from.IsValid() {
		err = bindAs(fd, from)
	}
	if err == nil {
		err = syscall.Connect(fd, sockaddr(ua)) // which waits for nothing
	}
	if err == nil {
		err = k.poller.add(&c.polled, udpEvents)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("nat: dial udp %v: %w", ua, err), syscall.Close(fd))
	}
	return c, nil
}

// prepareUDP asks for errors and for what the IP header says of what comes.
func prepareUDP(fd int, v4 bool) error {
	level, class, hops := syscall.IPPROTO_IPV6, ipv6RecvTClass, ipv6RecvHopLimit
	if v4 {
		level, class, hops = syscall.IPPROTO_IP, syscall.IP_RECVTOS, syscall.IP_RECVTTL
	}
	for _, option := range []int{class, hops} {
		if err := syscall.SetsockoptInt(fd, level, option, 1); err != nil {
			return fmt.Errorf("nat: setsockopt to receive class and hop limit: %w", err)
		}
	}
	// A smaller buffer, where the host allows no more, loses bursts only.
	_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, udpReceiveBuffer)
	// A kernel that cannot join datagrams, before Linux 5.0, hands them over
	// one by one.
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_UDP, udpGRO, 1)
	return errors.Join(setRecvErr(fd, v4, 1), setWhole(fd, v4, false))
}

// maxDatagram is the largest UDP payload there is: 65,535 bytes less the 8 of
// the UDP header (RFC 768; IPv4 allows 20 fewer).
const maxDatagram = 65527

// room is where datagrams are received.
type room struct {
	data [maxDatagram]byte
	free func() // gives it back; made once, with the room
}

var rooms sync.Pool // of *room

func newRoom() *room {
	r, ok := rooms.Get().(*room)
	if !ok {
		r = new(room)
		r.free = func() { rooms.Put(r) }
	}
	return r
}

// commonDatagram is the most that nearly every datagram has, bytes: what fits
// the common MTU, and a little.
const commonDatagram = 2048

// parcel is where a datagram is kept until it has been sent on, which may take
// its time: a busy host keeps thousands of them.
type parcel struct {
	data []byte
	free func() // gives it back; made once, with the parcel
}

var parcels sync.Pool // for commonDatagram each

// newParcel returns a copy of the datagram, which has at most commonDatagram
// bytes.
func newParcel(datagram []byte) *parcel {
	p, ok := parcels.Get().(*parcel)
	if !ok {
		p = &parcel{data: make([]byte, commonDatagram)}
		p.free = func() { parcels.Put(p) }
	}
	p.data = append(p.data[:0], datagram...)
	return p
}

// kernelUDP is a connected UDP socket.
type kernelUDP struct {
	polled

	// Kept so that a datagram costs no allocation.
	oob    [96]byte // three messages of at most 24
	vector syscall.Iovec
	header syscall.Msghdr

	// What was last asked of the kernel, and how it is said.
	meta    Meta
	control []byte
	whole   bool
	full    bool // it had no room to send, and an event tells when it has
}

// TryReceive implements [UDPConn]: recvmsg(2) into a room that is taken only for
// the call. What comes after nothing was found is an event.
func (c *kernelUDP) TryReceive() (Datagram, error) {
	switch {
	case c.fd < 0:
		return Datagram{}, net.ErrClosed
	case !c.news.Swap(false):
		return Datagram{}, ErrNotYet
	}
	r := newRoom()
	c.header.Control = &c.oob[0]
	c.header.SetControllen(len(c.oob))
	n, errno := c.message(syscall.SYS_RECVMSG, r.data[:])
	if errno != syscall.EAGAIN {
		c.news.Store(true) // there may be another behind it
	}
	if errno != 0 {
		r.free()
		return Datagram{}, c.explain(errno)
	}
	d := received(c.oob[:c.header.Controllen])
	if d.Data, d.Free = r.data[:n], r.free; n <= commonDatagram {
		p := newParcel(r.data[:n])
		d.Data, d.Free = p.data, p.free
		r.free()
	}
	return d, nil
}

// message is recvmsg(2) or sendmsg(2) with the data; the header says the rest.
// Package syscall would allocate an address.
func (c *kernelUDP) message(call uintptr, data []byte) (int, syscall.Errno) {
	c.vector.Base = unsafe.SliceData(data)
	c.vector.SetLen(len(data))
	c.header.Iov, c.header.Iovlen = &c.vector, 1
	defer func() { c.vector.Base, c.header.Control = nil, nil }()
	for {
		n, errno := quick(call, c.fd, unsafe.Pointer(&c.header), syscall.MSG_DONTWAIT)
		if errno != syscall.EINTR {
			return n, errno
		}
	}
}

// explain looks for what the error queue says about an error.
func (c *kernelUDP) explain(errno syscall.Errno) error {
	if errno == syscall.EAGAIN {
		return ErrNotYet
	}
	if said := dequeueError(c.fd, c.v4); said != nil {
		return said
	}
	return fmt.Errorf("nat: %w", errno)
}

// TrySend implements [UDPConn].
func (c *kernelUDP) TrySend(d Datagram) error {
	if c.fd < 0 {
		return net.ErrClosed
	}
	if d.Meta != c.meta {
		if err := c.use(d.Meta); err != nil {
			return err
		}
	}
	control := c.control
	if size := d.Size(); size < len(d.Data) {
		// Behind the others, in room that is there already.
		control = binary.NativeEndian.AppendUint16(appendHeader(control, syscall.IPPROTO_UDP, udpSegment, 2), uint16(size))
		control = append(control, make([]byte, syscall.CmsgSpace(2)-syscall.CmsgLen(2))...)
		c.control = control[:len(c.control)]
	}
	c.header.Control = unsafe.SliceData(control)
	c.header.SetControllen(len(control))
	_, errno := c.message(syscall.SYS_SENDMSG, d.Data)
	if full := errno == syscall.EAGAIN; full != c.full {
		if err := c.watchRoom(full); err != nil {
			return err
		}
	}
	if errno != 0 {
		return c.explain(errno)
	}
	return nil
}

// watchRoom says whether room to send is an event.
func (c *kernelUDP) watchRoom(on bool) error {
	events := uint32(udpEvents)
	if on {
		events |= syscall.EPOLLOUT
	}
	c.full = on
	return c.poller.control(syscall.EPOLL_CTL_MOD, &c.polled, events)
}

// use prepares for datagrams with m. Class and hop limit go with each as
// control messages; not to fragment is a state of the socket.
func (c *kernelUDP) use(m Meta) error {
	if m.Whole != c.whole {
		if err := setWhole(c.fd, c.v4, m.Whole); err != nil {
			return err
		}
		c.whole = m.Whole
	}
	c.control = c.control[:0] // of the common hop limit nothing needs to be said
	if m.Class != 0 {
		c.control = appendControl(c.control, c.v4, syscall.IPV6_TCLASS, syscall.IP_TOS, int32(m.Class))
	}
	if m.Hops != 0 && m.Hops != commonHops {
		c.control = appendControl(c.control, c.v4, ipv6HopLimit, syscall.IP_TTL, int32(m.Hops))
	}
	c.meta = m
	return nil
}

// setWhole says whether the kernel may fragment. Where it may not it obeys the
// path MTU that it knows, and says EMSGSIZE (ip(7), IP_MTU_DISCOVER).
func setWhole(fd int, v4, whole bool) error {
	discover, dontFrag := syscall.IP_PMTUDISC_WANT, 0
	if v4 {
		discover = syscall.IP_PMTUDISC_DONT
	}
	if whole {
		discover, dontFrag = syscall.IP_PMTUDISC_DO, 1
	}
	var err error
	if v4 {
		err = syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, syscall.IP_MTU_DISCOVER, discover)
	} else {
		err = errors.Join(syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, syscall.IPV6_MTU_DISCOVER, discover),
			syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, ipv6DontFrag, dontFrag))
	}
	if err != nil {
		return fmt.Errorf("nat: path MTU discovery: %w", err)
	}
	return nil
}

// appendControl appends a control message with one int (cmsg(3)).
func appendControl(b []byte, v4 bool, type6, type4 int, value int32) []byte {
	level, kind := syscall.IPPROTO_IPV6, type6
	if v4 {
		level, kind = syscall.IPPROTO_IP, type4
	}
	b = binary.NativeEndian.AppendUint32(appendHeader(b, level, kind, 4), uint32(value))
	return append(b, make([]byte, syscall.CmsgSpace(4)-syscall.CmsgLen(4))...)
}

// appendHeader appends a struct cmsghdr: a size_t, then two ints.
func appendHeader(b []byte, level, kind, size int) []byte {
	if syscall.CmsgLen(0) == 16 {
		b = binary.NativeEndian.AppendUint64(b, uint64(syscall.CmsgLen(size)))
	} else {
		b = binary.NativeEndian.AppendUint32(b, uint32(syscall.CmsgLen(size)))
	}
	b = binary.NativeEndian.AppendUint32(b, uint32(level))
	return binary.NativeEndian.AppendUint32(b, uint32(kind))
}

// received reads the control messages of what was received: class and hop limit
// are ints, but for IPv4's class, which is one byte (ip(7), RFC 3542 section 6);
// the size of several datagrams is an int too (udp(7), UDP_GRO). They are read in
// place, since syscall.ParseSocketControlMessage allocates.
func received(oob []byte) (d Datagram) {
	head := syscall.CmsgLen(0)
	for len(oob) >= head {
		size := 0
		if head == 16 {
			size = int(binary.NativeEndian.Uint64(oob))
		} else {
			size = int(binary.NativeEndian.Uint32(oob))
		}
		if size < head || size > len(oob) {
			return d
		}
		level, kind := int(binary.NativeEndian.Uint32(oob[head-8:])), int(binary.NativeEndian.Uint32(oob[head-4:]))
		d.receive(level, kind, oob[head:size])
		oob = oob[min(len(oob), syscall.CmsgSpace(size-head)):]
	}
	return d
}

func (d *Datagram) receive(level, kind int, data []byte) {
	switch {
	case level == syscall.IPPROTO_IP && kind == syscall.IP_TOS && len(data) >= 1:
		d.Meta.Class = data[0]
	case len(data) < 4:
	case level == syscall.IPPROTO_IPV6 && kind == syscall.IPV6_TCLASS:
		d.Meta.Class = uint8(binary.NativeEndian.Uint32(data))
	case level == syscall.IPPROTO_IP && kind == syscall.IP_TTL, level == syscall.IPPROTO_IPV6 && kind == ipv6HopLimit:
		d.Meta.Hops = uint8(binary.NativeEndian.Uint32(data))
	case level == syscall.IPPROTO_UDP && kind == udpGRO:
		d.Segment = int(binary.NativeEndian.Uint32(data))
	}
}

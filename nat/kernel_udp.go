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
	"time"
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
func (k *Kernel) DialUDP(ctx context.Context, from netip.Addr, ua netip.AddrPort) (UDPConn, error) {
	v4 := ua.Addr().Is4()
	d := net.Dialer{Control: func(network, address string, c syscall.RawConn) error {
		if err := k.control(network, address, c); err != nil {
			return err
		}
		return control(c, func(fd int) error {
			if err := prepareUDP(fd, v4); err != nil || !from.IsValid() {
				return err
			}
			return setAnySource(fd, v4)
		})
	}}
	var local netip.AddrPort
	if from.IsValid() {
		local = netip.AddrPortFrom(from, 0)
	}
	conn, err := d.DialUDP(ctx, "udp", local, ua)
	if err != nil {
		return nil, fmt.Errorf("nat: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("nat: %w", err), conn.Close())
	}
	// A smaller buffer, where the host allows no more, loses bursts only.
	_ = conn.SetReadBuffer(udpReceiveBuffer)
	c := &kernelUDP{conn: conn, raw: raw, v4: v4}
	c.tryReceive = c.receive
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
	conn *net.UDPConn
	raw  syscall.RawConn
	v4   bool

	// The receiver's, kept so that a datagram costs no allocation.
	tryReceive func(fd uintptr) bool
	datagram   Datagram
	errno      syscall.Errno
	oob        [96]byte // three messages of at most 24
	vector     syscall.Iovec
	header     syscall.Msghdr

	// The sender's: what was last asked for, and how it is said.
	meta    Meta
	control []byte
	whole   bool
}

// Close implements [UDPConn].
func (c *kernelUDP) Close() error { return c.conn.Close() }

// pollPause is between two tries to wait on a socket that Go's poller gives up.
const pollPause = time.Millisecond

// Receive implements [UDPConn].
func (c *kernelUDP) Receive() (Datagram, error) {
	for {
		err := c.raw.Read(c.tryReceive)
		switch {
		case err == nil && c.errno == 0:
			return c.datagram, nil
		case err == nil:
			return Datagram{}, c.explain(c.errno)
		case errors.Is(err, net.ErrClosed):
			return Datagram{}, err
		}
		// The poller takes an error without room to send for a broken
		// descriptor (runtime/netpoll_epoll.go), until the next event. But it
		// is an ICMP error that came while the send buffer was full, and the
		// flow must not end of it.
		var said *networkError
		if outer := c.raw.Control(func(fd uintptr) { said = dequeueError(int(fd), c.v4) }); outer == nil && said != nil {
			return Datagram{}, said
		}
		time.Sleep(pollPause)
	}
}

// receive is recvmsg(2) into a room that is taken only for the call. Package net
// would want the room before the wait, for every idle flow, and package syscall
// would allocate the sender's address.
func (c *kernelUDP) receive(fd uintptr) bool {
	r := newRoom()
	c.vector.Base = &r.data[0]
	c.vector.SetLen(len(r.data))
	c.header = syscall.Msghdr{Iov: &c.vector, Iovlen: 1, Control: &c.oob[0]}
	c.header.SetControllen(len(c.oob))
	var n uintptr
	for {
		n, _, c.errno = syscall.Syscall(syscall.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&c.header)), 0)
		if c.errno != syscall.EINTR {
			break
		}
	}
	c.vector.Base = nil
	if c.errno != 0 {
		r.free()
		return c.errno != syscall.EAGAIN
	}
	c.datagram = received(c.oob[:c.header.Controllen])
	if c.datagram.Data, c.datagram.Free = r.data[:n], r.free; n <= commonDatagram {
		p := newParcel(r.data[:n])
		c.datagram.Data, c.datagram.Free = p.data, p.free
		r.free()
	}
	return true
}

// explain looks for what the error queue says about an error.
func (c *kernelUDP) explain(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	var said *networkError
	if outer := c.raw.Control(func(fd uintptr) { said = dequeueError(int(fd), c.v4) }); outer != nil || said == nil {
		return err
	}
	return said
}

// Send implements [UDPConn].
func (c *kernelUDP) Send(d Datagram) error {
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
	if _, _, err := c.conn.WriteMsgUDPAddrPort(d.Data, control, netip.AddrPort{}); err != nil {
		return c.explain(err)
	}
	return nil
}

// use prepares for datagrams with m. Class and hop limit go with each as
// control messages; not to fragment is a state of the socket.
func (c *kernelUDP) use(m Meta) error {
	if m.Whole != c.whole {
		if err := control(c.raw, func(fd int) error { return setWhole(fd, c.v4, m.Whole) }); err != nil {
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

package main

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawConnect is connect(2) with an address that x/sys cannot say.
func rawConnect(fd int, a *unix.RawSockaddr) error {
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(a)), unsafe.Sizeof(*a))
	if errno != 0 {
		return errno
	}
	return nil
}

// control is one control message with an int.
func control(level, kind, value int) []byte {
	b := make([]byte, unix.CmsgSpace(4))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = int32(level), int32(kind)
	h.SetLen(unix.CmsgLen(4))
	binary.NativeEndian.PutUint32(b[unix.CmsgLen(0):], uint32(value))
	return b
}

func (s *socket) sendmsg(c Call) Result {
	data := c.Data
	if data == nil {
		data = make([]byte, c.N)
		_, _ = pattern(c.Seed).Read(data) // never fails
	}
	var oob []byte
	if c.Class != 0 {
		level, name := optClass.of(s.v6)
		oob = control(level, name, c.Class)
	}
	var to unix.Sockaddr
	if c.Addr.IsValid() {
		to = s.sockaddr(c.Addr)
	}
	n, err := unix.SendmsgN(s.fd, data, oob, to, unix.MSG_NOSIGNAL|c.Flags)
	r := failed(err)
	r.N, r.Sum = n, sumOf(data)
	return r
}

func (s *socket) recvmsg(c Call) Result {
	until := time.Now().Add(c.Wait)
	buf, oob := make([]byte, 65536), make([]byte, 512)
	for {
		n, oobn, _, from, err := unix.Recvmsg(s.fd, buf, oob, c.Flags)
		if errors.Is(err, unix.EAGAIN) {
			// An error queue that is not empty wakes poll too, so the time is
			// kept here.
			events, ok := s.poll(unix.POLLIN, max(0, time.Until(until)))
			if !ok || events&unix.POLLIN == 0 && time.Now().After(until) {
				return Result{Late: true, Class: -1, Hops: -1}
			}
			if events&unix.POLLIN == 0 {
				time.Sleep(5 * time.Millisecond)
			}
			continue
		}
		r := failed(err)
		if err == nil {
			r.Data = append(r.Data, buf[:n]...)
			r.N, r.Sum, r.Addr = n, sumOf(buf[:n]), addrPort(from)
			r.Class, r.Hops = ancillary(oob[:oobn])
		}
		return r
	}
}

// ancillary reads the traffic class and the hop limit of a datagram; -1 is that
// it was not told.
func ancillary(oob []byte) (class, hops int) {
	class, hops = -1, -1
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for _, m := range messages {
		value := 0
		switch {
		case len(m.Data) >= 4:
			value = int(binary.NativeEndian.Uint32(m.Data))
		case len(m.Data) > 0:
			value = int(m.Data[0]) // IPv4 tells the class in one byte
		}
		switch {
		case m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_TCLASS, m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_TOS:
			class = value
		case m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_HOPLIMIT, m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_TTL:
			hops = value
		}
	}
	return
}

// flowClass is the traffic class of what a TCP socket received last: there is
// no control message with the bytes of a stream.
func (s *socket) flowClass() Result {
	level, name := unix.SOL_IP, unix.IP_PKTOPTIONS
	if s.v6 {
		level, name = unix.SOL_IPV6, unix.IPV6_2292PKTOPTIONS
	}
	buf := make([]byte, 512)
	size := uint32(len(buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(s.fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return Result{Errno: errno}
	}
	class, hops := ancillary(buf[:size])
	return Result{Class: class, Hops: hops}
}

// errors empties the error queue, having waited for its first entry.
func (s *socket) errors(c Call) Result {
	if _, ok := s.poll(0, c.Wait); !ok {
		return Result{Late: true}
	}
	time.Sleep(2 * time.Millisecond) // the kernel queues first, and then fails the socket
	var r Result
	buf, oob := make([]byte, 65536), make([]byte, 512)
	for {
		n, oobn, _, to, err := unix.Recvmsg(s.fd, buf, oob, unix.MSG_ERRQUEUE)
		if err != nil {
			if !errors.Is(err, unix.EAGAIN) {
				r.Errno = failed(err).Errno
			}
			r.Late = len(r.Queue) == 0
			return r
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return failed(err)
		}
		for _, m := range messages {
			if q, ok := queuedError(m); ok {
				q.To, q.Quote = addrPort(to), append([]byte{}, buf[:n]...)
				r.Queue = append(r.Queue, q)
			}
		}
	}
}

// queuedError reads a struct sock_extended_err and the sockaddr of the offender
// behind it.
func queuedError(m unix.SocketControlMessage) (QueuedError, bool) {
	isErr := m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR || m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR
	if !isErr || len(m.Data) < 16 {
		return QueuedError{}, false
	}
	q := QueuedError{
		Errno: syscall.Errno(binary.NativeEndian.Uint32(m.Data)),
		Type:  m.Data[5], Code: m.Data[6], Info: binary.NativeEndian.Uint32(m.Data[8:]),
	}
	switch m.Data[4] {
	case unix.SO_EE_ORIGIN_LOCAL:
		q.Origin = "local"
	case unix.SO_EE_ORIGIN_ICMP, unix.SO_EE_ORIGIN_ICMP6:
		q.Origin = "icmp"
	default:
		q.Origin = "other"
	}
	offender := m.Data[16:]
	if len(offender) < 8 {
		return q, true
	}
	switch family := binary.NativeEndian.Uint16(offender); {
	case family == unix.AF_INET:
		q.Offender = netip.AddrFrom4([4]byte(offender[4:8]))
	case family == unix.AF_INET6 && len(offender) >= 24:
		q.Offender = netip.AddrFrom16([16]byte(offender[8:24]))
	}
	return q, true
}

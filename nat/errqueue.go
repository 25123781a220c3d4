package nat

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"
)

// The kernel keeps ICMP errors about a socket's packets in the socket's error
// queue, if asked to (ip(7), IP_RECVERR): there it says which type and code
// came, which its errno does not.

// Numbers that package syscall lacks (linux/errqueue.h).
const (
	originLocal = 1 // SO_EE_ORIGIN_LOCAL: the kernel itself, before the packet left
	originICMP  = 2 // SO_EE_ORIGIN_ICMP
	originICMP6 = 3 // SO_EE_ORIGIN_ICMP6

	sockExtendedErr = 16 // sizeof(struct sock_extended_err); the offender's address follows

	sockaddrIn4Addr, sockaddrIn4Size = 4, 8 // up to the address, what is needed of it
	sockaddrIn6Addr, sockaddrIn6Size = 8, 24
)

// networkError is one entry of an error queue.
type networkError struct {
	errno    syscall.Errno
	icmp     ICMP
	datagram []byte // payload of the packet it is about; nil if that is being sent
}

// Error implements error.
func (e *networkError) Error() string {
	return fmt.Sprintf("%v: ICMP type %d code %d from %v", e.errno, e.icmp.Type, e.icmp.Code, e.icmp.From)
}

// Unwrap gives the errno that a program would have got.
func (e *networkError) Unwrap() error { return e.errno }

// ICMP implements [ICMPError].
func (e *networkError) ICMP() (from netip.Addr, kind, code uint8, info uint32) {
	return e.icmp.From, e.icmp.Type, e.icmp.Code, e.icmp.Info
}

// Datagram implements [DatagramError].
func (e *networkError) Datagram() []byte { return e.datagram }

// dequeueError takes the first entry of the socket's error queue that tells
// of ICMP, or of a packet that the kernel found too big; nil if there is none.
func dequeueError(fd int, v4 bool) *networkError {
	var payload [maxQuote]byte
	var oob [256]byte
	for range maxQueued {
		n, oobn, _, _, err := syscall.Recvmsg(fd, payload[:], oob[:], syscall.MSG_ERRQUEUE)
		if err != nil {
			return nil // EAGAIN: the queue is empty
		}
		if e := parseExtendedError(oob[:oobn], v4); e != nil {
			if e.datagram == nil {
				return e // the kernel's own, about the datagram in hand
			}
			e.datagram = append(e.datagram, payload[:n]...)
			return e
		}
	}
	return nil
}

// maxQueued bounds how many entries are passed over that tell of nothing.
const maxQueued = 64

// parseExtendedError reads the control message of an entry (struct
// sock_extended_err). An entry that came from the network has a datagram that
// is not nil.
func parseExtendedError(oob []byte, v4 bool) *networkError {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		isError := m.Header.Level == syscall.IPPROTO_IP && m.Header.Type == syscall.IP_RECVERR ||
			m.Header.Level == syscall.IPPROTO_IPV6 && m.Header.Type == syscall.IPV6_RECVERR
		if !isError || len(m.Data) < sockExtendedErr {
			continue
		}
		e := &networkError{errno: syscall.Errno(binary.NativeEndian.Uint32(m.Data))}
		origin, info := m.Data[4], binary.NativeEndian.Uint32(m.Data[8:])
		switch {
		case origin == originICMP && v4, origin == originICMP6 && !v4:
			e.icmp = ICMP{offender(m.Data[sockExtendedErr:]), m.Data[5], m.Data[6], info}
			e.datagram = []byte{}
			return e
		case origin == originLocal && e.errno == syscall.EMSGSIZE:
			e.icmp = ICMP{Type: icmp6TooBig, Info: info}
			if v4 {
				e.icmp = ICMP{Type: icmp4Unreachable, Code: icmp4NeedsFrag, Info: info}
			}
			return e
		}
	}
	return nil
}

// offender reads the address of who sent an ICMP error.
func offender(sockaddr []byte) netip.Addr {
	if len(sockaddr) < 2 {
		return netip.Addr{}
	}
	switch family := binary.NativeEndian.Uint16(sockaddr); {
	case family == syscall.AF_INET && len(sockaddr) >= sockaddrIn4Size:
		return netip.AddrFrom4([4]byte(sockaddr[sockaddrIn4Addr:]))
	case family == syscall.AF_INET6 && len(sockaddr) >= sockaddrIn6Size:
		return netip.AddrFrom16([16]byte(sockaddr[sockaddrIn6Addr:]))
	}
	return netip.Addr{}
}

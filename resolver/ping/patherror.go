package ping

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// PathError is what the path to an address said about a request: an ICMP error
// that came back, or what our own kernel said instead of sending the request,
// put as the ICMP error that a router would have sent.
type PathError struct {
	From  netip.Addr    // who said so; invalid if our kernel refused to send
	Kind  uint8         // the type of ICMP or ICMPv6, as is the address's family
	Code  uint8         // its code
	Info  uint32        // the MTU in bytes for too big, the pointer for a parameter problem, else 0
	Errno syscall.Errno // what Linux makes of it
}

// ICMP returns the error as it stood in the packet.
func (e *PathError) ICMP() (from netip.Addr, kind, code uint8, info uint32) {
	return e.From, e.Kind, e.Code, e.Info
}

// Error implements error.
func (e *PathError) Error() string {
	if !e.From.IsValid() {
		return e.Errno.Error() // nobody else has said anything
	}
	text := fmt.Sprintf("ICMP type %d code %d from %v: %v", e.Kind, e.Code, e.From, e.Errno)
	if e.Info != 0 {
		text += fmt.Sprintf(" (%d)", e.Info)
	}
	return text
}

// Unwrap returns the [syscall.Errno].
func (e *PathError) Unwrap() error { return e.Errno }

// extendedSize is the size of struct sock_extended_err (linux/errqueue.h); the
// sender's socket address follows it.
const extendedSize = 16

// parseExtended reads the control messages that come with a message of the
// error queue. It returns nil unless they hold an ICMP error: what our own
// kernel refused to send has been said to the sender.
func parseExtended(control []byte) *PathError {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		v6 := m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		v4 := m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR
		if !v4 && !v6 || len(m.Data) < extendedSize {
			continue
		}
		origin := m.Data[4]
		if v6 && origin != unix.SO_EE_ORIGIN_ICMP6 || v4 && origin != unix.SO_EE_ORIGIN_ICMP {
			return nil
		}
		e := &PathError{
			Errno: syscall.Errno(binary.NativeEndian.Uint32(m.Data)), Kind: m.Data[5], Code: m.Data[6],
			From: offender(m.Data[extendedSize:]),
		}
		if hasInfo(v6, e.Kind, e.Code) {
			e.Info = binary.NativeEndian.Uint32(m.Data[8:])
		}
		return e
	}
	return nil
}

// hasInfo tells which errors carry an MTU or a pointer; the others' field is
// unused, and a sender may put anything there.
func hasInfo(v6 bool, kind, code uint8) bool {
	if v6 {
		return kind == uint8(ipv6.ICMPTypePacketTooBig) || kind == uint8(ipv6.ICMPTypeParameterProblem)
	}
	return kind == uint8(ipv4.ICMPTypeParameterProblem) ||
		kind == uint8(ipv4.ICMPTypeDestinationUnreachable) && code == codeFragmentationNeeded
}

// offender reads a struct sockaddr_in or sockaddr_in6; it is invalid if the
// kernel does not know who sent the error.
func offender(b []byte) netip.Addr {
	if len(b) < 2 {
		return netip.Addr{}
	}
	switch family := binary.NativeEndian.Uint16(b); {
	case family == unix.AF_INET && len(b) >= unix.SizeofSockaddrInet4:
		return netip.AddrFrom4([4]byte(b[4:]))
	case family == unix.AF_INET6 && len(b) >= unix.SizeofSockaddrInet6:
		return netip.AddrFrom16([16]byte(b[8:]))
	}
	return netip.Addr{}
}

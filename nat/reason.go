package nat

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
)

// Reason is what a client is told about a flow that could not be had. How it
// looks on the wire depends on the protocol and is decided by the room that
// writes packets.
type Reason uint8

// The reasons, each with the wire answer to a TCP SYN and to a UDP datagram.
const (
	// Refused: RST; ICMP port unreachable.
	Refused Reason = iota + 1
	// NetUnreachable: ICMPv6 destination unreachable code 0 (no route),
	// ICMPv4 code 0.
	NetUnreachable
	// Unreachable: ICMPv6 destination unreachable code 3 (address),
	// ICMPv4 code 1 (host).
	Unreachable
	// Prohibited: ICMPv6 destination unreachable code 1, ICMPv4 code 13.
	Prohibited
	// Timeout: silence, so that the client's own timer runs.
	Timeout
	// Busy: a limit of ours was reached. RST; ICMP administratively
	// prohibited.
	Busy
)

// String returns the reason's name as it stands in logs.
func (r Reason) String() string {
	switch r {
	case Refused:
		return "refused"
	case NetUnreachable:
		return "net-unreachable"
	case Unreachable:
		return "unreachable"
	case Prohibited:
		return "prohibited"
	case Timeout:
		return "timeout"
	case Busy:
		return "busy"
	}
	return fmt.Sprintf("reason(%d)", uint8(r))
}

// ReasonFor decides what a client is told about err. It is the one place that
// does: errors of the kernel and of the resolver both arrive as a wrapped
// [syscall.Errno].
func ReasonFor(err error) Reason {
	switch {
	case errors.Is(err, errBusy):
		return Busy
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return Refused
	case errors.Is(err, syscall.ENETUNREACH):
		return NetUnreachable
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL),
		errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENETDOWN), errors.Is(err, syscall.EHOSTDOWN):
		return Unreachable
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return Prohibited
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return Timeout
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM),
		errors.Is(err, syscall.EAGAIN):
		return Busy
	}
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return Timeout
	}
	return Unreachable
}

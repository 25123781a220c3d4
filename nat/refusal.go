package nat

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// Reason is why a client cannot have a flow, or a datagram cannot reach its
// member. How it looks on the wire depends on the protocol and is decided by
// the room that writes packets.
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
	// Relayed: the ICMP error that the network sent us, with its own type and
	// code.
	Relayed
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
	case Relayed:
		return "relayed"
	}
	return fmt.Sprintf("reason(%d)", uint8(r))
}

// ICMP is an ICMP error as the network sent it about one of our packets. Type
// and Code are those of the flow's own family (RFC 792, RFC 4443).
type ICMP struct {
	From       netip.Addr // who sent it; the zero Addr if it was our own kernel
	Type, Code uint8
	Info       uint32 // the MTU in bytes, or the pointer to the parameter; else 0
}

// Refusal is what a client is told. ICMP counts only where Reason is Relayed.
type Refusal struct {
	Reason Reason
	ICMP   ICMP
}

// String returns the refusal as it stands in logs.
func (r Refusal) String() string {
	if r.Reason == Relayed {
		return fmt.Sprintf("relayed type %d code %d", r.ICMP.Type, r.ICMP.Code)
	}
	return r.Reason.String()
}

// ICMPError is an error that the network told us of by ICMP. Rooms that do not
// know each other share it by its method.
type ICMPError interface {
	error
	// ICMP returns what came; the results are the fields of [ICMP].
	ICMP() (from netip.Addr, kind, code uint8, info uint32)
}

// The types of ICMP that are errors about a packet: RFC 792, RFC 4443.
const (
	icmp4Unreachable = 3
	icmp4TimeExceed  = 11
	icmp4Parameter   = 12
	icmp4NeedsFrag   = 4 // a code of icmp4Unreachable (RFC 1191 section 4)

	icmp6Unreachable = 1
	icmp6TooBig      = 2
	icmp6TimeExceed  = 3
	icmp6Parameter   = 4
)

// RefusalFor decides what a client of an address of aa's family is told about
// err. It is the one place that does. What the network said by ICMP is passed
// on as it is; errors of the kernel and of the resolver arrive as a wrapped
// [syscall.Errno].
func RefusalFor(err error, aa netip.Addr) Refusal {
	var said ICMPError
	if !errors.Is(err, errBusy) && errors.As(err, &said) {
		from, kind, code, info := said.ICMP()
		if isRelayed(kind, aa.Is4()) {
			return Refusal{Relayed, ICMP{from, kind, code, info}}
		}
	}
	return Refusal{Reason: reasonFor(err)}
}

func isRelayed(kind uint8, v4 bool) bool {
	if v4 {
		return kind == icmp4Unreachable || kind == icmp4TimeExceed || kind == icmp4Parameter
	}
	return kind >= icmp6Unreachable && kind <= icmp6Parameter
}

// reasonFor is RefusalFor for what is not ICMP.
func reasonFor(err error) Reason {
	for _, known := range reasons {
		for _, target := range known.errs {
			if errors.Is(err, target) {
				return known.reason
			}
		}
	}
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return Timeout
	}
	return Unreachable
}

// reasons are looked through from the first to the last.
var reasons = []struct {
	reason Reason
	errs   []error
}{
	{Timeout, []error{LimitDraining}}, // the client's next try may meet our successor
	{Busy, []error{errBusy}},
	{Refused, []error{syscall.ECONNREFUSED, syscall.ECONNRESET}},
	{NetUnreachable, []error{syscall.ENETUNREACH}},
	{Unreachable, []error{syscall.EHOSTUNREACH, syscall.EINVAL, syscall.ENETDOWN, syscall.EHOSTDOWN}},
	{Prohibited, []error{syscall.EACCES, syscall.EPERM}},
	{Timeout, []error{syscall.ETIMEDOUT, context.DeadlineExceeded, context.Canceled}},
	// What this host has run out of: descriptors, memory, ports.
	{Busy, []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EAGAIN, syscall.EADDRNOTAVAIL}},
}

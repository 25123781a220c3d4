package nat

import (
	"context"
	"errors"
	"io"
	"net/netip"
)

// Leg is one half of an established TCP flow. Nothing of it waits: it says by
// Watch when there may be something to do. But for Watch, its methods are called
// by one goroutine at a time.
type Leg interface {
	// Watch has notify called from now on, from any goroutine, whenever there
	// may be something to read, or room to write again, or the leg has failed.
	// What has happened before may go unsaid. notify does not wait; it calls
	// the legs of its flow only if free says that the caller has nothing
	// better to do and holds no lock.
	Watch(notify func(free bool))

	// Failed reports whether the connection has been reset or has failed. To
	// have ended with FIN both ways is neither.
	Failed() bool

	// CloseWrite sends FIN and leaves the other direction open.
	CloseWrite() error

	// Reset ends the connection with RST and frees it.
	Reset() error

	// Close frees a connection that has ended, with FIN both ways. After Reset
	// it does nothing.
	Close() error
}

// InsideTCP is the client's half.
type InsideTCP interface {
	Leg
	TryReaderFrom

	// MoveTo writes to w what the client has sent, as far as neither has to be
	// waited for. It returns nil for now, [io.EOF] after the client's FIN, an
	// error that is [syscall.ECONNRESET] after its RST, or w's error.
	MoveTo(w TryWriter) error
}

// OutsideTCP is the member's half.
type OutsideTCP interface {
	Leg
	TryWriter

	// MoveTo has w take what the member has sent; else it is as that of
	// [InsideTCP].
	MoveTo(w TryReaderFrom) error
}

// TryWriter is a writer that does not wait.
type TryWriter interface {
	// TryWrite returns how much was written, without an error if the rest would
	// have to wait. It keeps nothing of b.
	TryWrite(b []byte) (int, error)
}

// TryReaderFrom is a writer that reads what it takes straight to where it keeps
// it, and does not wait.
type TryReaderFrom interface {
	// TryReadFrom takes up to n bytes, all of which r has without waiting, and
	// returns how many; 0 without an error if it would have to wait for room,
	// or if r failed.
	TryReadFrom(r io.Reader, n int) (int, error)
}

// TCPInside is a client's SYN that has not been answered. Exactly one of
// Accept and Reject is called, once.
type TCPInside interface {
	// Meta returns what the SYN's IP header says.
	Meta() Meta

	// Accept completes the client's handshake and blocks until it has, or
	// until ctx ends.
	Accept(ctx context.Context) (InsideTCP, error)

	// Reject answers the SYN the way the network would have.
	Reject(Refusal)
}

// Detacher is a [TCPInside] or [UDPInside] that does not need ServeTCP or ServeUDP
// to block for as long as the flow lives: an idle flow then costs no goroutine.
type Detacher interface {
	// Detach says that the call is about to return. ended is to be called when
	// the flow has ended.
	Detach() (ended func())
}

// UDPConn is one half of a UDP flow. Nothing of it waits: it says by Watch when
// there may be something to do. But for Watch, its methods are called by one
// goroutine at a time. After Close they fail with [net.ErrClosed].
type UDPConn interface {
	// Watch has notify called from now on, from any goroutine, whenever there
	// may be something to receive, or room to send again, or the connection was
	// closed. Else it is as that of [Leg].
	Watch(notify func(free bool))

	// TryReceive returns a datagram, or several, which the caller frees, or
	// [ErrNotYet] if there is none. An [ICMPError] is about one that was sent,
	// and the connection stays usable.
	TryReceive() (Datagram, error)

	// TrySend sends a datagram, or several, and keeps nothing of it; [ErrNotYet]
	// says that it would have to wait for room. An error that is a
	// [DatagramError] with a datagram is about an earlier one, and this one has
	// not been sent; nor has any of several, whatever the error.
	TrySend(Datagram) error

	// Close frees the connection.
	Close() error
}

// ErrNotYet is what a [UDPConn] says instead of waiting.
var ErrNotYet = errors.New("nat: not yet")

// DatagramError is an [ICMPError] that knows which datagram it is about.
type DatagramError interface {
	ICMPError
	// Datagram returns the head of the datagram's payload, as much as the
	// network quoted; nil if it is the one that was being sent.
	Datagram() []byte
}

// UDPInside is the client's half of a UDP flow. The datagram that began the
// flow is there already, so the first TryReceive has it. The room that reads
// packets may end the flow at any moment; that is as if it had been closed.
type UDPInside interface {
	UDPConn

	// Reject sends the client the ICMP error that stands for the refusal,
	// quoting a packet that carries datagram. The flow stays usable: an
	// unconnected client socket may go on sending.
	Reject(r Refusal, datagram []byte)
}

// EchoInside is one echo request of a client.
type EchoInside interface {
	// Data is what follows the echo header (RFC 4443 section 4.1, RFC 792).
	// The caller must not keep it beyond the Serve call nor write to it.
	Data() []byte

	// Meta returns what the request's IP header says.
	Meta() Meta

	// Reply answers from AA with the client's own identifier and sequence
	// number. It is called at most once.
	Reply(data []byte) error

	// Reject answers with the ICMP error that stands for the refusal, quoting
	// the request.
	Reject(Refusal)
}

// Resolver finds the member that stands behind an anycast address.
type Resolver interface {
	// Resolve returns the unicast address of the member to use for a new
	// flow of client to aa. Its errors say what the client is to be told by
	// wrapping a [syscall.Errno]; see [RefusalFor].
	Resolve(ctx context.Context, client, aa netip.Addr) (netip.Addr, error)

	// Suspect says that ua did not serve a flow to aa as a member would. A
	// pin that names it must not be handed out again unasked.
	Suspect(aa, ua netip.Addr)
}

// Outside opens the outside halves of flows. They must bypass the TUN. The
// errors are the kernel's, and where the network has spoken an [ICMPError].
// [Kernel] is one.
type Outside interface {
	// DialTCP connects to a member, from an address that may be another host's;
	// the zero Addr leaves it to the kernel. Of m the flow has the DSCP and the
	// hop limit.
	DialTCP(ctx context.Context, from netip.Addr, ua netip.AddrPort, m Meta) (OutsideTCP, error)
	// DialUDP opens a socket that sends to a member and hears only it; from is as
	// for DialTCP.
	DialUDP(ctx context.Context, from netip.Addr, ua netip.AddrPort) (UDPConn, error)
}

// Pinger sends one ICMP echo request to a member and waits for its reply.
type Pinger interface {
	// Echo returns the data of the reply, which the caller owns. hops and
	// whole are as in [Meta].
	Echo(ctx context.Context, ua netip.Addr, hops uint8, whole bool, data []byte) ([]byte, error)
}

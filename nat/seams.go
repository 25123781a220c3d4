package nat

import (
	"context"
	"io"
	"net/netip"
)

// TCPConn is one leg of a TCP flow, inside or outside. One goroutine reads and
// one writes; Close and Reset may be called from any, and unblock both.
type TCPConn interface {
	// Read returns io.EOF after the peer's FIN and an error that is
	// [syscall.ECONNRESET] after its RST.
	io.ReadWriteCloser

	// WriteTo hands what is read to w, and returns nil after the peer's FIN.
	// It holds no buffer while there is nothing to read: most flows are idle
	// most of the time.
	io.WriterTo

	// CloseWrite sends FIN and leaves the other direction open.
	CloseWrite() error

	// Reset ends the connection with RST and frees it. Calling Close
	// afterwards does no harm.
	Reset() error

	// AwaitReset blocks until the connection has been reset or has failed, and
	// reports true, or until stop is closed, and reports false. To have ended
	// with FIN both ways is neither. It is called only while no Read is.
	AwaitReset(stop <-chan struct{}) bool
}

// TryWriter is a writer that can write what needs no waiting, straight from where
// it lies. What is given to WriteTo of a [TCPConn] may be one.
type TryWriter interface {
	// TryWrite returns how much was written, without an error if the rest would
	// have to wait. It keeps nothing of b.
	TryWrite(b []byte) (int, error)
}

// TryReaderFrom is a writer that can read what it takes straight to where it
// keeps it. What is given to WriteTo of a [TCPConn] may be one.
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
	Accept(ctx context.Context) (TCPConn, error)

	// Reject answers the SYN the way the network would have.
	Reject(Refusal)
}

// UDPConn is one half of a UDP flow. One goroutine receives and one sends;
// Close may be called from any, and unblocks both with [net.ErrClosed].
type UDPConn interface {
	// Receive returns a datagram, or several, which the caller frees. An [ICMPError]
	// is about one that was sent, and the connection stays usable.
	Receive() (Datagram, error)

	// Send sends a datagram, or several, and keeps nothing of it. An error that
	// is a [DatagramError] with a datagram is about an earlier one, and this one
	// has not been sent; nor has any of several, whatever the error.
	Send(Datagram) error

	Close() error
}

// DatagramError is an [ICMPError] that knows which datagram it is about.
type DatagramError interface {
	ICMPError
	// Datagram returns the head of the datagram's payload, as much as the
	// network quoted; nil if it is the one that was being sent.
	Datagram() []byte
}

// UDPInside is the client's half of a UDP flow. The datagram that began the
// flow is there already, so the first Receive does not block.
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
	// DialTCP connects to a member. Of m the flow has the DSCP and the hop
	// limit.
	DialTCP(ctx context.Context, ua netip.AddrPort, m Meta) (TCPConn, error)
	// DialUDP opens a socket that sends to a member and hears only it.
	DialUDP(ctx context.Context, ua netip.AddrPort) (UDPConn, error)
}

// Pinger sends one ICMP echo request to a member and waits for its reply.
type Pinger interface {
	// Echo returns the data of the reply, which the caller owns. hops and
	// whole are as in [Meta].
	Echo(ctx context.Context, ua netip.Addr, hops uint8, whole bool, data []byte) ([]byte, error)
}

package nat

import (
	"context"
	"io"
	"net"
	"net/netip"
)

// TCPConn is one leg of a TCP flow, inside or outside. One goroutine reads and
// one writes; Close and Reset may be called from any, and unblock both.
type TCPConn interface {
	// Read returns io.EOF after the peer's FIN and an error that is
	// [syscall.ECONNRESET] after its RST.
	io.ReadWriteCloser

	// CloseWrite sends FIN and leaves the other direction open.
	CloseWrite() error

	// Reset ends the connection with RST and frees it. Calling Close
	// afterwards does no harm.
	Reset() error
}

// TCPInside is a client's SYN that has not been answered. Exactly one of
// Accept and Reject is called, once.
type TCPInside interface {
	// Accept completes the client's handshake and blocks until it has.
	Accept() (TCPConn, error)

	// Reject answers the SYN the way the network would have.
	Reject(Reason)
}

// UDPInside is the client's half of a UDP flow: Read returns one datagram the
// client sent, which may be empty; Write sends one from AA. The datagram that
// began the flow is there already, so the first Read does not block.
type UDPInside interface {
	io.ReadWriteCloser

	// Reject sends the client the ICMP error that stands for the reason,
	// quoting datagram as the client sent it. The flow stays usable: an
	// unconnected client socket may go on sending.
	Reject(r Reason, datagram []byte)
}

// EchoInside is one echo request of a client.
type EchoInside interface {
	// Data is what follows the echo header (RFC 4443 section 4.1, RFC 792).
	// The caller must not keep it beyond the Serve call nor write to it.
	Data() []byte

	// Reply answers from AA with the client's own identifier and sequence
	// number. It is called at most once.
	Reply(data []byte) error

	// Reject answers with the ICMP error that stands for the reason, quoting
	// the request.
	Reject(Reason)
}

// Resolver finds the member that stands behind an anycast address.
type Resolver interface {
	// Resolve returns the unicast address of the member to use for a new
	// flow of client to aa. Its errors say what the client is to be told by
	// wrapping a [syscall.Errno]; see [ReasonFor].
	Resolve(ctx context.Context, client, aa netip.Addr) (netip.Addr, error)

	// Suspect says that ua did not serve a flow to aa as a member would. A
	// pin that names it must not be handed out again unasked.
	Suspect(aa, ua netip.Addr)
}

// DialFunc opens the outside half of a TCP or UDP flow; network is "tcp" or
// "udp". The connection must bypass the TUN.
type DialFunc func(ctx context.Context, network string, ua netip.AddrPort) (net.Conn, error)

// Pinger sends one ICMP echo request to a member and waits for its reply.
type Pinger interface {
	// Echo returns the data of the reply, which the caller owns. hops is the
	// hop limit to send the request with, 0 for the host's default; whole says
	// that it must not be fragmented. An ICMP error that comes instead is an
	// error that has, wrapped, the method ICMP() (from netip.Addr, kind, code
	// uint8, info uint32): the sender, which is invalid if our own kernel
	// refused, the type and code in ua's family, and the MTU or pointer.
	Echo(ctx context.Context, ua netip.Addr, hops uint8, whole bool, data []byte) ([]byte, error)
}

package stack

import (
	"bytes"
	"encoding/binary"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"aarptun/nat"
)

// A client may use a port again as soon as it has closed it, before netstack
// has dealt with the last ACK of the connection before: segments are queued to
// an endpoint, and what an endpoint has queued when it ends is answered with
// RST, the new SYN too. So a SYN to an endpoint that is ending waits until that
// is done.

const (
	firstHold  = 100 * time.Microsecond // to the first look; then twice as long each time
	holds      = 13                     // together 0.8 s: the client sends its SYN again after 1 s
	maxHeldSYN = 256                    // SYNs that wait so at one time
)

// shed reports whether a new flow is to be forgotten: it would be refused, and so
// many have been refused of late that this one is not even told. It sends again
// what began it, if it is there at all.
func (s *Stack) shed(tuple nat.Tuple) bool {
	if !s.handler.Refuses(tuple) || s.refusals.Allow() {
		return false
	}
	s.stats.shed.Add(1)
	return true
}

// holdBack takes a SYN whose predecessor is still ending, and delivers it
// later. It reports false for every other SYN.
func (s *Stack) holdBack(p packet, id gstack.TransportEndpointID, f *frame) bool {
	if !s.isEnding(id) {
		return false
	}
	if s.held.Add(1) > maxHeldSYN || !s.begin() {
		s.held.Add(-1)
		s.stats.synsDropped.Add(1) // the client sends it again
		return true
	}
	later, checked := bytes.Clone(f.b), f.vnet.checked()
	go func() {
		defer s.serves.Done()
		defer s.held.Add(-1)
		for i := range holds {
			select {
			case <-time.After(firstHold << i):
			case <-s.life.Done():
				return
			}
			if !s.isEnding(id) {
				break
			}
		}
		s.link.deliver(later, p.dst.Is6(), checked)
	}()
	return true
}

// synID is the endpoint that a SYN is for; ok is false for other packets.
func synID(p packet, b []byte) (id gstack.TransportEndpointID, ok bool) {
	if p.later || p.transport != uint8(header.TCPProtocolNumber) || len(b) < p.payload+header.TCPMinimumSize {
		return id, false
	}
	segment := header.TCP(b[p.payload:])
	if segment.Flags()&(header.TCPFlagSyn|header.TCPFlagAck|header.TCPFlagRst) != header.TCPFlagSyn {
		return id, false
	}
	return gstack.TransportEndpointID{
		LocalAddress: address(p.dst), LocalPort: binary.BigEndian.Uint16(segment[header.TCPDstPortOffset:]),
		RemoteAddress: address(p.src), RemotePort: binary.BigEndian.Uint16(segment[header.TCPSrcPortOffset:]),
	}, true
}

// isEnding reports whether the tuple's endpoint has nothing left to say.
func (s *Stack) isEnding(id gstack.TransportEndpointID) bool {
	endpoint := s.endpoint(id)
	if endpoint == nil {
		return false
	}
	switch endpoint.EndpointState() {
	case tcp.StateLastAck, tcp.StateClosing, tcp.StateTimeWait, tcp.StateClose, tcp.StateError:
		return true
	}
	return false
}

// endpoint returns netstack's end of a connection, or nil.
func (s *Stack) endpoint(id gstack.TransportEndpointID) *tcp.Endpoint {
	proto := header.IPv6ProtocolNumber
	if id.LocalAddress.Len() == header.IPv4AddressSize {
		proto = header.IPv4ProtocolNumber
	}
	endpoint, _ := s.net.FindTransportEndpoint(proto, tcp.ProtocolNumber, id, nicID).(*tcp.Endpoint)
	return endpoint
}

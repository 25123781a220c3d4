package stack

import (
	"context"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A SYN-ACK is not written where netstack sends it: there the endpoint is locked,
// and the client's ACK may be back before the write has returned, since the
// kernel receives a packet while we write it. Netstack would then spin for the
// lock on another processor: it did for a third of its time when connections
// were opened as fast as possible.

// maxAnswers may wait to be written; then they are written where they are sent.
const maxAnswers = 1024

// writeLater takes a SYN-ACK; it reports false for other packets, or when too
// many wait.
func (l *link) writeLater(p *gstack.PacketBuffer) bool {
	segment := header.TCP(p.TransportHeader().Slice())
	if p.TransportProtocolNumber != header.TCPProtocolNumber || len(segment) < header.TCPMinimumSize ||
		segment.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn|header.TCPFlagAck {
		return false
	}
	select {
	case l.answers <- p.IncRef():
		return true
	default:
		return false
	}
}

// writeAnswers writes them until life ends.
func (l *link) writeAnswers(life context.Context) {
	for {
		select {
		case p := <-l.answers:
			_ = l.writePacket(p) // counted; a lost one is sent again
			p.DecRef()
		case <-life.Done():
			return
		}
	}
}

package stack

import (
	"context"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"aarptun/nat"
)

// TestACKBeyondAZeroWindowIsHeard: a client has filled the receive buffer of a
// flow that nobody reads, and a few bytes more; its ACKs must still let the
// other direction go on.
func TestACKBeyondAZeroWindowIsHeard(t *testing.T) {
	const port, sent = 4000, 100 << 10
	s, w := start(t, handler{tcp: func(ctx context.Context, _ nat.Tuple, in nat.TCPInside) {
		accepted, err := in.Accept(context.Background())
		if err != nil {
			t.Errorf("Accept: %v", err)
			return
		}
		c := blocking(accepted)
		defer func() { _ = c.Reset() }()
		if _, err := c.Write(make([]byte, sent)); err != nil {
			t.Errorf("write: %v", err)
		}
		<-ctx.Done()
	}}, Config{})
	if err := w.client.DisableNIC(1); err != nil { // the client is what follows
		t.Fatal(err)
	}
	segment := func(f header.TCPFields, data []byte) {
		s.injectPacket(tcpSegment(client6, any6, port, f, data))
	}
	next := func() header.TCP {
		_, message := split(t, w.next(t), any6, client6)
		return header.TCP(message)
	}
	s.injectPacket(synTo(client6, any6, port, 1))
	synAck := next()
	seq, first := uint32(2), synAck.SequenceNumber()+1
	got := first
	segment(header.TCPFields{SeqNum: seq, AckNum: got, Flags: header.TCPFlagAck}, nil)
	// Fill the buffer; what the other end sends is not acknowledged.
	data := make([]byte, 1400)
	for window := uint16(65535); window != 0; {
		segment(header.TCPFields{SeqNum: seq, AckNum: got, Flags: header.TCPFlagAck}, data)
		for {
			answer := next()
			if answer.AckNumber() > seq {
				seq, window = answer.AckNumber(), answer.WindowSize()
				break
			}
		}
	}
	// The client has sent 100 bytes more than the last window allows.
	beyond := seq + 100
	for got-first < sent {
		answer := next()
		if n := uint32(len(answer.Payload())); n > 0 && answer.SequenceNumber() == got {
			got += n
		}
		segment(header.TCPFields{SeqNum: beyond, AckNum: got, Flags: header.TCPFlagAck}, nil)
	}
}

func TestRenumberKeepsAWrongChecksumWrong(t *testing.T) {
	for _, flip := range []uint16{0, 1} {
		b := tcpPacket(client6, any6, 1, header.TCPFields{SeqNum: 0xfffffff0, AckNum: 7, Flags: header.TCPFlagAck})[header.IPv6MinimumSize:]
		segment := header.TCP(b)
		segment.SetChecksum(segment.Checksum() ^ flip)
		renumber(segment, 0x12345678)
		ok := segment.IsChecksumValid(address(client6), address(any6), 0, 0)
		if segment.SequenceNumber() != 0x12345678 || ok != (flip == 0) {
			t.Errorf("sequence number %#x, checksum right %t, want %t", segment.SequenceNumber(), ok, flip == 0)
		}
	}
}

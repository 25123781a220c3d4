package stack

import (
	"errors"
	"fmt"
	"os"

	"gvisor.dev/gvisor/pkg/buffer"
)

const (
	maxReadFailures = 64

	// copyBelow is the size of packet below which it is copied into room of its
	// own size: a flow's receive buffer counts the room and not the bytes. A
	// larger one is handed over as it was read.
	copyBelow = 8 << 10
)

// frame is a packet as it was read from the device.
type frame struct {
	vnet vnetHeader
	b    []byte       // the packet
	room *buffer.View // that it lies in, at its front; nil once it was handed over
}

// readPackets reads packets from the device until it is closed.
func (s *Stack) readPackets() error {
	var head [vnetSize]byte
	var f frame
	bufs := make([][]byte, 2)
	failures := 0
	defer func() {
		if f.room != nil {
			f.room.Release()
		}
	}()
	for {
		if f.room == nil {
			f.room = buffer.NewViewSize(maxPacket)
		}
		room := f.room.AsSlice()
		bufs[0], bufs[1] = head[:], room
		n, err := s.device.Read(bufs)
		switch {
		case err == nil && n >= vnetSize:
			failures = 0
			f.vnet.decode(head[:])
			f.b = room[:n-vnetSize]
			s.inject(&f)
		case errors.Is(err, os.ErrClosed):
			return nil
		default:
			// One packet the device could not make sense of is no reason to
			// end; a device that only fails is.
			s.stats.readErrors.Add(1)
			if failures++; failures >= maxReadFailures {
				return fmt.Errorf("stack: read from the device: %w", err)
			}
		}
	}
}

// deliver hands the frame's packet to the netstack. What is handed over of a
// large one lies in two pieces, the headers in one of their own: the netstack
// copies the piece that the headers lie in.
func (s *Stack) deliver(f *frame, p packet) {
	checked := f.vnet.checked() && !p.fragment
	headers := p.headers(f.b)
	if len(f.b) < copyBelow || headers >= len(f.b) {
		s.link.deliver(f.b, p.dst.Is6(), checked)
		return
	}
	packet := buffer.MakeWithData(f.b[:headers])
	f.room.CapLength(len(f.b))
	f.room.TrimFront(headers)
	rest := buffer.MakeWithView(f.room)
	f.room = nil
	packet.Merge(&rest)
	s.link.deliverBuffer(packet, p.dst.Is6(), checked)
}

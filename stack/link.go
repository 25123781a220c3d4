package stack

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	maxPacket = 65535

	// commonPacket is the most that nearly every packet has, bytes: the common
	// MTU, and a little. In a flood of datagrams each flow sends one, and all of
	// them wait for the device at one time.
	commonPacket = 2048

	// writeOffset is the room that the device wants before a packet for its
	// virtio-net header, 10 bytes (VIRTIO 1.2 section 5.1.6).
	writeOffset = 10
)

// link is the netstack's interface: what it sends goes to the device at once.
type link struct {
	device Device
	mtu    uint32
	stats  *counters
	pool   sync.Pool // of *[writeOffset+maxPacket]byte
	single sync.Pool // of *[writeOffset+commonPacket]byte
	zero   zeroWindows

	mu         sync.RWMutex
	dispatcher gstack.NetworkDispatcher
}

func newLink(d Device, mtu int, stats *counters) *link {
	return &link{
		device: d, mtu: uint32(mtu), stats: stats,
		zero:   zeroWindows{flows: make(map[gstack.TransportEndpointID]uint32)},
		pool:   sync.Pool{New: func() any { return new([writeOffset + maxPacket]byte) }},
		single: sync.Pool{New: func() any { return new([writeOffset + commonPacket]byte) }},
	}
}

// WritePackets sends the packets to the device, in one batch. The buffers have
// room behind each packet: the device joins neighbours of one flow there.
func (l *link) WritePackets(packets gstack.PacketBufferList) (int, tcpip.Error) {
	list := packets.AsSlice()
	if len(list) == 1 && list[0].Size() <= commonPacket {
		return l.writePacket(list[0])
	}
	bufs := make([][]byte, 0, len(list))
	backing := make([]*[writeOffset + maxPacket]byte, 0, len(list))
	size := 0
	for _, p := range list {
		l.zero.sent(p)
		room := l.pool.Get().(*[writeOffset + maxPacket]byte)
		buf := room[:writeOffset]
		for _, part := range p.AsSlices() {
			buf = append(buf, part...)
		}
		size += len(buf) - writeOffset
		bufs, backing = append(bufs, buf), append(backing, room)
	}
	_, err := l.device.Write(bufs, writeOffset)
	for _, room := range backing {
		l.pool.Put(room)
	}
	return l.wrote(len(list), size, err)
}

// writePacket sends one packet that has no neighbours to be joined with.
func (l *link) writePacket(p *gstack.PacketBuffer) (int, tcpip.Error) {
	l.zero.sent(p)
	room := l.single.Get().(*[writeOffset + commonPacket]byte)
	buf := room[:writeOffset]
	for _, part := range p.AsSlices() {
		buf = append(buf, part...)
	}
	_, err := l.device.Write([][]byte{buf}, writeOffset)
	l.single.Put(room)
	return l.wrote(1, len(buf)-writeOffset, err)
}

// wrote counts what was sent, and is the result of WritePackets.
func (l *link) wrote(packets, size int, err error) (int, tcpip.Error) {
	if err != nil {
		l.stats.writeErrors.Add(1)
		if errors.Is(err, os.ErrClosed) {
			return 0, &tcpip.ErrClosedForSend{}
		}
		return 0, &tcpip.ErrNoBufferSpace{} // lost on the link, as any packet may be
	}
	l.stats.packetsOut.Add(uint64(packets))
	l.stats.bytesOut.Add(uint64(size))
	return packets, nil
}

// deliver hands one packet to the netstack, which keeps a copy.
func (l *link) deliver(packet []byte, v6 bool) {
	l.mu.RLock()
	dispatcher := l.dispatcher
	l.mu.RUnlock()
	if dispatcher == nil {
		return // being stopped
	}
	proto := header.IPv4ProtocolNumber
	if v6 {
		proto = header.IPv6ProtocolNumber
	}
	p := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	dispatcher.DeliverNetworkPacket(proto, p)
	p.DecRef()
}

// Attach implements [gstack.NetworkLinkEndpoint]; nil takes the netstack away.
func (l *link) Attach(d gstack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = d
}

// IsAttached implements [gstack.NetworkLinkEndpoint].
func (l *link) IsAttached() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dispatcher != nil
}

// The rest of [gstack.LinkEndpoint]: a TUN has no link layer, and its MTU does
// not change.

func (l *link) MTU() uint32                                 { return l.mtu }
func (*link) SetMTU(uint32)                                 {}
func (*link) MaxHeaderLength() uint16                       { return 0 }
func (*link) LinkAddress() tcpip.LinkAddress                { return "" }
func (*link) SetLinkAddress(tcpip.LinkAddress)              {}
func (*link) Capabilities() gstack.LinkEndpointCapabilities { return 0 }
func (*link) Wait()                                         {}
func (*link) Close()                                        {}
func (*link) SetOnCloseAction(func())                       {}
func (*link) ARPHardwareType() header.ARPHardwareType       { return header.ARPHardwareNone }
func (*link) AddHeader(*gstack.PacketBuffer)                {}
func (*link) ParseHeader(*gstack.PacketBuffer) bool         { return true }

// readPackets reads batches from the device until it is closed.
func (s *Stack) readPackets() error {
	n := s.device.BatchSize()
	bufs, sizes := make([][]byte, n), make([]int, n)
	for i := range bufs {
		bufs[i] = make([]byte, maxPacket)
	}
	failures := 0
	for {
		got, err := s.device.Read(bufs, sizes, 0)
		for i := range got {
			s.inject(bufs[i][:sizes[i]])
		}
		switch {
		case err == nil:
			failures = 0
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

const maxReadFailures = 64

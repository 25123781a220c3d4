package stack

import (
	"errors"
	"os"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

const maxPacket = 65535

// link is how the netstack reaches the device: what it sends goes there at once.
// The device does what network hardware would: it cuts a packet of many TCP
// segments into those, and fills in checksums.
type link struct {
	device Device
	mtu    uint32
	tso    bool // the device takes TCP packets of many segments
	uso    bool // and UDP packets of many datagrams
	stats  *counters
	zero   zeroWindows
	slots  sync.Pool // of *slot

	answers chan *gstack.PacketBuffer

	// A netstack believes its interface as a whole that checksums have been
	// verified, or not at all. So it has two: one for the packets of which the
	// device says so, and one for all others.
	checked, unchecked port
}

// slot is what a packet is written from.
type slot struct {
	header  vnetHeader
	encoded [vnetSize]byte
	headers [header.IPv6MinimumSize + header.UDPMinimumSize]byte // room for those of a datagram
	parts   [][]byte
}

func newLink(d Device, c Config, stats *counters) *link {
	l := &link{
		device: d, mtu: uint32(c.MTU), tso: c.TCPOffload, uso: c.UDPOffload, stats: stats,
		zero:    zeroWindows{flows: make(map[gstack.TransportEndpointID]uint32)},
		answers: make(chan *gstack.PacketBuffer, maxAnswers),
		slots:   sync.Pool{New: func() any { return &slot{parts: make([][]byte, 0, 8)} }},
	}
	l.checked = port{link: l, capabilities: gstack.CapabilityRXChecksumOffload}
	l.unchecked = port{link: l}
	return l
}

// write sends a packet, which is parts in turn.
func (l *link) write(s *slot, size int) error {
	s.header.encode(s.encoded[:])
	s.parts[0] = s.encoded[:]
	err := l.device.Write(s.parts)
	if err != nil {
		l.stats.writeErrors.Add(1)
		return err
	}
	l.stats.packetsOut.Add(1)
	l.stats.bytesOut.Add(uint64(size))
	return nil
}

// slot returns a slot whose first part is for the header.
func (l *link) slot() *slot {
	s := l.slots.Get().(*slot)
	s.header = vnetHeader{}
	s.parts = append(s.parts[:0], nil)
	return s
}

// release gives the slot back, and lets go of what it pointed to.
func (l *link) release(s *slot) {
	clear(s.parts)
	l.slots.Put(s)
}

// writePacket sends a packet of the netstack.
func (l *link) writePacket(p *gstack.PacketBuffer) error {
	l.zero.sent(p)
	s := l.slot()
	defer l.release(s)
	size := 0
	views, skip := p.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		part := v.AsSlice()
		if skip >= len(part) {
			skip -= len(part)
			continue
		}
		s.parts = append(s.parts, part[skip:])
		size += len(part) - skip
		skip = 0
	}
	if gso := p.GSOOptions; gso.Type != gstack.GSONone && gso.NeedsCsum {
		s.header.flags = vnetNeedsChecksum
		s.header.checksumStart, s.header.checksumAt = gso.L3HdrLen, gso.CsumOffset
		if headers := p.HeaderSize(); size-headers > int(gso.MSS) {
			s.header.headers, s.header.segment, s.header.gso = uint16(headers), gso.MSS, vnetTCP6
			if gso.Type == gstack.GSOTCPv4 {
				s.header.gso = vnetTCP4
			}
		}
	}
	return l.write(s, size)
}

// deliver hands one packet to the netstack, which keeps a copy.
func (l *link) deliver(packet []byte, v6, checked bool) {
	l.deliverBuffer(buffer.MakeWithData(packet), v6, checked)
}

// deliverBuffer hands one packet to the netstack, which owns it from then on.
func (l *link) deliverBuffer(packet buffer.Buffer, v6, checked bool) {
	port := &l.unchecked
	if checked {
		port = &l.checked
	}
	port.mu.RLock()
	dispatcher := port.dispatcher
	port.mu.RUnlock()
	p := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: packet})
	defer p.DecRef()
	if dispatcher == nil {
		return // being stopped
	}
	proto := header.IPv4ProtocolNumber
	if v6 {
		proto = header.IPv6ProtocolNumber
	}
	dispatcher.DeliverNetworkPacket(proto, p)
}

// port is one of the netstack's interfaces, both on the same link.
type port struct {
	*link
	capabilities gstack.LinkEndpointCapabilities

	mu         sync.RWMutex
	dispatcher gstack.NetworkDispatcher
}

// WritePackets implements [gstack.LinkWriter].
func (p *port) WritePackets(packets gstack.PacketBufferList) (int, tcpip.Error) {
	for i, packet := range packets.AsSlice() {
		if p.writeLater(packet) {
			continue
		}
		if err := p.writePacket(packet); err != nil {
			if errors.Is(err, os.ErrClosed) {
				return i, &tcpip.ErrClosedForSend{}
			}
			return i, &tcpip.ErrNoBufferSpace{} // lost on the link, as any packet may be
		}
	}
	return packets.Len(), nil
}

// Attach implements [gstack.NetworkLinkEndpoint]; nil takes the netstack away.
func (p *port) Attach(d gstack.NetworkDispatcher) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dispatcher = d
}

// IsAttached implements [gstack.NetworkLinkEndpoint].
func (p *port) IsAttached() bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.dispatcher != nil
}

// SupportedGSO implements [gstack.GSOEndpoint].
func (p *port) SupportedGSO() gstack.SupportedGSO {
	if p.tso {
		return gstack.HostGSOSupported
	}
	return gstack.GSONotSupported
}

// GSOMaxSize implements [gstack.GSOEndpoint]: as much as an IP packet has.
func (*port) GSOMaxSize() uint32 { return maxPacket }

// The rest of [gstack.LinkEndpoint]: a TUN has no link layer, and its MTU does
// not change.

func (p *port) MTU() uint32                                   { return p.mtu }
func (*port) SetMTU(uint32)                                   {}
func (*port) MaxHeaderLength() uint16                         { return 0 }
func (*port) LinkAddress() tcpip.LinkAddress                  { return "" }
func (*port) SetLinkAddress(tcpip.LinkAddress)                {}
func (p *port) Capabilities() gstack.LinkEndpointCapabilities { return p.capabilities }
func (*port) Wait()                                           {}
func (*port) Close()                                          {}
func (*port) SetOnCloseAction(func())                         {}
func (*port) ARPHardwareType() header.ARPHardwareType         { return header.ARPHardwareNone }
func (*port) AddHeader(*gstack.PacketBuffer)                  {}
func (*port) ParseHeader(*gstack.PacketBuffer) bool           { return true }

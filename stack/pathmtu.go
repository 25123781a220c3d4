package stack

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"aarptun/nat"
)

const (
	// mtuLifetime is how long a path MTU is believed (RFC 8201 section 4: 10
	// minutes are recommended).
	mtuLifetime = 10 * time.Minute
	// maxMTUs is of how many clients the path MTU is known.
	maxMTUs = 4096
)

// pathMTUs are the MTUs of the paths to IPv6 clients behind a link that takes less
// than the device, as routers have told. Netstack sees to TCP by itself; what it
// does not see is what is sent past it, and what is sent in one piece.
type pathMTUs struct {
	any atomic.Bool // there is one

	mu   sync.Mutex
	mtus map[netip.Addr]pathMTU
}

type pathMTU struct {
	bytes int
	until time.Time
}

// to returns the MTU of the path to a client, of at most most bytes.
func (p *pathMTUs) to(client netip.Addr, most int) int {
	if !p.any.Load() {
		return most
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if known, ok := p.mtus[client]; ok && time.Now().Before(known.until) {
		return min(most, known.bytes)
	}
	return most
}

// learn keeps an MTU, or reports that there is no room for it.
func (p *pathMTUs) learn(client netip.Addr, mtu int, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.mtus) >= maxMTUs {
		for a, known := range p.mtus {
			if !now.Before(known.until) {
				delete(p.mtus, a)
			}
		}
	}
	if _, known := p.mtus[client]; !known && len(p.mtus) >= maxMTUs {
		return false
	}
	if p.mtus == nil {
		p.mtus = make(map[netip.Addr]pathMTU)
	}
	p.mtus[client] = pathMTU{mtu, now.Add(mtuLifetime)}
	p.any.Store(true)
	return true
}

// clientTooBig learns from a router that a packet of ours did not fit the way to
// its client (RFC 4443 section 3.2). IPv4 needs none of this: routers cut what we
// send.
func (s *Stack) clientTooBig(p packet, message []byte) {
	if p.dst.Is4() || len(message) < icmpHeader || header.ICMPv6Type(message[0]) != header.ICMPv6PacketTooBig {
		return
	}
	client, ok := s.quotedClient(p.dst, message[icmpHeader:])
	mtu := max(int(min(binary.BigEndian.Uint32(message[4:]), maxPacket)), header.IPv6MinimumMTU)
	if !ok || mtu >= int(s.link.mtu) {
		return
	}
	if !s.mtus.learn(client, mtu, time.Now()) {
		s.stats.mtusFull.Add(1)
		return
	}
	s.stats.mtusLearned.Add(1)
}

// quotedClient is whom a packet of ours from aa was for that an ICMP error quotes:
// a datagram of a flow that there is, or an echo reply.
func (s *Stack) quotedClient(aa netip.Addr, quoted []byte) (netip.Addr, bool) {
	if tuple, ok := quotedUDP(quoted); ok {
		s.udp.mu.Lock()
		known := s.udp.flows[tuple] != nil
		s.udp.mu.Unlock()
		return tuple.Client.Addr(), known && tuple.Anycast.Addr() == aa
	}
	p, ok := parseQuoted6(quoted)
	isReply := ok && p.src == aa && p.transport == uint8(header.ICMPv6ProtocolNumber) && !p.later &&
		len(quoted) > p.payload && header.ICMPv6Type(quoted[p.payload]) == header.ICMPv6EchoReply
	return p.dst, isReply && canBeAnswered(p.dst) && !s.isAnycast(p.dst)
}

// parseQuoted6 reads the header of an IPv6 packet that an ICMP error quotes, cut
// off as it may be.
func parseQuoted6(b []byte) (packet, bool) {
	if header.IPVersion(b) != header.IPv6Version || len(b) < header.IPv6MinimumSize {
		return packet{}, false
	}
	ip := header.IPv6(b)
	p := packet{src: addrOf(ip.SourceAddress()), dst: addrOf(ip.DestinationAddress()), transport: ip.NextHeader(), payload: header.IPv6MinimumSize}
	if p.transport == uint8(header.IPv6FragmentHeader) {
		fragment := b[p.payload:]
		if len(fragment) < header.IPv6FragmentHeaderSize {
			return packet{}, false
		}
		p.transport, p.later = fragment[0], binary.BigEndian.Uint16(fragment[2:])>>3 != 0
		p.payload += header.IPv6FragmentHeaderSize
	}
	return p, true
}

// cut sends a message of a transport over IPv6 in fragments that fit the MTU (RFC
// 8200 section 4.5).
func (l *link) cut(src, dst netip.Addr, transport uint8, m nat.Meta, mtu int, message []byte) error {
	const headers = header.IPv6MinimumSize + header.IPv6FragmentHeaderSize
	room := (mtu - headers) &^ 7
	id := rand.Uint32() // not to be guessed (RFC 7739)
	for offset := 0; offset < len(message); offset += room {
		piece := message[offset:min(offset+room, len(message))]
		s := l.slot()
		b := s.headers[:headers]
		header.IPv6(b).Encode(&header.IPv6Fields{
			TrafficClass: m.Class, PayloadLength: uint16(header.IPv6FragmentHeaderSize + len(piece)),
			HopLimit: m.Hops, SrcAddr: address(src), DstAddr: address(dst),
		})
		b[header.IPv6NextHeaderOffset] = uint8(header.IPv6FragmentHeader)
		fragment := b[header.IPv6MinimumSize:]
		fragment[0], fragment[1] = transport, 0
		place := uint16(offset) // in units of 8, above three bits of flags
		if offset+len(piece) < len(message) {
			place |= 1 // more follow
		}
		binary.BigEndian.PutUint16(fragment[2:], place)
		binary.BigEndian.PutUint32(fragment[4:], id)
		s.parts = append(s.parts, b, piece)
		err := l.write(s, headers+len(piece))
		l.release(s)
		if err != nil {
			return err
		}
	}
	return nil
}

// sendCut sends a datagram to an IPv6 client in fragments that fit the MTU.
func (u *udpInside) sendCut(d nat.Datagram, mtu int) error {
	src, dst := u.tuple.Anycast.Addr(), u.tuple.Client.Addr()
	message := make([]byte, header.UDPMinimumSize, header.UDPMinimumSize+len(d.Data))
	message = append(message, d.Data...)
	h := header.UDP(message)
	h.Encode(&header.UDPFields{SrcPort: u.tuple.Anycast.Port(), DstPort: u.tuple.Client.Port(), Length: uint16(len(message))})
	pseudo := header.PseudoHeaderChecksum(header.UDPProtocolNumber, address(src), address(dst), uint16(len(message)))
	h.SetChecksum(finish(checksum.Checksum(d.Data, h.CalculateChecksum(pseudo))))
	m := d.Meta
	if m.Hops == 0 {
		m.Hops = defaultHops
	}
	return u.s.link.cut(src, dst, uint8(header.UDPProtocolNumber), m, mtu, message)
}

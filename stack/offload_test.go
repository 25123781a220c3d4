package stack

import (
	"bytes"
	"encoding/binary"
	"errors"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// offloaded is a Config for a device with all offloads.
var offloaded = Config{TCPOffload: true, UDPOffload: true}

// wirings are the devices that flows must be carried over alike.
var wirings = []struct {
	name string
	c    Config
}{{"plain", Config{}}, {"offload", offloaded}, {"offload of TCP", Config{TCPOffload: true}}}

// maxCut is how many datagrams the kernel cuts a packet into (UDP_MAX_SEGMENTS
// of before Linux 6.13, which may be 128 now).
const maxCut = 64

// cut does what the kernel does with a packet that a program writes to a TUN
// with IFF_VNET_HDR (virtio_net_hdr_to_skb, and then the segmentation), but is
// stricter: it wants every field to be right.
func cut(h vnetHeader, b []byte, c Config) (packets [][]byte, err error) {
	p, ok := parsePacket(b)
	switch {
	case !ok || p.length != len(b):
		return nil, errors.New("it is no IP packet of its length")
	case p.dst.Is4() && header.IPv4(b).CalculateChecksum() != 0xffff:
		return nil, errors.New("its IPv4 header has a wrong checksum")
	case h.flags == 0:
		if h != (vnetHeader{}) {
			return nil, errors.New("a field of its header is set, and none needs to be")
		}
		if len(b) > testMTU {
			return nil, errors.New("it is larger than the MTU")
		}
		return [][]byte{b}, nil
	case !c.TCPOffload || h.flags != vnetNeedsChecksum:
		return nil, errors.New("its flags are not what was offered")
	}
	headers, at := p.payload+header.UDPMinimumSize, 6
	if p.transport == uint8(header.TCPProtocolNumber) {
		headers, at = p.headers(b), 16
	} else if p.transport != uint8(header.UDPProtocolNumber) {
		return nil, errors.New("only TCP and UDP have their checksums filled in")
	}
	sum := header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(p.transport), address(p.src), address(p.dst), uint16(len(b)-p.payload))
	switch {
	case int(h.checksumStart) != p.payload || int(h.checksumAt) != at:
		return nil, errors.New("the place of its checksum is another")
	case binary.BigEndian.Uint16(b[p.payload+at:]) != sum:
		return nil, errors.New("in the place of its checksum is not the sum of the pseudo-header")
	case h.gso == 0 && (h.headers != 0 || h.segment != 0):
		return nil, errors.New("it is one segment, and has the fields of several")
	case h.gso == 0 && len(b) > testMTU:
		return nil, errors.New("it is one segment, and larger than the MTU")
	case h.gso == 0:
		return [][]byte{complete(b, p, at)}, nil
	}
	kind := map[bool]uint8{true: vnetTCP4, false: vnetTCP6}[p.dst.Is4()]
	if at == 6 {
		kind = vnetUDP
	}
	data, size := b[headers:], int(h.segment)
	switch {
	case h.gso != kind || kind == vnetUDP && !c.UDPOffload:
		return nil, errors.New("its kind is another, or was not offered")
	case int(h.headers) != headers:
		return nil, errors.New("its headers have another length")
	case size == 0 || headers+size > testMTU:
		return nil, errors.New("its segments do not fit the MTU")
	case len(data) <= size:
		return nil, errors.New("it has only one segment")
	case kind == vnetUDP && len(data) > maxCut*size:
		return nil, errors.New("it has too many datagrams")
	}
	for i := 0; i*size < len(data); i++ {
		piece := data[i*size : min((i+1)*size, len(data))]
		packets = append(packets, complete(piecePacket(b, p, headers, i, size, piece, (i+1)*size >= len(data)), p, at))
	}
	return packets, nil
}

// piecePacket is the i-th of the packets that b stands for.
func piecePacket(b []byte, p packet, headers, i, size int, data []byte, last bool) []byte {
	one := append(bytes.Clone(b[:headers]), data...)
	if p.dst.Is4() {
		ip := header.IPv4(one)
		ip.SetTotalLength(uint16(len(one)))
		ip.SetID(ip.ID() + uint16(i))
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
	} else {
		header.IPv6(one).SetPayloadLength(uint16(len(one) - header.IPv6MinimumSize))
	}
	if p.transport == uint8(header.UDPProtocolNumber) {
		header.UDP(one[p.payload:]).SetLength(uint16(len(one) - p.payload))
		return one
	}
	segment := header.TCP(one[p.payload:])
	segment.SetSequenceNumber(segment.SequenceNumber() + uint32(i*size))
	if !last {
		segment.SetFlags(uint8(segment.Flags() &^ (header.TCPFlagFin | header.TCPFlagPsh)))
	}
	return one
}

// complete fills in the checksum.
func complete(b []byte, p packet, at int) []byte {
	message := b[p.payload:]
	binary.BigEndian.PutUint16(message[at:], 0)
	sum := ^checksum.Checksum(message, header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(p.transport), address(p.src), address(p.dst), uint16(len(message))))
	if sum == 0 && at == 6 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(message[at:], sum)
	return b
}

// joiner makes packets of many segments or datagrams, as the kernel does with
// what a program of this host sends, or GRO with what comes from a link.
type joiner struct {
	b    []byte
	p    packet
	vnet vnetHeader
}

// begin takes the first packet; it reports whether its checksum may be left out.
func (j *joiner) begin(b []byte) bool {
	j.b, j.vnet = b, vnetHeader{}
	var ok bool
	j.p, ok = parsePacket(b)
	return ok && !j.p.fragment && (j.p.transport == uint8(header.UDPProtocolNumber) || j.p.transport == uint8(header.TCPProtocolNumber))
}

// mayGrow reports whether it may be one of several.
func (j *joiner) mayGrow() bool {
	return j.size() > 0 && (j.p.transport == uint8(header.UDPProtocolNumber) ||
		header.TCP(j.b[j.p.payload:]).Flags()&^header.TCPFlagPsh == header.TCPFlagAck)
}

// headers is the length of all headers.
func (j *joiner) headers() int {
	if j.p.transport == uint8(header.UDPProtocolNumber) {
		return j.p.payload + header.UDPMinimumSize
	}
	return j.p.headers(j.b)
}

// size is that of the segments, or what is in the one that there is.
func (j *joiner) size() int {
	if j.vnet.segment != 0 {
		return int(j.vnet.segment)
	}
	return len(j.b) - j.headers()
}

// add reports whether b goes behind what there is.
func (j *joiner) add(b []byte) bool {
	var next joiner
	if !j.mayGrow() || !next.begin(b) || !next.mayGrow() {
		return false
	}
	headers, size := j.headers(), j.size()
	if next.p.src != j.p.src || next.p.dst != j.p.dst || next.p.transport != j.p.transport || next.headers() != headers ||
		next.size() > size || (len(j.b)-headers)%size != 0 || len(j.b)+next.size() > maxPacket || len(j.b)-headers+next.size() > maxCut*size {
		return false
	}
	mine, its := j.b[j.p.payload:headers], b[j.p.payload:headers]
	kind := uint8(vnetUDP)
	if j.p.transport == uint8(header.TCPProtocolNumber) {
		kind = vnetTCP6
		if j.p.dst.Is4() {
			kind = vnetTCP4
		}
		a, z := header.TCP(mine), header.TCP(its)
		if z.SequenceNumber() != a.SequenceNumber()+uint32(len(j.b)-headers) || !bytes.Equal(its[8:12], mine[8:12]) ||
			!bytes.Equal(its[20:], mine[20:]) || !bytes.Equal(its[:4], mine[:4]) {
			return false
		}
		a.SetWindowSize(z.WindowSize())
		a.SetFlags(uint8(a.Flags() | z.Flags()))
	} else if !bytes.Equal(its[:4], mine[:4]) {
		return false
	}
	j.vnet.gso, j.vnet.headers, j.vnet.segment = kind, uint16(headers), uint16(size)
	j.b = append(j.b, b[headers:]...)
	return true
}

// end says that the checksum has not been filled in, and the packet's length.
func (j *joiner) end() {
	at := 16
	if j.p.transport == uint8(header.UDPProtocolNumber) {
		at = 6
		header.UDP(j.b[j.p.payload:]).SetLength(uint16(len(j.b) - j.p.payload))
	}
	if j.p.dst.Is4() {
		ip := header.IPv4(j.b)
		ip.SetTotalLength(uint16(len(j.b)))
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
	} else {
		header.IPv6(j.b).SetPayloadLength(uint16(len(j.b) - header.IPv6MinimumSize))
	}
	j.vnet.flags, j.vnet.checksumStart, j.vnet.checksumAt = vnetNeedsChecksum, uint16(j.p.payload), uint16(at)
	sum := header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(j.p.transport), address(j.p.src), address(j.p.dst), uint16(len(j.b)-j.p.payload))
	binary.BigEndian.PutUint16(j.b[j.p.payload+at:], sum)
}

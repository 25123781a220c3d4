package stack

import "encoding/binary"

// vnetSize is the virtio_net_hdr before each packet, in the host's byte order
// (VIRTIO 1.2 section 5.1.6; the kernel's TUN has no num_buffers).
const vnetSize = 10

const (
	vnetNeedsChecksum = 1 // flags: what is in the checksum's place is the sum of the pseudo-header
	vnetChecksumValid = 2 // flags: the sender's link has verified it

	vnetTCP4 = 1 // gso_type
	vnetTCP6 = 4
	vnetUDP  = 5
	vnetECN  = 0x80 // a bit of it: the first segment has CWR (RFC 3168 section 6.1.2)
)

// vnetHeader says what a packet stands for.
type vnetHeader struct {
	flags, gso    uint8
	headers       uint16 // length of the IP and transport headers, bytes
	segment       uint16 // payload of each segment or datagram, bytes
	checksumStart uint16 // from where to the packet's end the checksum is of
	checksumAt    uint16 // its place, from there
}

func (h *vnetHeader) decode(b []byte) {
	h.flags, h.gso = b[0], b[1]
	h.headers = binary.NativeEndian.Uint16(b[2:])
	h.segment = binary.NativeEndian.Uint16(b[4:])
	h.checksumStart = binary.NativeEndian.Uint16(b[6:])
	h.checksumAt = binary.NativeEndian.Uint16(b[8:])
}

func (h *vnetHeader) encode(b []byte) {
	b[0], b[1] = h.flags, h.gso
	binary.NativeEndian.PutUint16(b[2:], h.headers)
	binary.NativeEndian.PutUint16(b[4:], h.segment)
	binary.NativeEndian.PutUint16(b[6:], h.checksumStart)
	binary.NativeEndian.PutUint16(b[8:], h.checksumAt)
}

// checked reports whether the transport checksum needs no verifying: a program
// of this host has just made the packet, or the link has verified it.
func (h *vnetHeader) checked() bool { return h.flags&(vnetNeedsChecksum|vnetChecksumValid) != 0 }

package nat

import "iter"

// Meta is what the IP header says of a datagram beside its addresses.
type Meta struct {
	Class uint8 // DSCP and ECN (RFC 2474, RFC 3168)
	Hops  uint8 // hop limit or TTL; 0 stands for the host's default
	Whole bool  // it must not be fragmented by us: its sender looks for the path MTU
}

// Datagram is the payload of a datagram, which may be empty, and what its IP
// header says; or of several that are alike.
type Datagram struct {
	Data []byte
	Meta Meta
	// Segment, if not 0, is the size of several datagrams whose payloads are
	// Data, bytes; the last may be shorter.
	Segment int
	// Free, if not nil, gives the room of Data back. It is called once, and
	// Data is not used afterwards.
	Free func()
}

// free gives the room of the datagram back.
func (d Datagram) free() {
	if d.Free != nil {
		d.Free()
	}
}

// Size returns the payload of one datagram, the first if they are several,
// bytes.
func (d Datagram) Size() int {
	if d.Segment == 0 {
		return len(d.Data)
	}
	return min(d.Segment, len(d.Data))
}

// Pieces yields the payload of each datagram.
func (d Datagram) Pieces() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		rest, size := d.Data, d.Size()
		for yield(rest[:min(size, len(rest))]) {
			if rest = rest[min(size, len(rest)):]; len(rest) == 0 {
				return
			}
		}
	}
}

package nft

import (
	"encoding/binary"
	"errors"
	"iter"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// entry is what the connection tracking says of one flow, as far as it matters
// here: to read all of it with a library takes ten times as long
// (docs/adr/0019-the-kernel-carries-pinned-flows.md).
type entry struct {
	id       uint32
	status   uint32 // IPS_*
	proto    uint8
	from, to netip.AddrPort // as the client sent; echo: both ports are the identifier
	member   netip.Addr     // who answers
	tcpState uint8          // TCP_CONNTRACK_*, 0 if it is no TCP
	tcpFlags uint8          // IP_CT_TCP_FLAG_*, of the client's side
	started  time.Time      // zero if the kernel does not note it
	sent     uint64         // bytes of packets; 0 if it does not count them
	got      uint64

	// What names the entry to the kernel, as it was read: these share memory with
	// the message.
	tuple, zone, number []byte
}

// errMalformed is of a message that breaks the format of netlink attributes.
var errMalformed = errors.New("nft: the kernel's word on a flow is malformed")

// What linux/netfilter/nfnetlink_conntrack.h numbers (enum ctattr_type and those of
// the attributes within).
const (
	ctaTupleOrig     = 1
	ctaTupleReply    = 2
	ctaStatus        = 3
	ctaProtoInfo     = 4
	ctaCountersOrig  = 9
	ctaCountersReply = 10
	ctaID            = 12
	ctaZone          = 18
	ctaTimestamp     = 20
	ctaFilter        = 25

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum      = 1
	ctaProtoSrcPort  = 2
	ctaProtoDstPort  = 3
	ctaProtoICMPID   = 4
	ctaProtoICMPv6ID = 7

	ctaProtoInfoTCP  = 1
	ctaTCPState      = 1
	ctaTCPFlagsOrig  = 4
	ctaCountersBytes = 2
	ctaTimeStart     = 1

	ctaFilterOrigFlags = 1
)

// genericHeader is before the attributes (struct nfgenmsg), and attributeHeader
// before the value of each (struct nlattr).
const (
	genericHeader   = 4
	attributeHeader = 4
)

// decode reads a message without its netlink header. What it does not know, it
// passes over.
func (e *entry) decode(message []byte) error {
	*e = entry{}
	if len(message) < genericHeader {
		return errMalformed
	}
	var d decoder
	for kind, value := range d.attributes(message[genericHeader:]) {
		switch kind {
		case ctaTupleOrig:
			e.tuple = value
			t := d.tuple(value)
			e.proto, e.from, e.to = t.proto, netip.AddrPortFrom(t.from, t.fromPort), netip.AddrPortFrom(t.to, t.toPort)
		case ctaTupleReply:
			e.member = d.tuple(value).from
		case ctaStatus:
			e.status = uint32(d.number(value, 4))
		case ctaProtoInfo:
			d.protoInfo(value, e)
		case ctaCountersOrig:
			e.sent = d.within(value, ctaCountersBytes, 8)
		case ctaCountersReply:
			e.got = d.within(value, ctaCountersBytes, 8)
		case ctaID:
			e.number = value
			e.id = uint32(d.number(value, 4))
		case ctaZone:
			e.zone = value
		case ctaTimestamp:
			if ns := d.within(value, ctaTimeStart, 8); ns != 0 {
				e.started = time.Unix(0, int64(ns))
			}
		}
	}
	return d.err
}

// decoder remembers what was wrong.
type decoder struct{ err error }

// attributes are the types and values that b consists of, up to one that is not
// whole (struct nlattr: length with the header, and type, in the host's order, then
// the value, padded to four bytes).
func (d *decoder) attributes(b []byte) iter.Seq2[uint16, []byte] {
	const typeMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
	return func(yield func(uint16, []byte) bool) {
		for len(b) > 0 {
			if len(b) < attributeHeader {
				d.err = errMalformed
				return
			}
			length, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])&typeMask
			if length < attributeHeader || length > len(b) {
				d.err = errMalformed
				return
			}
			if !yield(kind, b[attributeHeader:length]) {
				return
			}
			b = b[min(len(b), (length+3)&^3):]
		}
	}
}

// number is a value of that many bytes, in network order.
func (d *decoder) number(value []byte, size int) (n uint64) {
	if len(value) != size {
		d.err = errMalformed
		return 0
	}
	for _, b := range value {
		n = n<<8 | uint64(b)
	}
	return n
}

// within is the number of one type among attributes; 0 if it is not there.
func (d *decoder) within(b []byte, want uint16, size int) (n uint64) {
	for kind, value := range d.attributes(b) {
		if kind == want {
			n = d.number(value, size)
		}
	}
	return n
}

func (d *decoder) address(value []byte) netip.Addr {
	a, ok := netip.AddrFromSlice(value)
	if !ok {
		d.err = errMalformed
	}
	return a
}

// tuple is one direction of a flow.
type tuple struct {
	proto            uint8
	from, to         netip.Addr
	fromPort, toPort uint16
}

func (d *decoder) tuple(b []byte) (t tuple) {
	for kind, value := range d.attributes(b) {
		switch kind {
		case ctaTupleIP:
			for kind, value := range d.attributes(value) {
				switch kind {
				case ctaIPv4Src, ctaIPv6Src:
					t.from = d.address(value)
				case ctaIPv4Dst, ctaIPv6Dst:
					t.to = d.address(value)
				}
			}
		case ctaTupleProto:
			for kind, value := range d.attributes(value) {
				switch kind {
				case ctaProtoNum:
					t.proto = uint8(d.number(value, 1))
				case ctaProtoSrcPort:
					t.fromPort = uint16(d.number(value, 2))
				case ctaProtoDstPort:
					t.toPort = uint16(d.number(value, 2))
				case ctaProtoICMPID, ctaProtoICMPv6ID:
					t.fromPort = uint16(d.number(value, 2))
					t.toPort = t.fromPort
				}
			}
		}
	}
	return t
}

// protoInfo reads how far a TCP flow is.
func (d *decoder) protoInfo(b []byte, e *entry) {
	for kind, value := range d.attributes(b) {
		if kind != ctaProtoInfoTCP {
			continue
		}
		for kind, value := range d.attributes(value) {
			switch kind {
			case ctaTCPState:
				e.tcpState = uint8(d.number(value, 1))
			case ctaTCPFlagsOrig:
				e.tcpFlags = uint8(d.number(value, 2) >> 8) // flags, then a mask
			}
		}
	}
}

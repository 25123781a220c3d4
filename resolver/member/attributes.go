package member

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"

	"github.com/pion/stun/v3"
)

// DefaultPort is the UDP port of STUN (RFC 8489 section 8.1).
const DefaultPort = 3478

// Our own attributes. They are comprehension-optional, so that any other STUN
// server ignores them, and of the half of that range which IANA assigns by
// Expert Review (RFC 8489 section 18.3). STUN has no range for private use:
// these values are unassigned, and away from those that vendors have taken.
const (
	// attrAnycast names, in a request, the anycast address that is asked
	// for. Its value is that of MAPPED-ADDRESS (RFC 8489 section 14.1).
	attrAnycast stun.AttrType = 0xD3A0
	// attrProof is, in an answer, a signature; see [statement].
	attrProof stun.AttrType = 0xD3A1
)

// CACHE-TIMEOUT (0x8027) is registered by RFC 5780 section 9.1 and described
// nowhere in it. We put in the lifetime of the answer, in seconds, 32 bits;
// Wireshark reads it so.
const cacheTimeoutSize = 4

const (
	headerSize      = 20 // RFC 8489 section 5
	attrHeaderSize  = 4  // RFC 8489 section 14
	fingerprintSize = 4
	macSize         = 32 // RFC 8489 section 14.6, not truncated
	familyIPv4      = 1  // RFC 8489 section 14.1
	familyIPv6      = 2
	addressSize4    = 4 + 4
	addressSize6    = 4 + 16
)

// requestSize is the size in bytes of our requests: that of the largest
// answer, so that an answer is never the larger one.
const requestSize = headerSize +
	(attrHeaderSize + 4 + 16) + // ERROR-CODE 300 "Try Alternate", padded
	(attrHeaderSize + addressSize6) + // ALTERNATE-SERVER
	(attrHeaderSize + cacheTimeoutSize) +
	(attrHeaderSize + proofSize) +
	(attrHeaderSize + macSize) +
	(attrHeaderSize + fingerprintSize)

// The reasons why a datagram is not read on.
var (
	errMalformed   = errors.New("malformed")
	errUnsupported = errors.New("not what is answered here")
)

// transactionID is the 96 random bits that tie an answer to its question.
type transactionID = [stun.TransactionIDSize]byte

// decode reads a datagram into m, as strictly as can be: the message fills the
// datagram, FINGERPRINT is there, right, and the last attribute, and what
// follows MESSAGE-INTEGRITY-SHA256 is dropped (RFC 8489 sections 6.3 and 9).
func decode(m *stun.Message, datagram []byte) error {
	if len(datagram) < headerSize || datagram[0]&0xc0 != 0 {
		return errMalformed
	}
	if _, err := m.Write(datagram); err != nil || int(m.Length) != len(datagram)-headerSize {
		return errMalformed
	}
	last := len(m.Attributes) - 1
	if last < 0 || m.Attributes[last].Type != stun.AttrFingerprint || stun.Fingerprint.Check(m) != nil {
		return errMalformed
	}
	return nil
}

// newMessage returns a message that [decode] can use.
func newMessage() *stun.Message { return stun.NewWithOptions(stun.WithStrict(true)) }

// messages are those of transactions that are over.
var messages = sync.Pool{New: func() any { return newMessage() }}

func takeMessage() *stun.Message { return messages.Get().(*stun.Message) }

func giveBack(all ...*stun.Message) {
	for _, m := range all {
		messages.Put(m)
	}
}

// onlyKnown reports an attribute that must be understood and is not one of
// known (RFC 8489 section 6.3).
func onlyKnown(m *stun.Message, known ...stun.AttrType) error {
next:
	for _, a := range m.Attributes {
		if a.Type.Optional() {
			continue
		}
		for _, k := range known {
			if a.Type == k {
				continue next
			}
		}
		return errUnsupported
	}
	return nil
}

// address is the value of MAPPED-ADDRESS and its like. pion/stun's own reads a
// value that is cut short as if the rest were zero.
type address struct {
	attr stun.AttrType
	ap   netip.AddrPort
}

// AddTo implements [stun.Setter].
func (a address) AddTo(m *stun.Message) error {
	value := make([]byte, 4, addressSize6)
	value[1] = familyIPv6
	if a.ap.Addr().Is4() {
		value[1] = familyIPv4
	}
	binary.BigEndian.PutUint16(value[2:], a.ap.Port())
	m.Add(a.attr, append(value, a.ap.Addr().AsSlice()...))
	return nil
}

// addressFrom reads the first attribute of that type; without one the address
// is not valid.
func addressFrom(m *stun.Message, attr stun.AttrType) (netip.AddrPort, error) {
	a, found := m.Attributes.Get(attr)
	if !found {
		return netip.AddrPort{}, nil
	}
	v := a.Value
	if len(v) < 4 || v[1] == familyIPv4 && len(v) != addressSize4 || v[1] == familyIPv6 && len(v) != addressSize6 ||
		v[1] != familyIPv4 && v[1] != familyIPv6 {
		return netip.AddrPort{}, errMalformed
	}
	ip, _ := netip.AddrFromSlice(v[4:]) // of the right length, see above
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(v[2:])), nil
}

// seconds is CACHE-TIMEOUT.
type seconds uint32

// AddTo implements [stun.Setter].
func (s seconds) AddTo(m *stun.Message) error {
	m.Add(stun.AttrCacheTimeout, binary.BigEndian.AppendUint32(nil, uint32(s)))
	return nil
}

// secondsFrom reads CACHE-TIMEOUT, if it is given.
func secondsFrom(m *stun.Message) (s seconds, given bool, err error) {
	a, found := m.Attributes.Get(stun.AttrCacheTimeout)
	if !found {
		return 0, false, nil
	}
	if len(a.Value) != cacheTimeoutSize {
		return 0, false, errMalformed
	}
	return seconds(binary.BigEndian.Uint32(a.Value)), true, nil
}

// padding is PADDING (RFC 5780 section 7.6) up to a size of the whole message,
// leaving room for what comes behind it.
type padding struct{ upTo, behind int }

var zeros [requestSize]byte

// AddTo implements [stun.Setter].
func (p padding) AddTo(m *stun.Message) error {
	if n := p.upTo - p.behind - len(m.Raw) - attrHeaderSize; n >= 0 {
		m.Add(stun.AttrPadding, zeros[:min(n, len(zeros))])
	}
	return nil
}

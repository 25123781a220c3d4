package member

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"github.com/pion/stun/v3"
)

// integrity is MESSAGE-INTEGRITY-SHA256 (RFC 8489 section 14.6), which
// pion/stun does not have. The key of a short-term credential is the password
// itself (section 9.1.1).
type integrity string

// AddTo implements [stun.Setter]. Only FINGERPRINT may be added after it.
func (i integrity) AddTo(m *stun.Message) error {
	m.Add(stun.AttrMessageIntegritySHA256, i.sum(m.Raw))
	return nil
}

// check compares in constant time. A message without the attribute, or with a
// truncated one, fails.
func (i integrity) check(m *stun.Message) bool {
	offset := headerSize
	for _, a := range m.Attributes {
		if a.Type == stun.AttrMessageIntegritySHA256 {
			return len(a.Value) == macSize && hmac.Equal(a.Value, i.sum(m.Raw[:offset]))
		}
		offset += attrHeaderSize + (len(a.Value)+3)&^3
	}
	return false
}

// sum is the HMAC of what precedes the attribute, with the length in the
// header set as if the message ended with the attribute.
func (i integrity) sum(preceding []byte) []byte {
	var header [headerSize]byte
	copy(header[:], preceding)
	binary.BigEndian.PutUint16(header[2:], uint16(len(preceding)-headerSize+attrHeaderSize+macSize))
	mac := hmac.New(sha256.New, []byte(i))
	mac.Write(header[:])
	mac.Write(preceding[headerSize:])
	return mac.Sum(nil)
}

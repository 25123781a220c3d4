package member

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/pion/stun/v3"
)

// domain begins every signed text, so that no signature of ours can be taken
// for one made for another purpose with the same key, nor the other way round.
const domain = "aarptun member answer, version 1\x00"

// statement is what a member signs: an answer to one question, about one AA,
// for a time. The type of the message is in it because an answer of AA's and a
// confirmation of UA's say different things.
type statement struct {
	kind                stun.MessageType
	id                  transactionID
	aa                  netip.Addr
	ua                  netip.AddrPort
	lifetime            seconds
	notBefore, notAfter time.Time // whole seconds
}

// text is the signed text: fields of fixed size, so that no two statements have
// the same. IPv4 addresses stand as ::ffff:a.b.c.d.
func (s statement) text() []byte {
	aa, ua := s.aa.As16(), s.ua.Addr().As16()
	text := make([]byte, 0, len(domain)+68)
	text = append(text, domain...)
	text = binary.BigEndian.AppendUint16(text, s.kind.Value())
	text = append(text, s.id[:]...)
	text = append(text, aa[:]...)
	text = append(text, ua[:]...)
	text = binary.BigEndian.AppendUint16(text, s.ua.Port())
	text = binary.BigEndian.AppendUint32(text, uint32(s.lifetime))
	text = binary.BigEndian.AppendUint64(text, uint64(s.notBefore.Unix()))
	return binary.BigEndian.AppendUint64(text, uint64(s.notAfter.Unix()))
}

// keyNumber tells public keys apart: the first bytes of its SHA-256. Two keys
// with the same number are possible and do no harm; one of them fails.
type keyNumber [8]byte

func numberOf(key ed25519.PublicKey) keyNumber {
	sum := sha256.Sum256(key)
	return keyNumber(sum[:])
}

// proof is the value of AARP-PROOF.
type proof struct {
	key                 keyNumber
	notBefore, notAfter int64 // seconds since 1970
	signature           [ed25519.SignatureSize]byte
}

const proofSize = 8 + 8 + 8 + ed25519.SignatureSize

// signed is a statement with the key that signs it.
type signed struct {
	statement
	key ed25519.PrivateKey
}

// AddTo implements [stun.Setter].
func (s signed) AddTo(m *stun.Message) error {
	number := numberOf(s.key.Public().(ed25519.PublicKey))
	value := make([]byte, 0, proofSize)
	value = append(value, number[:]...)
	value = binary.BigEndian.AppendUint64(value, uint64(s.notBefore.Unix()))
	value = binary.BigEndian.AppendUint64(value, uint64(s.notAfter.Unix()))
	value = append(value, ed25519.Sign(s.key, s.text())...)
	m.Add(attrProof, value)
	return nil
}

// proofFrom reads AARP-PROOF; without one it is nil.
func proofFrom(m *stun.Message) (*proof, error) {
	a, found := m.Attributes.Get(attrProof)
	if !found {
		return nil, nil
	}
	v := a.Value
	if len(v) != proofSize {
		return nil, errMalformed
	}
	return &proof{
		key:       keyNumber(v),
		notBefore: int64(binary.BigEndian.Uint64(v[8:])),
		notAfter:  int64(binary.BigEndian.Uint64(v[16:])),
		signature: [ed25519.SignatureSize]byte(v[24:]),
	}, nil
}

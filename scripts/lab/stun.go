package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"time"
)

// What an attacker has to know of docs/protocol.md, written from it.
const (
	stunPort    = 3478
	stunHeader  = 20
	bindRequest = 0x0001
	bindSuccess = 0x0101
	bindError   = 0x0111

	attrErrorCode = 0x0009
	attrMAC       = 0x001c
	attrXORMapped = 0x0020
	attrAlternate = 0x8023
	attrLifetime  = 0x8027
	attrCRC       = 0x8028
	attrAnycast   = 0xd3a0
	attrProof     = 0xd3a1

	macSize    = 32
	crcSize    = 4
	attrHeader = 4
)

// stunKind is the type of a STUN message, 0 for anything else.
func stunKind(b []byte) uint16 {
	if len(b) < stunHeader || string(b[4:8]) != "\x21\x12\xa4\x42" {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}

func stunID(b []byte) [12]byte { return [12]byte(b[8:20]) }

// attribute finds the value of one; it belongs to b.
func attribute(b []byte, kind uint16) []byte {
	for at := stunHeader; at+attrHeader <= len(b); {
		size := int(binary.BigEndian.Uint16(b[at+2:]))
		if at+attrHeader+size > len(b) {
			return nil
		}
		if binary.BigEndian.Uint16(b[at:]) == kind {
			return b[at+attrHeader : at+attrHeader+size]
		}
		at += attrHeader + (size+3)&^3
	}
	return nil
}

// writer makes a message.
type writer struct{ b []byte }

func newSTUN(kind uint16, id [12]byte) *writer {
	b := binary.BigEndian.AppendUint16(nil, kind)
	b = append(b, 0, 0, 0x21, 0x12, 0xa4, 0x42)
	return &writer{append(b, id[:]...)}
}

func (w *writer) add(kind uint16, value []byte) *writer {
	w.b = binary.BigEndian.AppendUint16(w.b, kind)
	w.b = binary.BigEndian.AppendUint16(w.b, uint16(len(value)))
	w.b = append(w.b, value...)
	for len(w.b)%4 != 0 {
		w.b = append(w.b, 0)
	}
	w.setLength(0)
	return w
}

func (w *writer) setLength(more int) {
	binary.BigEndian.PutUint16(w.b[2:], uint16(len(w.b)-stunHeader+more))
}

// mac adds MESSAGE-INTEGRITY-SHA256 with that secret.
func (w *writer) mac(secret []byte) *writer {
	w.setLength(attrHeader + macSize)
	h := hmac.New(sha256.New, secret)
	h.Write(w.b)
	return w.add(attrMAC, h.Sum(nil))
}

// end adds FINGERPRINT, which anybody can, and returns the message.
func (w *writer) end() []byte {
	w.setLength(attrHeader + crcSize)
	sum := crc32.ChecksumIEEE(w.b) ^ 0x5354554e
	return w.add(attrCRC, binary.BigEndian.AppendUint32(nil, sum)).b
}

// mend sets the FINGERPRINT of a message that was changed, whose last attribute
// it is.
func mend(b []byte) []byte {
	w := writer{bytes.Clone(b[:len(b)-attrHeader-crcSize])}
	return w.end()
}

// plainAddress is the value of MAPPED-ADDRESS and of those like it.
func plainAddress(a netip.AddrPort) []byte {
	family := byte(2)
	if a.Addr().Is4() {
		family = 1
	}
	v := binary.BigEndian.AppendUint16([]byte{0, family}, a.Port())
	return append(v, a.Addr().AsSlice()...)
}

// answerNaming begins an answer of AA's that names ua.
func answerNaming(id [12]byte, ua netip.Addr) *writer {
	return newSTUN(bindError, id).add(attrErrorCode, []byte("\x00\x00\x03\x00Try Alternate")).
		add(attrAlternate, plainAddress(netip.AddrPortFrom(ua, stunPort))).add(attrLifetime, []byte{0, 0, 0, 30})
}

// drainingAnswer begins one that says that ua takes no new flows.
func drainingAnswer(id [12]byte, ua netip.Addr) *writer {
	return newSTUN(bindError, id).add(attrErrorCode, []byte("\x00\x00\x05\x00Server Error")).
		add(attrAlternate, plainAddress(netip.AddrPortFrom(ua, stunPort))).add(attrLifetime, make([]byte, 4))
}

// confirmation begins a confirmation of a UA's.
func confirmation(id [12]byte, asker netip.AddrPort) *writer {
	v := plainAddress(asker)
	mask := append([]byte{0x21, 0x12, 0xa4, 0x42}, id[:]...)
	v[2], v[3] = v[2]^mask[0], v[3]^mask[1]
	for i := range v[4:] {
		v[4+i] ^= mask[i]
	}
	return newSTUN(bindSuccess, id).add(attrXORMapped, v).add(attrLifetime, []byte{0, 0, 0, 30})
}

// proof is the value of AARP-PROOF for an answer of AA's. The number of the key
// is that of number, so that a forger can claim another's.
func proof(key ed25519.PrivateKey, number ed25519.PublicKey, id [12]byte, aa, ua netip.Addr, from time.Time) []byte {
	to := from.Add(30 * time.Second)
	a, u := aa.As16(), ua.As16()
	text := append([]byte("aarptun member answer, version 1\x00"), bindError>>8, bindError&0xff)
	text = append(text, id[:]...)
	text = append(append(text, a[:]...), u[:]...)
	text = binary.BigEndian.AppendUint16(text, stunPort)
	text = binary.BigEndian.AppendUint32(text, 30)
	text = binary.BigEndian.AppendUint64(text, uint64(from.Unix()))
	text = binary.BigEndian.AppendUint64(text, uint64(to.Unix()))
	sum := sha256.Sum256(number)
	value := binary.BigEndian.AppendUint64(sum[:8:8], uint64(from.Unix()))
	value = binary.BigEndian.AppendUint64(value, uint64(to.Unix()))
	return append(value, ed25519.Sign(key, text)...)
}

package member

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v3"
)

// answerOf returns what a responder of that level says to q.
func answerOf(t testing.TB, a *answerer, q question, now time.Time) []byte {
	t.Helper()
	request, out := newMessage(), newMessage()
	if err := q.build(request); err != nil {
		t.Fatal(err)
	}
	if v := a.answer(newMessage(), out, request.Raw, netip.AddrPortFrom(asker6, 40000), q.to.Addr(), now); v != answered && v != confirmed {
		t.Fatalf("verdict %d", v)
	}
	return out.Raw
}

// refingerprint lets a forged message pass the first check, as any forger can.
func refingerprint(t testing.TB, datagram []byte) []byte {
	t.Helper()
	m := newMessage()
	if _, err := m.Write(datagram[:len(datagram)-attrHeaderSize-fingerprintSize]); err == nil {
		t.Fatal("the length still fits")
	}
	body := bytes.Clone(datagram[:len(datagram)-attrHeaderSize-fingerprintSize])
	sum := stun.FingerprintValue(body)
	return append(body, 0x80, 0x28, 0, 4, byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
}

func TestForgedAnswersAreRefused(t *testing.T) {
	otherPublic, otherKey, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = otherPublic // only its number stands in the answers
	nonce, psk, signed, both := levels[0], levels[1], levels[2], levels[3]
	atAA := func(l level) question { return l.question(stun.BindingError, aa6, aa6) }
	alternate := address{stun.AttrAlternateServer, netip.AddrPortFrom(ua6, DefaultPort)}
	for _, tc := range []struct {
		name   string
		level  level
		answer func(q question) []byte
		from   netip.AddrPort
		at     time.Duration // after the answer was made
		want   Refusal
	}{
		{name: "another source", level: nonce, answer: func(q question) []byte { return answerOf(t, nonce.answerer(), q, goldenTime) }, from: netip.AddrPortFrom(ua6, DefaultPort), want: RefusedSource},
		{name: "another port", level: nonce, answer: func(q question) []byte { return answerOf(t, nonce.answerer(), q, goldenTime) }, from: netip.AddrPortFrom(aa6, 53), want: RefusedSource},
		{name: "another transaction", level: nonce, answer: func(q question) []byte { q.id[0]++; return answerOf(t, nonce.answerer(), q, goldenTime) }, want: RefusedMalformed},
		{name: "no FINGERPRINT", level: nonce, answer: func(question) []byte { return raw(t, stun.BindingError, stun.CodeTryAlternate, alternate) }, want: RefusedMalformed},
		{name: "unknown that must be understood", level: nonce, answer: func(question) []byte {
			return raw(t, stun.BindingError, stun.CodeTryAlternate, alternate, attr(0x7fff), stun.Fingerprint)
		}, want: RefusedMalformed},
		{name: "no ERROR-CODE", level: nonce, answer: func(question) []byte { return raw(t, stun.BindingError, alternate, stun.Fingerprint) }, want: RefusedMalformed},
		{name: "420", level: nonce, answer: func(question) []byte {
			return raw(t, stun.BindingError, stun.CodeUnknownAttribute, stun.Fingerprint)
		}, want: RefusedError},
		{name: "401 at psk", level: psk, answer: func(question) []byte {
			return raw(t, stun.BindingError, stun.CodeUnauthorized, stun.Fingerprint)
		}, want: RefusedNoMAC},
		{name: "request", level: nonce, answer: func(question) []byte { return raw(t, stun.BindingRequest, alternate, stun.Fingerprint) }, want: RefusedAnswer},
		{name: "confirmation in place of an answer", level: nonce, answer: func(q question) []byte {
			return raw(t, stun.BindingSuccess, xorAddress(netip.AddrPortFrom(asker6, 1)), stun.Fingerprint)
		}, want: RefusedAnswer},
		{name: "signed confirmation in place of an answer", level: signed, answer: func(q question) []byte {
			q.kind, q.to = stun.BindingSuccess, netip.AddrPortFrom(ua6, DefaultPort)
			return answerOf(t, signed.answerer(), q, goldenTime)
		}, want: RefusedAnswer},
		{name: "no ALTERNATE-SERVER", level: nonce, answer: func(question) []byte { return raw(t, stun.BindingError, stun.CodeTryAlternate, stun.Fingerprint) }, want: RefusedUA},
		{name: "UA cut short", level: nonce, answer: func(question) []byte {
			return raw(t, stun.BindingError, stun.CodeTryAlternate, attr(stun.AttrAlternateServer, 0, 2, 13, 150, 0x20, 1), stun.Fingerprint)
		}, want: RefusedMalformed},
		{name: "UA of another family", level: nonce, answer: func(question) []byte {
			return raw(t, stun.BindingError, stun.CodeTryAlternate, address{stun.AttrAlternateServer, netip.AddrPortFrom(ua4, DefaultPort)}, stun.Fingerprint)
		}, want: RefusedUA},
		{name: "UA v4-mapped", level: nonce, answer: func(question) []byte {
			return raw(t, stun.BindingError, stun.CodeTryAlternate, address{stun.AttrAlternateServer, netip.AddrPortFrom(addr("::ffff:192.0.2.1"), DefaultPort)}, stun.Fingerprint)
		}, want: RefusedUA},
		{name: "UA loopback", level: nonce, answer: func(question) []byte {
			return raw(t, stun.BindingError, stun.CodeTryAlternate, address{stun.AttrAlternateServer, netip.AddrPortFrom(addr("::1"), DefaultPort)}, stun.Fingerprint)
		}, want: RefusedUA},
		{name: "UA at another port", level: nonce, answer: func(question) []byte {
			return raw(t, stun.BindingError, stun.CodeTryAlternate, address{stun.AttrAlternateServer, netip.AddrPortFrom(ua6, 53)}, stun.Fingerprint)
		}, want: RefusedUA},
		{name: "lifetime of 2 bytes", level: nonce, answer: func(question) []byte {
			return raw(t, stun.BindingError, stun.CodeTryAlternate, alternate, attr(stun.AttrCacheTimeout, 0, 30), stun.Fingerprint)
		}, want: RefusedMalformed},
		{name: "lifetime of 0", level: nonce, answer: func(question) []byte {
			return raw(t, stun.BindingError, stun.CodeTryAlternate, alternate, seconds(0), stun.Fingerprint)
		}, want: RefusedMalformed},
		{name: "500 that names nobody", level: nonce, answer: func(question) []byte {
			return raw(t, stun.BindingError, stun.CodeServerError, seconds(0), stun.Fingerprint)
		}, want: RefusedError},
		{name: "draining for a time", level: nonce, answer: func(question) []byte {
			return raw(t, stun.BindingError, stun.CodeServerError, alternate, seconds(30), stun.Fingerprint)
		}, want: RefusedMalformed},
		{name: "draining", level: nonce, answer: func(question) []byte {
			return raw(t, stun.BindingError, stun.CodeServerError, alternate, seconds(0), stun.Fingerprint)
		}},
		{name: "draining, without the MAC", level: psk, answer: func(question) []byte {
			return raw(t, stun.BindingError, stun.CodeServerError, alternate, seconds(0), stun.Fingerprint)
		}, want: RefusedNoMAC},
		{name: "draining, without the signature", level: signed, answer: func(question) []byte {
			return raw(t, stun.BindingError, stun.CodeServerError, alternate, seconds(0), stun.Fingerprint)
		}, want: RefusedNoSignature},
		{name: "the signed answer, said to be draining", level: signed, answer: func(q question) []byte {
			return asCode(t, answerOf(t, signed.answerer(), q, goldenTime), stun.CodeServerError, seconds(30))
		}, want: RefusedMalformed},
		{name: "the signed answer, said to be draining, without its lifetime", level: signed, answer: func(q question) []byte {
			return asCode(t, answerOf(t, signed.answerer(), q, goldenTime), stun.CodeServerError)
		}, want: RefusedSignature},
		{name: "the signed answer of a member that drains, said to serve", level: signed, answer: func(question) []byte {
			return asCode(t, golden(t, "v6-ed25519-draining"), stun.CodeTryAlternate, seconds(0))
		}, want: RefusedMalformed},
		{name: "the signed answer of a member that drains, said to serve, without its lifetime", level: signed, answer: func(question) []byte {
			return asCode(t, golden(t, "v6-ed25519-draining"), stun.CodeTryAlternate)
		}, want: RefusedMalformed},

		{name: "downgraded: without the MAC", level: psk, answer: func(q question) []byte { return answerOf(t, nonce.answerer(), atAA(nonce), goldenTime) }, want: RefusedNoMAC},
		{name: "signed, but without the MAC", level: both, answer: func(q question) []byte { return answerOf(t, signed.answerer(), atAA(signed), goldenTime) }, want: RefusedNoMAC},
		{name: "MAC of another key", level: psk, answer: func(q question) []byte {
			return raw(t, stun.BindingError, stun.CodeTryAlternate, alternate, integrity("another-secret-of-28-letters"), stun.Fingerprint)
		}, want: RefusedMAC},
		{name: "UA changed under the MAC", level: psk, answer: func(q question) []byte {
			b := answerOf(t, psk.answerer(), q, goldenTime)
			return refingerprint(t, bytes.Replace(b, ua6.AsSlice(), addr("2001:db8:bad::1").AsSlice(), 1))
		}, want: RefusedMAC},
		{name: "UA behind the MAC", level: psk, answer: func(q question) []byte {
			return raw(t, stun.BindingError, stun.CodeTryAlternate, integrity(goldenPSK.Secret), alternate, stun.Fingerprint)
		}, want: RefusedUA},

		{name: "downgraded: without the signature", level: signed, answer: func(q question) []byte { return answerOf(t, nonce.answerer(), q, goldenTime) }, want: RefusedNoSignature},
		{name: "MAC, but without the signature", level: both, answer: func(q question) []byte { return answerOf(t, psk.answerer(), q, goldenTime) }, want: RefusedNoSignature},
		{name: "signature of 60 bytes", level: signed, answer: func(q question) []byte {
			return raw(t, stun.BindingError, stun.CodeTryAlternate, alternate, attr(attrProof, make([]byte, 60)...), stun.Fingerprint)
		}, want: RefusedMalformed},
		{name: "signed with a key that is not pinned", level: signed, answer: func(q question) []byte {
			a := signed.answerer()
			a.signer = otherKey
			return answerOf(t, a, q, goldenTime)
		}, want: RefusedKey},
		{name: "signed with another key under the pinned one's number", level: signed, answer: func(q question) []byte {
			a := signed.answerer()
			a.signer = otherKey
			ours, theirs := numberOf(goldenKey.Public().(ed25519.PublicKey)), numberOf(otherPublic)
			return refingerprint(t, bytes.Replace(answerOf(t, a, q, goldenTime), theirs[:], ours[:], 1))
		}, want: RefusedSignature},
		{name: "UA changed under the signature", level: signed, answer: func(q question) []byte {
			b := answerOf(t, signed.answerer(), q, goldenTime)
			return refingerprint(t, bytes.Replace(b, ua6.AsSlice(), addr("2001:db8:bad::1").AsSlice(), 1))
		}, want: RefusedSignature},
		{name: "lifetime changed under the signature", level: signed, answer: func(q question) []byte {
			b := answerOf(t, signed.answerer(), q, goldenTime)
			return refingerprint(t, bytes.Replace(b, []byte{0x80, 0x27, 0, 4, 0, 0, 0, 30}, []byte{0x80, 0x27, 0, 4, 0, 0, 255, 0}, 1))
		}, want: RefusedSignature},
		{name: "about another AA", level: signed, answer: func(q question) []byte {
			a := signed.answerer()
			other := addr("2001:db8:aa::2")
			a.anycast = append(a.anycast, other)
			q.aa, q.to = other, netip.AddrPortFrom(other, DefaultPort)
			return answerOf(t, a, q, goldenTime)
		}, want: RefusedSignature},
		{name: "replayed under this transaction's id", level: signed, answer: func(q question) []byte {
			q.id[0]++
			b := answerOf(t, signed.answerer(), q, goldenTime)
			b[8]--
			return refingerprint(t, b)
		}, want: RefusedSignature},
		{name: "expired", level: signed, answer: func(q question) []byte { return answerOf(t, signed.answerer(), q, goldenTime) }, at: 30*time.Second + clockSkew + time.Second, want: RefusedLate},
		{name: "just not expired", level: signed, answer: func(q question) []byte { return answerOf(t, signed.answerer(), q, goldenTime) }, at: 30*time.Second + clockSkew},
		{name: "from the future", level: signed, answer: func(q question) []byte { return answerOf(t, signed.answerer(), q, goldenTime) }, at: -clockSkew - time.Second, want: RefusedEarly},
		{name: "just not from the future", level: signed, answer: func(q question) []byte { return answerOf(t, signed.answerer(), q, goldenTime) }, at: -clockSkew},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q := atAA(tc.level)
			if !tc.from.IsValid() {
				tc.from = q.to
			}
			found, refusal := q.check(newMessage(), tc.answer(q), tc.from, goldenTime.Add(tc.at))
			if refusal != tc.want {
				t.Errorf("refused %q, want %q; found %+v", refusal, tc.want, found)
			}
		})
	}
}

// asCode gives a signed answer another error, which is not signed, and another
// lifetime or none.
func asCode(t *testing.T, datagram []byte, code stun.ErrorCode, lifetime ...stun.Setter) []byte {
	t.Helper()
	m := newMessage()
	if _, err := m.Write(datagram); err != nil {
		t.Fatal(err)
	}
	proof, _ := m.Attributes.Get(attrProof)
	setters := append([]stun.Setter{stun.BindingError, code, address{stun.AttrAlternateServer, netip.AddrPortFrom(ua6, DefaultPort)}}, lifetime...)
	return raw(t, append(setters, attr(attrProof, proof.Value...), stun.Fingerprint)...)
}

// TestRequestCannotBeTurnedToAnotherAA: what a MAC proves includes AA, because
// the request, whose key the answer shows, names it under its own MAC.
func TestRequestCannotBeTurnedToAnotherAA(t *testing.T) {
	other := addr("2001:db8:aa::2")
	a := levels[1].answerer()
	a.anycast = []netip.Addr{other}
	q := levels[1].question(stun.BindingError, aa6, aa6)
	request := newMessage()
	if err := q.build(request); err != nil {
		t.Fatal(err)
	}
	if v := a.answer(newMessage(), newMessage(), request.Raw, netip.AddrPortFrom(asker6, 40000), other, goldenTime); v != foreign {
		t.Errorf("the question about another AA: verdict %d", v)
	}
	turned := refingerprint(t, bytes.Replace(request.Raw, aa6.AsSlice(), other.AsSlice(), 1))
	if v := a.answer(newMessage(), newMessage(), turned, netip.AddrPortFrom(asker6, 40000), other, goldenTime); v != badKey {
		t.Errorf("the question turned to another AA: verdict %d", v)
	}
}

// TestEveryBitCounts flips each bit of a proved answer: none of the results is
// believed to say anything else.
func TestEveryBitCounts(t *testing.T) {
	for _, l := range levels[1:] {
		for _, q := range []question{l.question(stun.BindingError, aa6, aa6), l.question(stun.BindingSuccess, aa6, ua6)} {
			good := answerOf(t, l.answerer(), q, goldenTime)
			want, refusal := q.check(newMessage(), good, q.to, goldenTime)
			if refusal != "" {
				t.Fatal(refusal)
			}
			for bit := range 8 * (len(good) - 8) {
				bad := bytes.Clone(good)
				bad[bit/8] ^= 1 << (bit % 8)
				body := bad[:len(bad)-8]
				sum := stun.FingerprintValue(body)
				bad = append(body[:len(body):len(body)], 0x80, 0x28, 0, 4, byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
				found, refusal := q.check(newMessage(), bad, q.to, goldenTime)
				if refusal == "" && (l.psk || found != want) {
					t.Errorf("%s %v: bit %d of byte %d (%s) does not count: %+v", l.name, q.kind, bit%8, bit/8, hex.EncodeToString(bad), found)
				}
			}
		}
	}
}

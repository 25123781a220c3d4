package member

import (
	"crypto/ed25519"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/pion/stun/v3"
)

// Proof is what an answer was shown to be. A higher one includes the lower.
type Proof uint8

// The proofs, weakest first.
const (
	// ProofNonce: whoever answered saw the question, and UA confirmed.
	ProofNonce Proof = iota + 1
	// ProofPSK: and holds the shared key.
	ProofPSK
	// ProofEd25519: and holds a private key whose public one is pinned.
	ProofEd25519
)

// Refusal is why an answer was not believed.
type Refusal string

// The refusals of answers that carried the right transaction id.
const (
	RefusedMalformed   Refusal = "malformed"
	RefusedSource      Refusal = "not from the address that was asked"
	RefusedError       Refusal = "another error than 300 Try Alternate"
	RefusedAnswer      Refusal = "not what was asked for"
	RefusedUA          Refusal = "names no unicast address of the family, or another port"
	RefusedNoMAC       Refusal = "carries no MAC"
	RefusedMAC         Refusal = "the MAC is wrong"
	RefusedNoSignature Refusal = "carries no signature"
	RefusedKey         Refusal = "signed with a key that is not pinned"
	RefusedSignature   Refusal = "the signature is wrong"
	RefusedEarly       Refusal = "the signature is not valid yet: compare the clocks"
	RefusedLate        Refusal = "the signature is not valid any more: compare the clocks"
	RefusedUnconfirmed Refusal = "the member that it names does not confirm"
	RefusedMany        Refusal = "names one host more than are asked to confirm"
)

// clockSkew is how far the clocks of member and client may be apart.
const clockSkew = 2 * time.Minute

// question is one that was asked, and what its answer must be like.
type question struct {
	id   transactionID
	kind stun.MessageType // of the answer: an error with UA, or a confirmation
	to   netip.AddrPort   // AA, or UA for a confirmation
	aa   netip.Addr
	ring *Keyring
}

// build makes the request in m, never smaller than its answer.
func (q question) build(m *stun.Message) error {
	setters := []stun.Setter{stun.BindingRequest, stun.NewTransactionIDSetter(q.id)}
	behind := attrHeaderSize + fingerprintSize
	if len(q.ring.PSKs) > 0 {
		setters = append(setters, stun.NewUsername(q.ring.PSKs[0].ID))
		behind += attrHeaderSize + macSize
	}
	setters = append(setters, address{attrAnycast, netip.AddrPortFrom(q.aa, 0)}, padding{requestSize, behind})
	if len(q.ring.PSKs) > 0 {
		setters = append(setters, integrity(q.ring.PSKs[0].Secret))
	}
	return m.Build(append(setters, stun.Fingerprint)...)
}

// Found is a member that has answered.
type Found struct {
	UA netip.Addr
	// RTT is the time from the first transmission to the answer: more than the
	// round trip if something was lost.
	RTT time.Duration
	// Lifetime is how long the member wants the answer to be used; 0 if it
	// did not say. Nobody has to.
	Lifetime time.Duration
	Proof    Proof
	// Draining: the member takes no new flows, being unhealthy or told so.
	Draining bool
}

// check reads an answer and says what is wrong with it, or nothing. It is given
// a message to read into, and does not keep it.
func (q question) check(m *stun.Message, datagram []byte, from netip.AddrPort, now time.Time) (Found, Refusal) {
	switch {
	case from != q.to:
		return Found{}, RefusedSource // RFC 8489 section 6.3.1.2
	case decode(m, datagram) != nil || m.TransactionID != q.id:
		return Found{}, RefusedMalformed
	}
	if onlyKnown(m, stun.AttrMessageIntegritySHA256, stun.AttrErrorCode, stun.AttrUnknownAttributes,
		stun.AttrRealm, stun.AttrNonce, stun.AttrXORMappedAddress, stun.AttrMappedAddress) != nil {
		return Found{}, RefusedMalformed
	}
	// The proof comes first: what is not proved is not read.
	if len(q.ring.PSKs) > 0 {
		if _, found := m.Attributes.Get(stun.AttrMessageIntegritySHA256); !found {
			return Found{}, RefusedNoMAC
		}
		if !integrity(q.ring.PSKs[0].Secret).check(m) {
			return Found{}, RefusedMAC
		}
	}
	ua, draining, refusal := q.named(m)
	if refusal != "" {
		return Found{}, refusal
	}
	lifetime, given, err := secondsFrom(m)
	// Of a draining member's answer the lifetime, which is signed, is what
	// tells it from another.
	if err != nil || given && draining != (lifetime == 0) {
		return Found{}, RefusedMalformed
	}
	found := Found{UA: ua.Addr(), Lifetime: time.Duration(lifetime) * time.Second, Proof: ProofNonce, Draining: draining}
	if len(q.ring.PSKs) > 0 {
		found.Proof = ProofPSK
	}
	if len(q.ring.Public) > 0 {
		if refusal := q.checkSignature(m, ua, lifetime, now); refusal != "" {
			return Found{}, refusal
		}
		if !given {
			return Found{}, RefusedMalformed // without it, one answer could pass for the other
		}
		found.Proof = ProofEd25519
	}
	return found, ""
}

// named returns the UA that an answer is about, and whether it takes no new
// flows.
func (q question) named(m *stun.Message) (ua netip.AddrPort, draining bool, refusal Refusal) {
	if m.Type == stun.BindingError {
		var code stun.ErrorCodeAttribute
		if code.GetFrom(m) != nil {
			return netip.AddrPort{}, false, RefusedMalformed
		}
		_, names := m.Attributes.Get(stun.AttrAlternateServer)
		draining = code.Code == stun.CodeServerError && names
		if code.Code != stun.CodeTryAlternate && !draining {
			return netip.AddrPort{}, false, RefusedError
		}
	}
	if m.Type != q.kind && !draining {
		return netip.AddrPort{}, false, RefusedAnswer
	}
	if m.Type == stun.BindingSuccess {
		return q.to, false, ""
	}
	ua, err := addressFrom(m, stun.AttrAlternateServer)
	switch {
	case err != nil:
		return netip.AddrPort{}, false, RefusedMalformed
	case !ua.IsValid() || ua.Port() != q.to.Port() || ua.Addr().Is4() != q.aa.Is4() || ua.Addr().Is4In6() || !ua.Addr().IsGlobalUnicast(),
		q.kind == stun.BindingSuccess && ua != q.to:
		return netip.AddrPort{}, false, RefusedUA
	}
	return ua, draining, ""
}

// checkSignature checks the signature by one of the pinned keys.
func (q question) checkSignature(m *stun.Message, ua netip.AddrPort, lifetime seconds, now time.Time) Refusal {
	p, err := proofFrom(m)
	if err != nil {
		return RefusedMalformed
	}
	if p == nil {
		return RefusedNoSignature
	}
	i := slices.IndexFunc(q.ring.Public, func(key ed25519.PublicKey) bool { return numberOf(key) == p.key })
	if i < 0 {
		return RefusedKey
	}
	s := statement{
		kind: m.Type, id: q.id, aa: q.aa, ua: ua, lifetime: lifetime,
		notBefore: time.Unix(p.notBefore, 0), notAfter: time.Unix(p.notAfter, 0),
	}
	switch {
	case !ed25519.Verify(q.ring.Public[i], s.text(), p.signature[:]):
		return RefusedSignature
	case now.Before(s.notBefore.Add(-clockSkew)):
		return RefusedEarly
	case now.After(s.notAfter.Add(clockSkew)):
		return RefusedLate
	}
	return ""
}

// check says what is wrong with the keys of a prefix.
func (k Keyring) check() error {
	if !k.Prefix.IsValid() {
		return keyError("keys for no prefix")
	}
	for _, psk := range k.PSKs {
		if err := psk.check(); err != nil {
			return keyError("for %v: %w", k.Prefix, err)
		}
	}
	for _, public := range k.Public {
		if len(public) != ed25519.PublicKeySize {
			return keyError("for %v: a public key has %d bytes, not %d", k.Prefix, ed25519.PublicKeySize, len(public))
		}
	}
	return nil
}

// String returns the proof as it stands in messages.
func (p Proof) String() string {
	switch p {
	case ProofNonce:
		return "nonce"
	case ProofPSK:
		return "psk"
	case ProofEd25519:
		return "ed25519"
	}
	return fmt.Sprintf("proof(%d)", uint8(p))
}

package member

import (
	"crypto/ed25519"
	"net/netip"
	"slices"
	"time"

	"github.com/pion/stun/v3"
)

// request is a Binding request as far as we read it.
type request struct {
	id      transactionID
	aa      netip.Addr // not valid if it names none
	keyID   string
	hasMAC  bool
	message *stun.Message
}

// parseRequest reads a request into m, which the result refers to.
func parseRequest(m *stun.Message, datagram []byte) (request, error) {
	if err := decode(m, datagram); err != nil {
		return request{}, err
	}
	if m.Type != stun.BindingRequest {
		return request{}, errUnsupported
	}
	if err := onlyKnown(m, stun.AttrUsername, stun.AttrPadding, stun.AttrMessageIntegritySHA256); err != nil {
		return request{}, err
	}
	named, err := addressFrom(m, attrAnycast)
	if err != nil {
		return request{}, err
	}
	r := request{id: m.TransactionID, aa: named.Addr(), message: m}
	if a, ok := m.Attributes.Get(stun.AttrUsername); ok {
		r.keyID = string(a.Value)
	}
	_, r.hasMAC = m.Attributes.Get(stun.AttrMessageIntegritySHA256)
	return r, nil
}

// verdict is what becomes of a request.
type verdict uint8

const (
	answered      verdict = iota // AA was asked: 300 with UA
	confirmed                    // UA was asked: yes
	malformed                    // no STUN message, or a broken one
	unsupported                  // no Binding request, or with what must be understood and is not
	foreign                      // asked of, or about, an address that is not served here
	noKey                        // without a key where one is needed
	badKey                       // an unknown key, or one that does not fit
	limited                      // the source asks too often
	declined                     // the member is unhealthy or draining, and says so
	noUnicast                    // no unicast address could be named
	larger                       // the answer would be larger than the request
	failed                       // the answer could not be sent
	verdictsCount                // how many there are
)

// answerer decides what is answered. It is not changed once made; limit and
// unicast are called from many goroutines.
type answerer struct {
	anycast  []netip.Addr
	port     uint16
	psks     map[string]integrity
	keyless  bool // answer askers without a key although there are psks
	signer   ed25519.PrivateKey
	lifetime seconds

	drains  func() bool // the member takes no new flows
	limit   func(from netip.Addr, now time.Time) bool
	unicast func(from netip.Addr, now time.Time) netip.Addr // not valid: none
}

// answer reads a datagram that came from an asker to a local address, and
// builds what is to be sent back from that same address, in out. Only after
// answered, confirmed and declined is there anything to be sent.
func (a *answerer) answer(in, out *stun.Message, datagram []byte, from netip.AddrPort, to netip.Addr, now time.Time) verdict {
	q, err := parseRequest(in, datagram)
	switch {
	case err == errUnsupported:
		return unsupported
	case err != nil:
		return malformed
	case from.Port() == 0:
		return malformed // nothing could be sent there
	}
	asked, kind := to, stun.BindingError
	if !slices.Contains(a.anycast, to) {
		asked, kind = q.aa, stun.BindingSuccess // UA is asked about the AA that the request names
	}
	if !slices.Contains(a.anycast, asked) || q.aa.IsValid() && q.aa != asked {
		return foreign
	}
	// The key before the limit, so that forged requests cannot use up what a
	// holder of the key may have.
	key, v := a.keyOf(q)
	if v != answered {
		return v
	}
	if !a.limit(from.Addr(), now) {
		return limited
	}
	ua := a.unicast(from.Addr(), now)
	switch {
	case !ua.IsValid():
		return noUnicast
	case kind == stun.BindingSuccess && ua != to:
		return foreign // an address of ours, but none that we name to this asker
	}
	v = answered
	switch {
	case a.drains():
		// Said, and not left to silence: a member that says so is passed by at
		// once, and is not used for want of an answer.
		v = declined
	case kind == stun.BindingSuccess:
		v = confirmed
	}
	if err := a.build(out, q.id, v, from, asked, ua, key, now); err != nil || len(out.Raw) > len(datagram) {
		return larger
	}
	return v
}

// keyOf returns the key that the answer is to carry, which is that of the
// request. A request that names a key, or carries a MAC, must be right in both.
func (a *answerer) keyOf(q request) (integrity, verdict) {
	if q.keyID == "" && !q.hasMAC {
		if len(a.psks) > 0 && !a.keyless {
			return "", noKey
		}
		return "", answered
	}
	key, known := a.psks[q.keyID]
	if !known || !key.check(q.message) {
		return "", badKey
	}
	return key, answered
}

// build makes the answer in out. Its order of attributes is that of RFC 8489:
// what the MAC covers, the MAC, FINGERPRINT.
func (a *answerer) build(out *stun.Message, id transactionID, v verdict, from netip.AddrPort, aa, ua netip.Addr, key integrity, now time.Time) error {
	member := netip.AddrPortFrom(ua, a.port)
	kind, lifetime := stun.BindingError, a.lifetime
	setters := make([]stun.Setter, 2, 8)
	switch v {
	case confirmed:
		kind = stun.BindingSuccess
		setters = append(setters, xorAddress(from))
	case declined:
		lifetime = 0
		setters = append(setters, stun.CodeServerError, address{stun.AttrAlternateServer, member})
	default:
		setters = append(setters, stun.CodeTryAlternate, address{stun.AttrAlternateServer, member})
	}
	setters[0], setters[1] = kind, stun.NewTransactionIDSetter(id)
	setters = append(setters, lifetime)
	if a.signer != nil {
		begin := now.Truncate(time.Second)
		setters = append(setters, signed{key: a.signer, statement: statement{
			kind: kind, id: id, aa: aa, ua: member, lifetime: lifetime,
			notBefore: begin, notAfter: begin.Add(time.Duration(lifetime) * time.Second),
		}})
	}
	if key != "" {
		setters = append(setters, key)
	}
	return out.Build(append(setters, stun.Fingerprint)...)
}

// xorAddress is XOR-MAPPED-ADDRESS (RFC 8489 section 14.2), which a success
// response to a Binding request has to have.
func xorAddress(from netip.AddrPort) stun.Setter {
	return &stun.XORMappedAddress{IP: from.Addr().AsSlice(), Port: int(from.Port())}
}

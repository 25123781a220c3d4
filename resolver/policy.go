package resolver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// Trust is how much must be known about an answer before it is believed. A
// higher level includes the lower ones.
type Trust uint8

// The levels, weakest first.
const (
	// Nonce: the answer carries the nonce of our probe, so its sender saw it.
	Nonce Trust = iota + 1
	// AllowList: and it names an address in the members' prefixes.
	AllowList
	// PSK: and its sender holds the key that clients and members share.
	PSK
	// Ed25519: and its sender holds the private key of a pinned public one.
	Ed25519
)

// String returns the level as it stands in messages and JSON.
func (t Trust) String() string {
	switch t {
	case Nonce:
		return "nonce"
	case AllowList:
		return "allow-list"
	case PSK:
		return "psk"
	case Ed25519:
		return "ed25519"
	}
	return fmt.Sprintf("trust(%d)", uint8(t))
}

// MarshalText implements [encoding.TextMarshaler].
func (t Trust) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Unresolved is what becomes of a self-answer.
type Unresolved uint8

// The ways to treat a self-answer.
const (
	// Direct uses AA itself, unpinned, with one warning; only at level Nonce.
	Direct Unresolved = iota
	// Reject is [ErrSelfAnswer].
	Reject
	// Through is for prefixes of which most addresses are ordinary ones: an
	// address that answers from itself, one that does not answer, and one whose
	// answers are not believed, are all used themselves, for [throughFor]. There is
	// no warning, and less patience; see through.go. Only at level Nonce or
	// AllowList, and only where our own sockets do not pass the TUN.
	Through
	// Straight uses AA itself without asking anybody. As Through else.
	Straight
)

// Policy is how the addresses of one anycast prefix are resolved.
type Policy struct {
	Prefix netip.Prefix
	// Members, if any, are the prefixes a UA must lie in; that is level
	// AllowList.
	Members []netip.Prefix
	// Proof, if set, is PSK or Ed25519: what an answer must be proved by.
	Proof      Trust
	Unresolved Unresolved
	// Keys stands for the keys that answers are proved by: what was proved by
	// others counts no more.
	Keys [32]byte
}

// Trust returns the level that the policy asks for.
func (p Policy) Trust() Trust {
	if len(p.Members) > 0 {
		return max(p.Proof, AllowList)
	}
	return max(p.Proof, Nonce)
}

// The errors of Resolve. Each is also a [syscall.Errno] by [errors.Is], the
// one a program would see that had dialled the address itself.
var (
	// ErrNoAnswer: no prober got an answer in time.
	ErrNoAnswer error = &failure{"resolver: no member answered the probes"}
	// ErrUntrusted: there were answers, and each was refused.
	ErrUntrusted error = &failure{"resolver: no answer could be trusted"}
	// ErrSelfAnswer: the address answered from itself, and that is not allowed.
	ErrSelfAnswer error = &failure{"resolver: the address answered from itself: it is no anycast address, or a member has it on its loopback"}
	// ErrDraining: there were answers, of members that take no new flows.
	ErrDraining error = &failure{"resolver: the members that answered take no new flows: they are draining or unhealthy"}
	// ErrOutside: the address is in no anycast prefix.
	ErrOutside error = &failure{"resolver: the address is in no anycast prefix"}
)

// failure is an error that a client is told as "host unreachable".
type failure struct{ text string }

func (f *failure) Error() string { return f.text }

func (f *failure) Is(target error) bool { return target == error(syscall.EHOSTUNREACH) }

// Refusal is why an answer was not believed.
type Refusal string

// The refusals. The first group holds at every trust level: such an address
// is never a member, whoever says so.
const (
	RefusedClass    Refusal = "unspecified, loopback, link-local or multicast"
	RefusedFamily   Refusal = "of another address family"
	RefusedOwn      Refusal = "one of this host's own addresses"
	RefusedAnycast  Refusal = "inside an anycast prefix, so it would be routed back into the TUN"
	RefusedNotAllow Refusal = "outside the member prefixes"
	RefusedSelf     Refusal = "the anycast address itself"
	RefusedPrivate  Refusal = "a private address, for one that is not"
	RefusedProof    Refusal = "not proved as the prefix demands"
	RefusedResponds Refusal = "the anycast address itself, whose responder was heard of late"
)

// judge says whether ua may be the member of aa: with "" it may. selfAnswer is
// reported apart, since it is not always a refusal.
func (r *Resolver) judge(p Policy, aa, ua netip.Addr) (refusal Refusal, selfAnswer bool) {
	switch {
	case !ua.IsValid(), ua.IsUnspecified(), ua.IsLoopback(), ua.IsMulticast(), ua.IsLinkLocalUnicast(),
		ua == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return RefusedClass, false
	case ua.Is4() != aa.Is4() || ua.Is4In6():
		return RefusedFamily, false
	case ua == aa && p.passes():
		return "", true
	case ua == aa:
		if p.Trust() > Nonce || p.Unresolved == Reject {
			return RefusedSelf, true
		}
		return "", true
	}
	if r.rules.Load().carries(ua) {
		return RefusedAnycast, false
	}
	if p.passes() && ua.IsPrivate() && !aa.IsPrivate() {
		return RefusedPrivate, false
	}
	if r.isLocal(ua) {
		return RefusedOwn, false
	}
	if len(p.Members) > 0 && !slices.ContainsFunc(p.Members, func(m netip.Prefix) bool { return m.Contains(ua) }) {
		return RefusedNotAllow, false
	}
	return "", false
}

func (p Policy) validate() error {
	for _, prefix := range append([]netip.Prefix{p.Prefix}, p.Members...) {
		if !prefix.IsValid() || prefix != prefix.Masked() {
			return fmt.Errorf("resolver: %v is not a network prefix", prefix)
		}
	}
	if p.Proof != 0 && p.Proof != PSK && p.Proof != Ed25519 {
		return fmt.Errorf("resolver: Proof must be PSK or Ed25519, not %v", p.Proof)
	}
	if p.Unresolved > Straight {
		return errors.New("resolver: Unresolved must be Direct, Reject, Through or Straight")
	}
	if p.passes() && p.Proof != 0 {
		return fmt.Errorf("resolver: %v lets through who proves nothing, and Proof asks for %v", p.Prefix, p.Proof)
	}
	return nil
}

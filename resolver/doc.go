// Package resolver finds the member that stands behind an anycast address, as
// draft-ata-ipv6-anycast-resolving-02 (AARP) describes: ask the anycast address
// AA, and take the unicast address UA that the answer comes from.
//
// # Theory of operation
//
//	Resolve -> cache -> singleflight -> static, or probers side by side -> trust -> pin
//
// A pin says AA -> UA for a limited time. It is looked up without a lock that
// could be held by a probe. When there is none, however many flows ask, one
// probe is sent for all of them; a caller who goes away leaves the probe to
// the others. The probers of one AA run side by side, and the first answer
// that the prefix's trust level is content with becomes the pin; an answer
// that is refused does not stop the wait for a better one.
//
// Failures are kept too, for a second, so that a dead AA costs one probe a
// second and no more. A pin that is asked for in the last fifth of its life is
// renewed in the background, so that a busy AA never waits. A dial that failed
// takes its pin away at once ([Resolver.Suspect]).
//
// # Trust
//
// Nobody vouches for an answer's source address. A reply that carries the
// probe's nonce proves only that its sender saw the probe (level nonce); a
// list of the members' prefixes says which addresses it may name (level
// allow-list). A shared key (level psk) or a member's signature (level ed25519)
// proves who has answered; where a prefix asks for one of these, nothing less
// is believed, however early it comes, and probers that cannot give it are not
// asked. Whatever the level, some addresses are never a member: see [Refusal].
//
// An answer that comes from AA itself, a self-answer, means that AA is an
// ordinary unicast address, or that a member has AA on its loopback. The draft
// queries every destination and lets unicast addresses through; so does
// [Direct]. It waits a little for the responder that such a member may run,
// whose answer is the better one.
package resolver

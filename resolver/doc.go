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
// that the prefix's trust level is content with becomes the pin. An answer
// that is refused does not stop the wait for a better one, neither of another
// prober nor of the same.
//
// # Which member
//
// What is known of one AA is a member set, each member with the RTT and the end of
// its last answer. [Select] says which of them is used and [Sticky] for whom the
// choice holds. For First the set is whoever has answered of late. For RTT and
// Spread it is discovered: [Paths] probes, paced over all AAs, that differ in
// what routers tell flows apart by. The smallest of a member's RTTs counts,
// and one that is nearer by a little does not displace another. A set whose
// members are asked for is renewed as a whole, so a member that no longer answers
// leaves it when its last answer ends.
//
// A member that did not take a flow ([Resolver.Suspect]) is passed over for a
// while, and until it has answered a probe since; if it is the only one to answer,
// it is used. While nobody answers at all, a member whose time is over may serve a
// little longer, but never one that is suspected, and never when somebody answered
// and was refused. A member that says that it drains leaves the set at once. That
// is no silence about itself, and nothing but silence about the others.
//
// # Failures
//
// Failures are kept too, for a second, so that a dead AA costs one probe a
// second and no more. A pin that is asked for in the last fifth of its life is
// renewed in the background, so that a busy AA never waits. Flows that something
// else sends by the pins count as if they had asked ([Resolver.Used]).
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
// whose answer is the better one. Where a responder of AA has been heard in the
// last 10 minutes, a self-answer counts for nothing, at every level: a member
// that drains, or whose responder has died, answers an echo as before. If there is
// none any more on the host that was reached, the other paths are asked.
//
// Where every address is asked, most are ordinary ones, and what is not resolved is
// used itself: see [Through] and through.go.
package resolver

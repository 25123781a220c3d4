// Package member finds the members of an anycast address where ICMPv6 echo
// cannot, or not surely enough, and is what a member runs so that it can be
// found.
//
// # Theory of operation
//
// There are two ways to be found. A host that has joined an anycast address
// (IPV6_JOIN_ANYCAST, [Join]) takes part in it at the network layer: it accepts
// packets to AA and, since AA must not be a source (RFC 4291 section 2.6),
// answers an ICMPv6 echo from its unicast address UA. That answer is the whole
// of resolving; nothing else has to run. The membership lasts as long as the
// socket that made it. A member's kernel can be told to answer otherwise;
// [Warnings] finds such settings.
//
// A host that has AA as an ordinary address, as with BGP and with IPv4, answers
// an echo from AA itself and names nobody. It runs a [Responder], and clients
// ask with a [Prober], by STUN (RFC 8489):
//
//	Prober                                            Responder
//	  Binding request to AA:3478   ------------------->
//	    [USERNAME] AARP-ANYCAST=AA PADDING [MESSAGE-INTEGRITY-SHA256] FINGERPRINT
//	  <------------------   Binding error 300, from AA:3478
//	    ALTERNATE-SERVER=UA CACHE-TIMEOUT [AARP-PROOF] [MESSAGE-INTEGRITY-SHA256] FINGERPRINT
//
// The random transaction id makes an answer good for one question. What else
// is believed depends on the keys of the prefix, a [Keyring]: whatever is in it
// is required of every answer. A shared key ([PSK]) proves that a holder of the
// key answered this question about this AA; a pinned public key proves that the
// member itself did, for the signature covers the question, AA, UA and a time.
// Without keys the answer could come from anybody on the path. Then the prober
// asks UA itself whether it serves AA, so that nobody who is not on the path to
// UA as well can turn flows to a host that does not expect them. An answer that
// fails a check is counted and forgotten, and the wait for a better one goes on;
// so it does while hosts are asked to confirm, and when the caller does not want
// the one that does.
//
// A member that is unhealthy or draining says so: error 500 instead of 300, its UA,
// and a lifetime of 0. The prober tells its caller, and asks on from another port.
//
// The Responder never answers with more bytes than it was asked with, and says
// nothing to whoever cannot show the key or asks too often: silence is what a
// host without a Responder would say. It keeps no state about questions; asking
// twice is harmless.
//
// respond.go decides what is answered, verify.go what is believed; both are
// free of sockets. naming.go asks who is named. docs/protocol.md has every byte, docs/threats.md who can do
// what.
package member

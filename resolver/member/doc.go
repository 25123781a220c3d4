// Package member is what a member of an anycast address runs, so that it can
// be found.
//
// # Theory of operation
//
// A host that has joined an anycast address (IPV6_JOIN_ANYCAST, [Join]) takes
// part in it at the network layer: it accepts packets to AA and, since AA must
// not be a source (RFC 4291 section 2.6), answers an ICMPv6 echo from its
// unicast address UA. That answer is the whole of resolving; nothing else has
// to run. The membership lasts as long as the socket that made it.
//
// A member's kernel can be told to answer otherwise; [Warnings] finds such
// settings.
package member

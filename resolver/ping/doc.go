// Package ping sends ICMP and ICMPv6 echo requests and tells whose reply is
// whose. One socket per family serves thousands of requests at once.
//
// There are two kinds. A probe asks an anycast address who is there: its
// payload is a random nonce, and the reply is known by the nonce alone, since
// the source is what is being asked for and the kernel may rewrite the
// identifier. A relayed echo carries a client's payload to a known member: its
// reply is known by our sequence number, the member's address and the payload.
//
// The sockets are not connected: a connected one drops a reply from another
// source than was asked, and that reply is the whole point of a probe.
package ping

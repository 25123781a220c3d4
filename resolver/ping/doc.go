// Package ping sends ICMP and ICMPv6 echo requests and tells whose reply, and
// whose ICMP error, is whose. One socket per family serves thousands of
// requests at once.
//
// # Theory of operation
//
// There are two kinds of request. A probe asks an anycast address who is there:
// its payload is a random nonce, and the reply is known by the nonce alone,
// since the source is what is being asked for and the kernel may rewrite the
// identifier. A relayed echo carries a client's payload to a known member: its
// reply is known by our sequence number, the member's address and the payload.
//
// The sockets are not connected: a connected one drops a reply from another
// source than was asked, and that reply is the whole point of a probe. They are
// raw where the privilege for that is there; else ping sockets, on which the
// kernel owns the identifier.
//
// What the path says about a request (time exceeded, unreachable, too big)
// comes over the socket's error queue (IP_RECVERR, ip(7)), on both kinds of
// socket with the head of the request it is about: the quoted identifier,
// sequence number, destination and data say whose it is. For a relayed echo it
// is the answer ([PathError]). For a probe it is only evidence, since another
// member may yet answer a retransmission: it is counted, and named in the error
// if no reply comes.
//
// A socket with IP_RECVERR has a price: the kernel also hands the last ICMP
// error to whichever call comes next, such as the sending of another request.
// Such a send is tried again unless the error is seen to be its own.
package ping

// Package nat keeps the promise that the whole program is named after: every
// flow has one server, for its whole life.
//
// # Theory of operation
//
// A flow has two halves. The inside is the client's: it is offered by the room
// that reads packets as a [TCPInside], [UDPInside] or [EchoInside], and shows
// the client only the anycast address AA. The outside is a socket of our
// kernel to the unicast address UA of one member. The [Translator] joins them:
//
//	client --AA--> inside | table | outside --UA--> member
//
// A flow is entered in the table under its [Tuple] before anything else, which
// is where the [Limits] are held. Then its member is asked for, once, from the
// [Resolver]; the pin the answer came from may expire or change a moment
// later, but the flow has copied it and is never rebound. Then the member is
// dialled. Only when it has answered is the client answered, so a refused,
// unreachable or silent member looks refused, unreachable or silent
// ([RefusalFor] is the one place that decides which; what the network said by
// ICMP is said again, type, code and all). The single exception to
// "never rebound" is before that answer: a TCP dial that fails is tried once
// more on a freshly resolved member, when no byte has gone anywhere and the
// client cannot tell.
//
// An established TCP or UDP flow is a state machine: a few workers move its bytes
// when one of its halves has something to say. Between two such moments it has
// neither a goroutine nor a buffer. Of TCP each direction goes on until the FIN it
// has read and passed on; anything but FIN ends both halves with RST, also while
// the other end takes nothing, and after a FIN.
//
// UDP is carried datagram by datagram, or several of one size at once, each with
// its own traffic class and hop limit, over a socket connected to UA until the
// flow has been idle. Echo is carried request by request; its flow outlives the
// requests by a minute so that one ping run sees one member.
//
// The member sees an address of this host, or with [Config.Source] the one that it
// says, such as the client's own.
//
// [Kernel] makes the outside sockets, reads from their error queues what the
// network says about them, and tells flows of their events.
//
// ServeEcho blocks until its request has been answered, and the caller owns the
// goroutine; ServeTCP and ServeUDP until their flow has ended, unless the room that
// offers the flow can do without ([Detacher]). The package knows neither packets nor probes, and imports
// nothing but the standard library.
package nat

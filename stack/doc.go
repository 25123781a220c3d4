// Package stack turns the packets of a TUN device into connections: it is the
// only room that knows gVisor's netstack.
//
// # Theory of operation
//
//	device -> filter -> netstack -> TCP forwarder -> Handler.ServeTCP
//	       |                     -> ICMP handler  -> Handler.ServeEcho
//	       -> datagrams                           -> Handler.ServeUDP
//	device <- link   <- netstack <- what the Handler writes
//
// Packets are read one by one, each behind its virtio-net header, and looked at
// before they are let in: the destination must lie in an anycast prefix, the
// source must be an address that can be answered, and the protocol must be one
// that is translated. Any other protocol is refused as the network would have (RFC
// 792, RFC 4443), everything else is dropped and counted. One packet may stand for
// 64 KiB of segments, or of datagrams, and so may one that is written; see
// vnet.go. Every checksum is verified that neither this host has yet to fill in
// nor its link has verified, and netstack reassembles fragments within bounds of
// its own.
//
// Netstack accepts any destination (promiscuous) and sends from any source
// (spoofing), so every anycast address is ours without being configured. It
// forwards nothing and says nothing by itself: no neighbour discovery, no
// router solicitation, no echo reply. An echo request is taken by a handler of
// ours before netstack would answer it, because an echo that no member answered
// must stay unanswered.
//
// A TCP SYN is kept until the Handler has reached a member. Only then is the
// handshake completed, with [nat.TCPInside.Accept]; a SYN that is rejected gets
// RST, or the ICMP error that its Refusal stands for, which quotes the SYN: a
// client drops an error that does not. A RST that comes while the member is
// being dialled ends the context of ServeTCP, and so does a client that has
// stopped to send its SYN again.
//
// An established flow is carried without a goroutine; tcpflow.go says how its
// bytes get from the memory of netstack to the member's socket and back.
//
// UDP passes netstack by, but for fragments: of each datagram its own traffic
// class and hop limit are passed on, and whether it came in fragments, which an
// endpoint would forget. A flow is entered at once, on the dispatch path, so that
// the datagrams that come while the member is looked up wait in its queue, in
// order, and joined where they are of one size. A client that answers port
// unreachable ends its flow.
//
// What may wait for readers is bounded for each flow and for all together; see
// buffers.go.
//
// Every Serve call runs in a goroutine that Run waits for, as it does for flows
// that outlive theirs.
package stack

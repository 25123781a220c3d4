package stack

import "sync/atomic"

// Stats counts what has crossed the device since the Stack was made.
// Handshakes, Echoes and
// Buffered are gauges; everything else only grows.
type Stats struct {
	Handshakes int `json:"handshakes"` // SYNs that wait for their answer
	Echoes     int `json:"echoes"`     // echo requests being served
	Buffered   int `json:"buffered"`   // bytes that wait for their readers, all flows together

	PacketsIn  uint64 `json:"packets_in"`  // from clients
	BytesIn    uint64 `json:"bytes_in"`    // with IP headers
	PacketsOut uint64 `json:"packets_out"` // to clients
	BytesOut   uint64 `json:"bytes_out"`

	Malformed        uint64 `json:"dropped_malformed"`   // no IP packet, or not all there, or a wrong checksum
	NotAnycast       uint64 `json:"dropped_not_anycast"` // to an address in no anycast prefix
	BadSource        uint64 `json:"dropped_bad_source"`  // from an address that cannot be answered
	OtherICMP        uint64 `json:"dropped_other_icmp"`  // neither echo request nor error
	SYNsDropped      uint64 `json:"dropped_syns"`        // over the limit of handshakes
	EchoesDropped    uint64 `json:"dropped_echoes"`      // over the limit of echo requests
	Shed             uint64 `json:"dropped_refusals"`    // SYNs and datagrams of flows over a limit that were not even refused, for the rate
	DatagramsDropped uint64 `json:"dropped_datagrams"`   // of UDP, because too many waited in their flow
	RefusedBuffers   uint64 `json:"refused_buffers"`     // new flows while too much waited
	RefusedProtocol  uint64 `json:"refused_protocol"`    // neither TCP, UDP nor ICMP

	MTUsLearned uint64 `json:"path_mtus_learned"` // from routers on the way to clients
	MTUsFull    uint64 `json:"path_mtus_full"`    // not kept, for want of room

	ErrorsSent    uint64 `json:"icmp_errors_sent"`
	ErrorsLimited uint64 `json:"icmp_errors_limited"` // not sent, over the rate limit
	ReadErrors    uint64 `json:"read_errors"`
	WriteErrors   uint64 `json:"write_errors"`
}

type counters struct {
	packetsIn, bytesIn, packetsOut, bytesOut                                      atomic.Uint64
	malformed, notAnycast, badSource, otherICMP                                   atomic.Uint64
	synsDropped, echoesDropped, refusedProtocol, datagramsDropped, refusedBuffers atomic.Uint64
	shed, mtusLearned, mtusFull                                                   atomic.Uint64
	errorsSent, errorsLimited, readErrors, writeErrors                            atomic.Uint64
}

// Stats returns the counters as they stand now.
func (s *Stack) Stats() Stats {
	c := &s.stats
	return Stats{
		Handshakes: s.pending.len(), Echoes: len(s.echoes), Buffered: s.measure(),
		PacketsIn: c.packetsIn.Load(), BytesIn: c.bytesIn.Load(), PacketsOut: c.packetsOut.Load(), BytesOut: c.bytesOut.Load(),
		Malformed: c.malformed.Load(), NotAnycast: c.notAnycast.Load(), BadSource: c.badSource.Load(), OtherICMP: c.otherICMP.Load(),
		SYNsDropped: c.synsDropped.Load(), EchoesDropped: c.echoesDropped.Load(), Shed: c.shed.Load(), DatagramsDropped: c.datagramsDropped.Load(), RefusedProtocol: c.refusedProtocol.Load(), RefusedBuffers: c.refusedBuffers.Load(),
		MTUsLearned: c.mtusLearned.Load(), MTUsFull: c.mtusFull.Load(),
		ErrorsSent: c.errorsSent.Load(), ErrorsLimited: c.errorsLimited.Load(),
		ReadErrors: c.readErrors.Load(), WriteErrors: c.writeErrors.Load(),
	}
}

package ping

import (
	"bytes"
	"crypto/subtle"
	"encoding/binary"
	"net/netip"
	"time"
)

// deliver gives a reply to whoever waits for it. message is as the socket
// delivers it, and only valid during the call.
func (s *Socket) deliver(f *family, message []byte, from netip.Addr, at time.Time) {
	if f.raw && f.proto == icmpV4Proto {
		message = withoutHeader(message)
	}
	reply, ok := parseReply(f.proto, message)
	switch {
	case !ok:
		s.stats.malformed.Add(1)
	case f.deliverProbe(reply, from, at), f.deliverRelayed(reply, from):
		s.stats.replies.Add(1)
	default:
		s.stats.unmatched.Add(1)
	}
}

func (f *family) deliverProbe(reply echo, from netip.Addr, at time.Time) bool {
	wait := f.probeOf(reply.data)
	if wait == nil || len(reply.data) != nonceSize {
		return false
	}
	select {
	case wait.replies <- Reply{From: from, RTT: at.Sub(wait.sent)}:
		return true
	default:
		return false // many others were before it
	}
}

// probeOf returns the probe whose nonce data begins with, or nil. The first
// half of the nonce finds the probe; the second half is what a forger must
// know, and is compared without telling how much was right.
func (f *family) probeOf(data []byte) *probeWait {
	if len(data) < nonceSize {
		return nil
	}
	f.mu.Lock()
	wait := f.probes[binary.BigEndian.Uint64(data)]
	f.mu.Unlock()
	if wait == nil || subtle.ConstantTimeCompare(wait.secret[:], data[nonceSize/2:nonceSize]) != 1 {
		return nil
	}
	return wait
}

func (f *family) deliverRelayed(reply echo, from netip.Addr) bool {
	return f.answer(reply, from, func(w *relayWait) (relayed, bool) {
		return relayed{data: bytes.Clone(reply.data)}, bytes.Equal(w.data, reply.data)
	})
}

// deliverError gives an ICMP error to whoever waits for a reply to the request
// that quoted is the head of, and that went to about.
func (s *Socket) deliverError(f *family, quoted []byte, about netip.Addr, e *PathError) {
	request, ok := parseQuoted(f.proto, quoted)
	if !ok {
		s.stats.malformed.Add(1)
		return
	}
	if wait := f.probeOf(request.data); wait != nil && wait.to == about {
		wait.evidence.Store(e)
		s.stats.icmpErrors.Add(1)
		return
	}
	matched := f.answer(request, about, func(w *relayWait) (relayed, bool) {
		return relayed{err: e}, bytes.HasPrefix(w.data, request.data)
	})
	if matched {
		s.stats.icmpErrors.Add(1)
	} else {
		s.stats.unmatched.Add(1)
	}
}

// answer gives the relayed echo that has peer and e's sequence number the
// answer that make makes of it, if make says that it is one.
func (f *family) answer(e echo, peer netip.Addr, make func(*relayWait) (relayed, bool)) bool {
	if f.raw && e.id != f.id {
		return false // another program's ping
	}
	// Under the lock to the end: the data is the caller's, and is valid only
	// until it has taken its entry away.
	f.mu.Lock()
	defer f.mu.Unlock()
	wait := f.relayed[e.seq]
	if wait == nil || wait.to != peer {
		return false
	}
	answer, ok := make(wait)
	if !ok {
		return false
	}
	select {
	case wait.answers <- answer:
		return true
	default:
		return false // a duplicate
	}
}

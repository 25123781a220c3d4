package ping

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// nonceSize makes a reply that was not asked for a matter of 2^128 guesses.
const nonceSize = 16

// firstRetransmit is the time to the second transmission of a probe; each
// further one waits twice as long (RFC 8489 section 6.2.1 does the same).
const firstRetransmit = 250 * time.Millisecond

// Reply is the answer to a probe.
type Reply struct {
	From netip.Addr    // who answered, which no one has vouched for
	RTT  time.Duration // of the transmission that was answered
}

// probeWait is one transmission of a probe.
type probeWait struct {
	secret [nonceSize / 2]byte // the second half of the nonce
	sent   time.Time
	reply  chan<- Reply // has room for one; the first reply wins
}

// relayWait is one relayed echo request.
type relayWait struct {
	to    netip.Addr
	data  []byte
	reply chan<- []byte // has room for one
}

// Probe asks aa who is there, again and again until the first reply or the end
// of ctx, whose error is then wrapped. Each transmission has a nonce of its
// own, so that the RTT is that of the one that was answered.
func (s *Socket) Probe(ctx context.Context, aa netip.Addr) (Reply, error) {
	f, err := s.familyOf(aa)
	if err != nil {
		return Reply{}, err
	}
	replies := make(chan Reply, 1)
	var keys []uint64
	defer func() { f.forgetProbes(keys) }()
	for wait := firstRetransmit; ; wait *= 2 {
		key, err := s.transmit(f, aa, replies)
		if err != nil {
			return Reply{}, err
		}
		keys = append(keys, key)
		timer := time.NewTimer(wait)
		select {
		case r := <-replies:
			timer.Stop()
			return r, nil
		case <-ctx.Done():
			timer.Stop()
			return Reply{}, fmt.Errorf("ping: no echo reply from %v: %w", aa, ctx.Err())
		case <-timer.C:
		}
	}
}

func (s *Socket) transmit(f *family, aa netip.Addr, replies chan<- Reply) (key uint64, err error) {
	var nonce [nonceSize]byte
	_, _ = rand.Read(nonce[:]) // crypto/rand never fails (Go 1.24)
	key = binary.BigEndian.Uint64(nonce[:8])
	wait := &probeWait{secret: [8]byte(nonce[8:]), sent: time.Now(), reply: replies}
	f.mu.Lock()
	if len(f.probes) >= maxProbes {
		f.mu.Unlock()
		s.stats.busy.Add(1)
		return 0, ErrBusy
	}
	f.probes[key] = wait
	f.nextSeq++
	seq := f.nextSeq
	f.mu.Unlock()
	message, err := f.request(seq, nonce[:])
	if err == nil {
		err = s.send(f, message, aa)
	}
	if err != nil {
		f.forgetProbes([]uint64{key})
		return 0, err
	}
	s.stats.probes.Add(1)
	return key, nil
}

func (f *family) forgetProbes(keys []uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range keys {
		delete(f.probes, key)
	}
}

// Echo sends data to ua in one echo request and returns the data of the reply,
// which the caller owns. It is not sent twice: whether a ping is lost is what
// the client wants to know. At the end of ctx its error is wrapped.
func (s *Socket) Echo(ctx context.Context, ua netip.Addr, _ uint8, _ bool, data []byte) ([]byte, error) {
	f, err := s.familyOf(ua)
	if err != nil {
		return nil, err
	}
	reply := make(chan []byte, 1)
	seq, err := f.expect(&relayWait{to: ua, data: data, reply: reply})
	if err != nil {
		s.stats.busy.Add(1)
		return nil, err
	}
	defer f.forgetRelayed(seq)
	message, err := f.request(seq, data)
	if err != nil {
		return nil, err
	}
	if err := s.send(f, message, ua); err != nil {
		return nil, err
	}
	s.stats.relayed.Add(1)
	select {
	case data := <-reply:
		return data, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("ping: no echo reply from %v: %w", ua, ctx.Err())
	}
}

// expect takes a free sequence number.
func (f *family) expect(w *relayWait) (uint16, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.relayed) >= maxRelayed {
		return 0, ErrBusy
	}
	for f.relayed[f.nextSeq] != nil {
		f.nextSeq++
	}
	seq := f.nextSeq
	f.nextSeq++
	f.relayed[seq] = w
	return seq, nil
}

func (f *family) forgetRelayed(seq uint16) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.relayed, seq)
}

// request is an echo request (RFC 4443 section 4.1, RFC 792). The kernel fills
// in ICMPv6's checksum, which covers addresses only it knows.
func (f *family) request(seq uint16, data []byte) ([]byte, error) {
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(f.id), Seq: int(seq), Data: data}}
	if f.proto == icmpV6Proto {
		m.Type = ipv6.ICMPTypeEchoRequest
	}
	message, err := m.Marshal(nil)
	if err != nil {
		return nil, fmt.Errorf("ping: %w", err)
	}
	return message, nil
}

// parseReply returns the echo body of a reply, or nil.
func parseReply(proto int, message []byte) *icmp.Echo {
	m, err := icmp.ParseMessage(proto, message)
	if err != nil || m.Code != 0 || m.Type != ipv4.ICMPTypeEchoReply && m.Type != ipv6.ICMPTypeEchoReply {
		return nil
	}
	body, _ := m.Body.(*icmp.Echo)
	return body
}

// deliver gives a message to whoever waits for it. message is only valid
// during the call.
func (s *Socket) deliver(f *family, message []byte, from netip.Addr, at time.Time) {
	body := parseReply(f.proto, message)
	switch {
	case body == nil:
		s.stats.malformed.Add(1)
	case f.deliverProbe(body, from, at), f.deliverRelayed(body, from):
		s.stats.replies.Add(1)
	default:
		s.stats.unmatched.Add(1)
	}
}

func (f *family) deliverProbe(body *icmp.Echo, from netip.Addr, at time.Time) bool {
	if len(body.Data) != nonceSize {
		return false
	}
	f.mu.Lock()
	wait := f.probes[binary.BigEndian.Uint64(body.Data)]
	f.mu.Unlock()
	// The first half of the nonce finds the probe; the second half is what a
	// forger must know, and is compared without telling how much was right.
	if wait == nil || subtle.ConstantTimeCompare(wait.secret[:], body.Data[nonceSize/2:]) != 1 {
		return false
	}
	select {
	case wait.reply <- Reply{From: from, RTT: at.Sub(wait.sent)}:
		return true
	default:
		return false // another reply was first
	}
}

func (f *family) deliverRelayed(body *icmp.Echo, from netip.Addr) bool {
	if f.raw && body.ID != int(f.id) {
		return false // another program's ping
	}
	// Under the lock to the end: the data is the caller's, and is valid only
	// until it has taken its entry away.
	f.mu.Lock()
	defer f.mu.Unlock()
	wait := f.relayed[uint16(body.Seq)]
	if wait == nil || wait.to != from || !bytes.Equal(wait.data, body.Data) {
		return false
	}
	select {
	case wait.reply <- bytes.Clone(body.Data):
		return true
	default:
		return false // a duplicate
	}
}

func randomID() uint16 {
	var b [2]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails (Go 1.24)
	return binary.BigEndian.Uint16(b[:])
}

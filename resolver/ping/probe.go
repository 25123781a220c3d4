package ping

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
)

// nonceSize makes a reply that was not asked for a matter of 2^128 guesses.
const nonceSize = 16

// firstRetransmit is the time to the second transmission of a probe; each
// further one waits twice as long (RFC 8489 section 6.2.1 does the same).
const firstRetransmit = 250 * time.Millisecond

// maxReplies is how many replies to one probe may wait to be judged. More are
// a flood, and the probe will be repeated.
const maxReplies = 16

// Reply is the answer to a probe.
type Reply struct {
	From netip.Addr    // who answered, which no one has vouched for
	RTT  time.Duration // of the transmission that was answered
}

// probe is one call of [Socket.Probe].
type probe struct {
	to       netip.Addr
	replies  chan Reply                // that wait to be judged
	evidence atomic.Pointer[PathError] // the last ICMP error about it
}

// probeWait is one transmission of a probe.
type probeWait struct {
	*probe
	secret [nonceSize / 2]byte // the second half of the nonce
	sent   time.Time
}

// Probe asks aa who is there, again and again until the first reply or the end
// of ctx, whose error is then wrapped. Each transmission has a nonce of its
// own, so that the RTT is that of the one that was answered. An ICMP error does
// not end it, since another member may answer yet.
func (s *Socket) Probe(ctx context.Context, aa netip.Addr) (Reply, error) {
	return s.ProbePath(ctx, aa, 0, func(Reply) bool { return true })
}

// ProbePath is Probe over what may be another of several equal paths, which
// routers choose by a hash: with each number the IPv6 flow label (RFC 6438) and,
// on a raw socket, the ICMP identifier are others. Path 0 leaves the label to
// the kernel. A retransmission takes the next path. believe says of each reply
// whether it will do; if not, the wait goes on, and so do the transmissions.
func (s *Socket) ProbePath(ctx context.Context, aa netip.Addr, path int, believe func(Reply) bool) (Reply, error) {
	f, err := s.familyOf(aa)
	if err != nil {
		return Reply{}, err
	}
	p := &probe{to: aa.WithZone(""), replies: make(chan Reply, maxReplies)}
	var keys []uint64
	defer func() { f.forgetProbes(keys) }()
	timer := time.NewTimer(firstRetransmit)
	defer timer.Stop()
	for wait := firstRetransmit; ; wait *= 2 {
		// A failure to ask again ends nothing: what has been asked before may
		// be answered yet.
		key, err := s.transmit(f, aa, p, path)
		path++
		switch {
		case err == nil:
			keys = append(keys, key)
		case len(keys) == 0:
			return Reply{}, err
		}
		timer.Reset(wait)
		if r, err := s.await(ctx, p, timer.C, believe); err != errAskAgain {
			return r, err
		}
	}
}

// errAskAgain says that nobody has answered yet who is believed.
var errAskAgain = errors.New("ping: ask again")

// await waits for a reply that is believed.
func (s *Socket) await(ctx context.Context, p *probe, timeout <-chan time.Time, believe func(Reply) bool) (Reply, error) {
	for {
		select {
		case r := <-p.replies:
			if believe(r) {
				return r, nil
			}
		case <-ctx.Done():
			return Reply{}, p.unanswered(ctx.Err())
		case <-s.closed:
			return Reply{}, ErrClosed
		case <-timeout:
			return Reply{}, errAskAgain
		}
	}
}

// unanswered says what has been heard instead of a reply. The ICMP error is not
// wrapped: what ended the probe is the end of its time.
func (p *probe) unanswered(err error) error {
	if e := p.evidence.Load(); e != nil {
		return fmt.Errorf("ping: no echo reply from %v, but %v: %w", p.to, e, err)
	}
	return fmt.Errorf("ping: no echo reply from %v: %w", p.to, err)
}

func (s *Socket) transmit(f *family, aa netip.Addr, p *probe, path int) (key uint64, err error) {
	var nonce [nonceSize]byte
	_, _ = rand.Read(nonce[:]) // crypto/rand never fails (Go 1.24)
	key = binary.BigEndian.Uint64(nonce[:8])
	wait := &probeWait{probe: p, secret: [8]byte(nonce[8:]), sent: time.Now()}
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
	if err := s.send(f, aa, ipHeader{label: f.label(path)}, f.request(f.id+uint16(path), seq, nonce[:])); err != nil {
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

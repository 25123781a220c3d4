package ping

import (
	"context"
	"fmt"
	"net/netip"
)

// relayWait is one relayed echo request.
type relayWait struct {
	to      netip.Addr
	data    []byte
	answers chan<- relayed // has room for one; the first answer wins
}

// relayed is what became of a relayed echo request.
type relayed struct {
	data []byte
	err  error // what the path said instead
}

// Echo sends data to ua in one echo request and returns the data of the reply,
// which the caller owns. It is not sent twice: whether a ping is lost is what
// the client wants to know. At the end of ctx its error is wrapped.
//
// hops is the hop limit to send it with, 0 for the host's default. whole says
// that it must not be fragmented: by us, and in IPv4 by a router either, for
// there it is the DF bit. A path whose MTU is known to be too small is then an
// error; otherwise the request goes out in fragments, which the routers of an
// IPv4 path may cut further.
//
// An ICMP error about the request is returned as a wrapped [*PathError].
func (s *Socket) Echo(ctx context.Context, ua netip.Addr, hops uint8, whole bool, data []byte) ([]byte, error) {
	f, err := s.familyOf(ua)
	if err != nil {
		return nil, err
	}
	answers := make(chan relayed, 1)
	seq, err := f.expect(&relayWait{to: ua.WithZone(""), data: data, answers: answers})
	if err != nil {
		s.stats.busy.Add(1)
		return nil, err
	}
	defer f.forgetRelayed(seq)
	if err := s.send(f, ua, ipHeader{hops: hops, whole: whole}, f.request(f.id, seq, data)); err != nil {
		return nil, err
	}
	s.stats.relayed.Add(1)
	select {
	case answer := <-answers:
		if answer.err != nil {
			return nil, fmt.Errorf("ping: echo to %v: %w", ua, answer.err)
		}
		return answer.data, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("ping: no echo reply from %v: %w", ua, ctx.Err())
	case <-s.closed:
		return nil, ErrClosed
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

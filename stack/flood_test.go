package stack

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"aarptun/nat"
)

// What a limit refuses is refused by the Handler, up to a rate; the rest is
// forgotten before it costs a goroutine or an answer.
func TestRefusalsAreShedInAFlood(t *testing.T) {
	const flood = 3 * refusalsPerSecond
	var refused atomic.Int64
	var full atomic.Bool
	full.Store(true)
	s, _ := start(t, handler{
		full: &full,
		tcp: func(_ context.Context, _ nat.Tuple, in nat.TCPInside) {
			refused.Add(1)
			in.Reject(nat.Refusal{Reason: nat.Busy})
		},
		udp: func(context.Context, nat.Tuple, waitingUDP) { refused.Add(1) },
	}, Config{})
	began := time.Now()
	for i := range uint16(flood / 2) {
		s.injectPacket(synTo(client6, any6, 1024+i, 1))
		s.injectPacket(udpDatagram(client6, any6, 1024+i, nil))
	}
	most := int64(refusalsPerSecond + time.Since(began).Seconds()*refusalsPerSecond + 1)
	eventually(t, "all are dealt with", func() bool { return refused.Load()+int64(s.Stats().Shed) == flood })
	if n := refused.Load(); n < refusalsPerSecond || n > most {
		t.Errorf("%d were refused, want %d to %d", n, refusalsPerSecond, most)
	}
}

// A limit is no reason to forget a flow that exists or that is being opened.
func TestKnownFlowsAreNotShed(t *testing.T) {
	var served atomic.Int64
	var full atomic.Bool
	goOn := make(chan struct{})
	h := handler{
		full: &full,
		tcp: func(_ context.Context, _ nat.Tuple, in nat.TCPInside) {
			<-goOn
			in.Reject(nat.Refusal{Reason: nat.Timeout})
		},
		udp: func(ctx context.Context, _ nat.Tuple, in waitingUDP) {
			defer context.AfterFunc(ctx, func() { _ = in.Close() })()
			for {
				if _, err := in.Receive(); err != nil {
					return
				}
				served.Add(1)
			}
		},
	}
	s, _ := start(t, h, Config{})
	defer close(goOn)
	s.injectPacket(synTo(client6, any6, 4000, 1))
	s.injectPacket(udpDatagram(client6, any6, 4000, nil))
	full.Store(true)
	s.refusals.AllowN(time.Now(), refusalsPerSecond)
	for range 100 {
		s.injectPacket(synTo(client6, any6, 4000, 1))
		s.injectPacket(udpDatagram(client6, any6, 4000, nil))
	}
	eventually(t, "the datagrams are served", func() bool { return served.Load() == 101 })
	if st := s.Stats(); st.Shed != 0 || st.Handshakes != 1 {
		t.Errorf("shed %d, handshakes %d; want 0, 1", st.Shed, st.Handshakes)
	}
}

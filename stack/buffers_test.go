package stack

import (
	"context"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"aarptun/nat"
)

// TestFullBuffersRefuseNewFlowsOnly fills a flow in each direction, whose
// reader takes nothing, until the stack holds all that it may.
func TestFullBuffersRefuseNewFlowsOnly(t *testing.T) {
	const limit = 256 << 10
	stall := make(chan struct{})
	s, w := start(t, handler{tcp: func(ctx context.Context, _ nat.Tuple, in nat.TCPInside) {
		accepted, err := in.Accept(context.Background())
		if err != nil {
			t.Errorf("Accept: %v", err)
			return
		}
		c := blocking(accepted)
		defer func() { _ = c.Reset() }()
		select {
		case <-stall:
		case <-ctx.Done():
		}
		b := make([]byte, 64<<10)
		for n := 0; n < 2*limit; {
			m, err := c.Read(b)
			if err != nil {
				t.Errorf("read: %v", err)
				return
			}
			n += m
		}
		if _, err := c.Write([]byte("x")); err != nil {
			t.Errorf("write: %v", err)
		}
		<-ctx.Done()
	}}, Config{Buffers: limit})
	c := w.mustDial(t, tcp.ProtocolNumber, any6, 80)
	if _, err := c.Write(make([]byte, 2*limit)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the buffers are full", func() bool { return s.Stats().Buffered >= limit })
	forget(s)
	syn := synTo(client4, any4, 4001, 1)
	if err := w.client.DisableNIC(1); err != nil {
		t.Fatal(err)
	}
	for quiet := false; !quiet; { // what was under way may still be sent
		select {
		case <-w.out:
		case <-time.After(100 * time.Millisecond):
			quiet = true
		}
	}
	s.injectPacket(syn)
	wantReset(t, w, syn)
	s.injectPacket(udpDatagram(client4, any4, 4001, []byte("x")))
	wantUnreachable(t, w, any4, int(header.ICMPv4AdminProhibited), udpDatagram(client4, any4, 4001, []byte("x")))
	if n := s.Stats().RefusedBuffers; n != 2 {
		t.Errorf("%d flows refused, want 2", n)
	}
	if err := w.client.EnableNIC(1); err != nil {
		t.Fatal(err)
	}
	close(stall) // the flow that was full goes on to its end
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("the flow gave %d bytes, %v", n, err)
	}
	eventually(t, "the buffers are empty", func() bool { return s.Stats().Buffered == 0 })
	forget(s)
	if s.buffersFull() {
		t.Error("still full")
	}
}

// forget makes the next flow measure afresh.
func forget(s *Stack) {
	s.buffers.mu.Lock()
	defer s.buffers.mu.Unlock()
	s.buffers.measured = s.buffers.measured.Add(-measureEvery)
}

package stack

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"aarptun/nat"
)

// accept makes a TCP handler of what happens to an accepted connection.
func accept(t testing.TB, serve func(*conn)) func(context.Context, nat.Tuple, nat.TCPInside) {
	return func(_ context.Context, _ nat.Tuple, in nat.TCPInside) {
		accepted, err := in.Accept(context.Background())
		if err != nil {
			t.Errorf("Accept: %v", err)
			return
		}
		c := blocking(accepted)
		serve(c)
		_ = c.Close()
	}
}

func randomBytes(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTCPCarriesBytesBothWays(t *testing.T) {
	for _, wiring := range wirings {
		for _, f := range families {
			t.Run(wiring.name+" "+f.name, func(t *testing.T) {
				tuples := make(chan nat.Tuple, 1)
				echo := accept(t, func(c *conn) {
					if _, err := io.Copy(c, c); err != nil {
						t.Errorf("copy: %v", err)
					}
					_ = c.CloseWrite()
				})
				_, w := start(t, handler{tcp: func(ctx context.Context, tuple nat.Tuple, in nat.TCPInside) {
					tuples <- tuple
					echo(ctx, tuple, in)
				}}, wiring.c)
				c := w.mustDial(t, tcp.ProtocolNumber, f.dest, 80)
				if got := <-tuples; got.Proto != nat.TCP || got.Anycast != netip.AddrPortFrom(f.dest, 80) || got.Client.Addr() != f.client {
					t.Errorf("tuple %v", got)
				}
				sent := randomBytes(t, 3<<20)
				var wg sync.WaitGroup
				wg.Go(func() {
					if _, err := c.Write(sent); err != nil {
						t.Errorf("write: %v", err)
					}
					if err := c.CloseWrite(); err != nil {
						t.Errorf("close write: %v", err)
					}
				})
				got, err := io.ReadAll(c)
				wg.Wait()
				if err != nil || !bytes.Equal(got, sent) {
					t.Errorf("%d bytes came back of %d, or others, %v", len(got), len(sent), err)
				}
				if joined, split := w.joined.Load(), w.split.Load(); (joined > 0) != wiring.c.TCPOffload || (split > 0) != wiring.c.TCPOffload {
					t.Errorf("%d packets of several segments were read, and %d written", joined, split)
				}
			})
		}
	}
}

func TestTCPHalfClose(t *testing.T) {
	const late = "after the other's FIN"
	t.Run("client first", func(t *testing.T) {
		_, w := start(t, handler{tcp: accept(t, func(c *conn) {
			if got, err := io.ReadAll(c); err != nil || len(got) != 0 {
				t.Errorf("inside read %q, %v; want FIN", got, err)
			}
			_, _ = io.WriteString(c, late)
		})}, Config{})
		c := w.mustDial(t, tcp.ProtocolNumber, any6, 80)
		_ = c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != late {
			t.Errorf("client read %q, %v", got, err)
		}
	})
	t.Run("member first", func(t *testing.T) {
		ended := make(chan struct{})
		_, w := start(t, handler{tcp: accept(t, func(c *conn) {
			defer close(ended)
			_ = c.CloseWrite()
			if got, err := io.ReadAll(c); err != nil || string(got) != late {
				t.Errorf("inside read %q, %v", got, err)
			}
		})}, Config{})
		c := w.mustDial(t, tcp.ProtocolNumber, any6, 80)
		if got, err := io.ReadAll(c); err != nil || len(got) != 0 {
			t.Errorf("client read %q, %v; want FIN", got, err)
		}
		_, _ = io.WriteString(c, late)
		_ = c.CloseWrite()
		<-ended
	})
}

func TestTCPResetIsNoFIN(t *testing.T) {
	t.Run("from the client", func(t *testing.T) {
		read := make(chan error, 1)
		_, w := start(t, handler{tcp: accept(t, func(c *conn) {
			_, _ = io.WriteString(c, "x")
			_, err := io.ReadAll(c)
			read <- err
		})}, Config{})
		c := w.mustDial(t, tcp.ProtocolNumber, any6, 80)
		// With this byte the client knows that the handshake is over.
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		_ = c.Reset()
		if err := <-read; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("inside read %v, want ECONNRESET", err)
		}
	})
	t.Run("from the member", func(t *testing.T) {
		_, w := start(t, handler{tcp: accept(t, func(c *conn) {
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Errorf("inside read %v", err)
			}
			if err := c.Reset(); err != nil {
				t.Errorf("Reset: %v", err)
			}
			if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("read after Reset: %v", err)
			}
		})}, Config{})
		c := w.mustDial(t, tcp.ProtocolNumber, any6, 80)
		_, _ = io.WriteString(c, "x")
		if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("client read %v, want ECONNRESET", err)
		}
	})
}

func TestTCPResetUnblocksAReaderAndAWriter(t *testing.T) {
	_, w := start(t, handler{tcp: accept(t, func(c *conn) {
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Errorf("inside read %v", err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = c.Read(make([]byte, 1)) })
		wg.Go(func() {
			for { // until the client's window is full, and beyond
				if _, err := c.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		})
		_ = c.Reset()
		wg.Wait()
	})}, Config{})
	c := w.mustDial(t, tcp.ProtocolNumber, any6, 80)
	_, _ = io.WriteString(c, "x")
	_, err := io.Copy(io.Discard, c)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client read %v, want ECONNRESET", err)
	}
}

// After FIN both ways netstack calls the endpoint closed, as after some RSTs, and
// bytes that nobody has read yet wait in it all the same.
func TestTCPEndIsNoReset(t *testing.T) {
	for _, reset := range []bool{false, true} {
		ended := make(chan struct{})
		_, w := start(t, handler{tcp: accept(t, func(c *conn) {
			defer close(ended)
			endpoint := c.endpoint
			state := func(want tcp.EndpointState) {
				for tcp.EndpointState(endpoint.State()) != want {
					time.Sleep(time.Millisecond)
				}
			}
			if reset { // by a client that has sent FIN before
				state(tcp.StateCloseWait)
				_, _ = io.WriteString(c, "x")
			} else {
				_ = c.CloseWrite()
			}
			state(tcp.StateClose)
			leg := &tcpConn{endpoint: c.endpoint, queue: c.queue}
			if leg.Failed() != reset {
				t.Errorf("Failed: %v, reset: %v", leg.Failed(), reset)
			}
			if got, err := io.ReadAll(c); !reset && (err != nil || string(got) != "late") {
				t.Errorf("read %q, %v", got, err)
			}
		})}, Config{})
		c := w.mustDial(t, tcp.ProtocolNumber, any6, 80)
		_, _ = io.WriteString(c, "late")
		_ = c.CloseWrite()
		if reset {
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Errorf("client read %v", err)
			}
			_ = c.Reset()
		} else if _, err := io.ReadAll(c); err != nil {
			t.Errorf("client read %v", err)
		}
		<-ended
	}
}

// rejections is what each Reason is on the wire of either family; none means
// silence.
var rejections = []struct {
	reason       nat.Reason
	reset        bool
	code6, code4 int // of destination unreachable, -1 if it is not sent
}{
	{nat.Refused, true, -1, -1},
	{nat.Busy, true, -1, -1},
	{nat.NetUnreachable, false, 0, 0},
	{nat.Prohibited, false, 1, 13},
	{nat.Unreachable, false, 3, 1},
	{nat.Timeout, false, -1, -1},
}

func TestTCPReject(t *testing.T) {
	for _, f := range families {
		for _, want := range rejections {
			t.Run(f.name+" "+want.reason.String(), func(t *testing.T) {
				rejected := make(chan struct{})
				s, w := start(t, handler{tcp: func(_ context.Context, _ nat.Tuple, in nat.TCPInside) {
					in.Reject(nat.Refusal{Reason: want.reason})
					close(rejected)
				}}, Config{})
				syn := synTo(f.client, f.dest, 4000, 1)
				s.injectPacket(syn)
				<-rejected
				code := want.code6
				if f.dest.Is4() {
					code = want.code4
				}
				switch {
				case want.reset:
					wantReset(t, w, syn)
				case code >= 0:
					wantUnreachable(t, w, f.dest, code, syn)
				}
				w.wantNothingMore(t)
				if n := s.Stats().Handshakes; n != 0 {
					t.Errorf("%d handshakes are left", n)
				}
			})
		}
	}
}

func TestTCPRetransmittedSYNIsOneFlow(t *testing.T) {
	calls, goOn := make(chan struct{}, 8), make(chan struct{})
	s, w := start(t, handler{tcp: func(_ context.Context, _ nat.Tuple, in nat.TCPInside) {
		calls <- struct{}{}
		<-goOn
		in.Reject(nat.Refusal{Reason: nat.Refused})
	}}, Config{})
	for range 5 {
		s.injectPacket(synTo(client6, any6, 4000, 1))
	}
	<-calls
	if n := s.Stats().Handshakes; n != 1 {
		t.Errorf("%d handshakes, want 1", n)
	}
	close(goOn)
	wantReset(t, w, synTo(client6, any6, 4000, 1))
	w.wantNothingMore(t)
	if len(calls) != 0 {
		t.Error("the handler was called again")
	}
}

func TestTCPClientGivesUpWhileTheMemberIsDialled(t *testing.T) {
	ended := make(chan error, 1)
	s, w := start(t, handler{tcp: func(ctx context.Context, _ nat.Tuple, in nat.TCPInside) {
		<-ctx.Done()
		in.Reject(nat.Refusal{Reason: nat.Timeout})
		ended <- ctx.Err()
	}}, Config{})
	s.injectPacket(synTo(client6, any6, 4000, 1))
	s.injectPacket(tcpPacket(client6, any6, 4000, header.TCPFields{SeqNum: 77, Flags: header.TCPFlagRst})) // about another connection
	time.Sleep(20 * time.Millisecond)
	if len(ended) != 0 {
		t.Error("a RST of another connection ended the dial")
	}
	s.injectPacket(tcpPacket(client6, any6, 4000, header.TCPFields{SeqNum: 2, Flags: header.TCPFlagRst}))
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("context ended with %v", err)
	}
	w.wantNothingMore(t)
}

func TestTCPClientVanishesWhileTheMemberIsDialled(t *testing.T) {
	const patience = 500 * time.Millisecond
	ended := make(chan time.Time, 1)
	s, w := start(t, handler{tcp: func(ctx context.Context, _ nat.Tuple, in nat.TCPInside) {
		<-ctx.Done()
		in.Reject(nat.Refusal{Reason: nat.Timeout})
		ended <- time.Now()
	}}, Config{synPatience: patience})
	var last time.Time
	for range 5 {
		last = time.Now()
		s.injectPacket(synTo(client6, any6, 4000, 1))
		time.Sleep(patience / 25)
	}
	if len(ended) != 0 {
		t.Error("a client that sent its SYN again was given up")
	}
	if silence := (<-ended).Sub(last); silence < patience {
		t.Errorf("given up after %v of silence", silence)
	}
	if n := s.Stats().Handshakes; n != 0 {
		t.Errorf("%d handshakes are left", n)
	}
	w.wantNothingMore(t)
}

func TestTCPHandshakeLimit(t *testing.T) {
	goOn, begun := make(chan struct{}), make(chan struct{}, 8)
	s, _ := start(t, handler{tcp: func(_ context.Context, _ nat.Tuple, in nat.TCPInside) {
		begun <- struct{}{}
		<-goOn
		in.Reject(nat.Refusal{Reason: nat.Timeout})
	}}, Config{Handshakes: 2})
	for port := range uint16(5) {
		s.injectPacket(synTo(client6, any6, 4000+port, 1))
	}
	<-begun
	<-begun
	if st := s.Stats(); st.Handshakes != 2 || st.SYNsDropped != 3 {
		t.Errorf("handshakes %d, dropped %d; want 2, 3", st.Handshakes, st.SYNsDropped)
	}
	close(goOn)
	eventually(t, "room again", func() bool { return s.Stats().Handshakes == 0 })
	s.injectPacket(synTo(client6, any6, 5000, 1))
	<-begun
}

func TestCloseEndsAHandshakeUnderWay(t *testing.T) {
	ended := make(chan error, 1)
	s, w := start(t, handler{tcp: func(_ context.Context, _ nat.Tuple, in nat.TCPInside) {
		_, err := in.Accept(context.Background()) // whose SYN-ACK nobody answers
		ended <- err
	}}, Config{})
	// The client's own netstack must not answer the SYN-ACK with RST.
	if err := w.client.DisableNIC(1); err != nil {
		t.Fatal(err)
	}
	s.injectPacket(synTo(client6, any6, 4000, 1))
	<-w.out
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("Accept succeeded without the client")
	}
}

func TestHandshakeEndsWithItsContext(t *testing.T) {
	for _, before := range []bool{true, false} {
		ended := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		s, w := start(t, handler{tcp: func(_ context.Context, _ nat.Tuple, in nat.TCPInside) {
			if before {
				cancel()
			}
			_, err := in.Accept(ctx) // whose SYN-ACK nobody answers
			ended <- err
		}}, Config{})
		// The client's own netstack must not answer the SYN-ACK with RST.
		if err := w.client.DisableNIC(1); err != nil {
			t.Fatal(err)
		}
		s.injectPacket(synTo(client6, any6, 4000, 1))
		if !before {
			<-w.out
			cancel()
		}
		if err := <-ended; err == nil {
			t.Error("Accept succeeded without the client")
		}
		if endpoints := s.net.RegisteredEndpoints(); len(endpoints) != 0 {
			t.Errorf("%d endpoints are left", len(endpoints))
		}
	}
}

func TestTCPSegmentOfNoFlowIsReset(t *testing.T) {
	_, w := start(t, handler{}, Config{})
	ack := tcpPacket(client6, any6, 4000, header.TCPFields{SeqNum: 7, AckNum: 9, Flags: header.TCPFlagAck})
	w.send(ack)
	got := w.next(t)
	segment := header.TCP(got[header.IPv6MinimumSize:])
	if segment.Flags() != header.TCPFlagRst || segment.SequenceNumber() != 9 {
		t.Errorf("answer has flags %v and sequence number %d, want RST and 9", segment.Flags(), segment.SequenceNumber())
	}
}

func TestTCPConnErrorsHaveTheKernelsNumbers(t *testing.T) {
	for err, want := range map[tcpip.Error]error{
		&tcpip.ErrConnectionReset{}: syscall.ECONNRESET, &tcpip.ErrConnectionRefused{}: syscall.ECONNREFUSED,
		&tcpip.ErrConnectionAborted{}: syscall.ECONNABORTED, &tcpip.ErrTimeout{}: syscall.ETIMEDOUT,
		&tcpip.ErrClosedForSend{}: syscall.EPIPE, &tcpip.ErrNetworkUnreachable{}: syscall.ENETUNREACH,
		&tcpip.ErrHostUnreachable{}: syscall.EHOSTUNREACH, &tcpip.ErrMessageTooLong{}: syscall.EMSGSIZE,
		&tcpip.ErrNoBufferSpace{}: syscall.ENOBUFS,
	} {
		if got := errnoOf(err); !errors.Is(got, want) {
			t.Errorf("%v is %v, want %v", err, got, want)
		}
	}
}

package stack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"aarptun/nat"
)

// flows starts a Stack that hands over the accepted flows as they are.
func flows(t testing.TB) (*Stack, *wire, <-chan *tcpConn) { return flowsOn(t, Config{}) }

func flowsOn(t testing.TB, config Config) (*Stack, *wire, <-chan *tcpConn) {
	accepted := make(chan *tcpConn, 1)
	s, w := start(t, handler{tcp: func(ctx context.Context, _ nat.Tuple, in nat.TCPInside) {
		c, err := in.Accept(context.Background())
		if err != nil {
			t.Errorf("Accept: %v", err)
			return
		}
		accepted <- c.(*tcpConn)
		<-ctx.Done()
		_ = c.Reset()
	}}, config)
	return s, w, accepted
}

// rawClient is a client made of packets, so that it can send segments of any
// size, each of which is one piece in the receive queue.
type rawClient struct {
	t        testing.TB
	s        *Stack
	src, dst netip.Addr
	seq, ack uint32
}

const rawPort = 4000

// rawConnect completes a handshake. The client's netstack, which has no part in
// it, is taken off the wire.
func rawConnect(t testing.TB, s *Stack, w *wire, src, dst netip.Addr) *rawClient {
	t.Helper()
	if err := w.client.DisableNIC(1); err != nil {
		t.Fatal(err)
	}
	s.injectPacket(synTo(src, dst, rawPort, 1))
	_, message := split(t, w.next(t), dst, src)
	c := &rawClient{t: t, s: s, src: src, dst: dst, seq: 2, ack: header.TCP(message).SequenceNumber() + 1}
	c.send(header.TCPFlagAck, nil)
	return c
}

// send sends one segment.
func (c *rawClient) send(flags header.TCPFlags, data []byte) {
	b := tcpSegment(c.src, c.dst, rawPort, header.TCPFields{SeqNum: c.seq, AckNum: c.ack, Flags: flags}, data)
	c.seq += uint32(len(data))
	if flags.Contains(header.TCPFlagFin) {
		c.seq++
	}
	c.s.injectPacket(b)
}

// taker is a writer that takes up to most bytes at once, if that is not 0, and
// fails with err after limit bytes, if that is not nil.
type taker struct {
	got   bytes.Buffer
	calls []int
	most  func() int
	limit int
	err   error
}

// TryWrite implements [nat.TryWriter].
func (w *taker) TryWrite(b []byte) (int, error) {
	w.calls = append(w.calls, len(b))
	n := len(b)
	if w.most != nil {
		n = min(n, w.most())
	}
	if w.err != nil && w.got.Len()+n > w.limit {
		n = w.limit - w.got.Len()
		w.got.Write(b[:n])
		return n, w.err
	}
	return w.got.Write(b[:n])
}

// queued waits until so many bytes wait in the flow.
func queued(t testing.TB, c *tcpConn, want int) {
	t.Helper()
	eventually(t, "the bytes are there", func() bool {
		n, err := c.endpoint.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
		return err == nil && n == want
	})
}

// TestMoveToWritesPieces: large pieces are written as they lie, small ones
// together, and all in their order.
func TestMoveToWritesPieces(t *testing.T) {
	const k = 1 << 10
	for _, f := range families {
		for _, tc := range []struct {
			name          string
			pieces, calls []int
		}{
			{"one small", []int{1}, []int{1}},
			{"small ones", []int{1000, 1, 1400, 16*k - 1}, []int{1000 + 1 + 1400 + 16*k - 1}},
			{"more small ones than fit", []int{15 * k, 15 * k, 15 * k, 15 * k, 15 * k}, []int{60 * k, 15 * k}},
			{"large ones", []int{16 * k, 60 * k, 20 * k}, []int{16 * k, 60 * k, 20 * k}},
			{"both", []int{100, 200, 40 * k, 50 * k, 300, 16 * k, 1}, []int{300, 40 * k, 50 * k, 300, 16 * k, 1}},
		} {
			t.Run(f.name+" "+tc.name, func(t *testing.T) {
				s, w, accepted := flows(t)
				client := rawConnect(t, s, w, f.client, f.dest)
				c := <-accepted
				var sent []byte
				for _, n := range tc.pieces {
					piece := randomBytes(t, n)
					sent = append(sent, piece...)
					client.send(header.TCPFlagAck|header.TCPFlagPsh, piece)
				}
				queued(t, c, len(sent))
				var to taker
				if err := c.MoveTo(&to); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(to.got.Bytes(), sent) {
					t.Errorf("%d bytes were moved of %d, or others", to.got.Len(), len(sent))
				}
				if !slices.Equal(to.calls, tc.calls) {
					t.Errorf("written as %d, want %d", to.calls, tc.calls)
				}
				client.send(header.TCPFlagAck|header.TCPFlagFin, nil)
				wantEnd(t, c, io.EOF)
			})
		}
	}
}

// wantEnd waits until MoveTo says how the client has ended.
func wantEnd(t testing.TB, c *tcpConn, want error) {
	t.Helper()
	eventually(t, "MoveTo says the end", func() bool {
		var to taker
		err := c.MoveTo(&to)
		if to.got.Len() > 0 {
			t.Fatalf("%d bytes were moved once more", to.got.Len())
		}
		if err != nil && !errors.Is(err, want) {
			t.Fatalf("MoveTo: %v, want %v", err, want)
		}
		return err != nil
	})
}

// TestMoveToAWriterThatTakesPart: whatever it leaves is there the next time.
func TestMoveToAWriterThatTakesPart(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			s, w, accepted := flows(t)
			client := rawConnect(t, s, w, f.client, f.dest)
			c := <-accepted
			var sent []byte
			for i := range 12 {
				n := 1 + rand.IntN(2000)
				if i%3 == 1 {
					n = gatherBelow + rand.IntN(30_000)
				}
				piece := randomBytes(t, n)
				sent = append(sent, piece...)
				flags := header.TCPFlags(header.TCPFlagAck | header.TCPFlagPsh)
				if i == 11 {
					flags |= header.TCPFlagFin // with the last byte
				}
				client.send(flags, piece)
			}
			queued(t, c, len(sent))
			to := taker{most: func() int { return rand.IntN(5000) }}
			var err error
			for turns := 0; err == nil; turns++ {
				if turns > 100_000 {
					t.Fatalf("%d bytes of %d after so many turns", to.got.Len(), len(sent))
				}
				err = c.MoveTo(&to)
			}
			if err != io.EOF || !bytes.Equal(to.got.Bytes(), sent) {
				t.Errorf("moved %d bytes of %d, or others; %v", to.got.Len(), len(sent), err)
			}
		})
	}
}

// The writer's error comes back, and what it had not taken is not lost.
func TestMoveToAWriterThatFails(t *testing.T) {
	for _, sizes := range [][]int{{100, 200, 300}, {20_000, 20_000}} {
		s, w, accepted := flows(t)
		client := rawConnect(t, s, w, client6, any6)
		c := <-accepted
		var sent []byte
		for _, n := range sizes {
			piece := randomBytes(t, n)
			sent = append(sent, piece...)
			client.send(header.TCPFlagAck|header.TCPFlagPsh, piece)
		}
		queued(t, c, len(sent))
		to := taker{limit: 250, err: syscall.EPIPE}
		if err := c.MoveTo(&to); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("MoveTo gave %v", err)
		}
		to.err = nil
		if err := c.MoveTo(&to); err != nil || !bytes.Equal(to.got.Bytes(), sent) {
			t.Errorf("moved %d bytes of %d, or others; %v", to.got.Len(), len(sent), err)
		}
	}
}

func TestMoveToAfterRST(t *testing.T) {
	for _, f := range families {
		s, w, accepted := flows(t)
		client := rawConnect(t, s, w, f.client, f.dest)
		c := <-accepted
		told := make(chan struct{}, 1)
		c.Watch(func(bool) {
			select {
			case told <- struct{}{}:
			default:
			}
		})
		if c.Failed() {
			t.Error("it has failed before it was reset")
		}
		client.send(header.TCPFlagRst, nil)
		select {
		case <-told:
		case <-time.After(10 * time.Second):
			t.Fatal("nobody was told of the RST")
		}
		wantEnd(t, c, syscall.ECONNRESET)
		if !c.Failed() {
			t.Error("it has not failed after a RST")
		}
		if n, err := c.TryReadFrom(bytes.NewReader([]byte("x")), 1); n != 0 || err == nil {
			t.Errorf("a connection that was reset takes %d bytes, %v", n, err)
		}
		if err := errors.Join(c.Reset(), c.Close(), c.Reset()); err != nil {
			t.Errorf("Reset, Close, Reset: %v", err)
		}
	}
}

// TestTryReadFrom fills the flow until it takes no more, and goes on when its
// client has read.
func TestTryReadFrom(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			_, w, accepted := flows(t)
			client := w.mustDial(t, tcp.ProtocolNumber, f.dest, 80)
			c := <-accepted
			told := make(chan struct{}, 1)
			c.Watch(func(bool) {
				select {
				case told <- struct{}{}:
				default:
				}
			})
			sent := randomBytes(t, 3*tcpBufferMax)
			from := bytes.NewReader(sent)
			var full bool
			take := func() {
				for from.Len() > 0 {
					before, most := from.Len(), min(from.Len(), 1+rand.IntN(300_000))
					n, err := c.TryReadFrom(from, most)
					if err != nil || before-from.Len() != n || n > most {
						t.Fatalf("it took %d of %d and says %d, %v", before-from.Len(), most, n, err)
					}
					if n == 0 {
						full = true
						return
					}
				}
			}
			take()
			if !full {
				t.Fatal("it took all, and nobody has read")
			}
			if n, err := c.TryReadFrom(failing{}, 1000); n != 0 || err != nil {
				t.Errorf("a full flow, from a reader that fails: %d, %v", n, err)
			}
			got := make([]byte, len(sent))
			read := make(chan error, 1)
			go func() {
				_, err := io.ReadFull(client, got)
				read <- err
			}()
			for tried := false; from.Len() > 0; {
				select {
				case <-told:
				case <-time.After(10 * time.Second):
					t.Fatal("nobody was told that there is room")
				}
				if !tried { // there may be room now, and r fails: nothing of it is sent
					if n, err := c.TryReadFrom(failing{}, 1000); n != 0 || err != nil {
						t.Errorf("from a reader that fails: %d, %v", n, err)
					}
					tried = true
				}
				take()
			}
			if err := <-read; err != nil || !bytes.Equal(got, sent) {
				t.Errorf("the client read others, %v", err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if n, err := client.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("behind it the client read %d bytes, %v", n, err)
			}
			if n, err := c.TryReadFrom(bytes.NewReader([]byte("x")), 1); n != 0 || !errors.Is(err, syscall.EPIPE) {
				t.Errorf("after CloseWrite: %d, %v", n, err)
			}
		})
	}
}

// failing is a reader that has nothing.
type failing struct{}

// Read implements [io.Reader].
func (failing) Read([]byte) (int, error) { return 0, syscall.ECONNRESET }

func BenchmarkMoveTo(b *testing.B) {
	for name, size := range map[string]int{"1400": 1400, "60000": 60_000} {
		b.Run(name, func(b *testing.B) {
			s, w, accepted := flows(b)
			client := rawConnect(b, s, w, client6, any6)
			c := <-accepted
			data := make([]byte, size)
			var to counter
			told := make(chan struct{}, 1)
			c.Watch(func(bool) {
				select {
				case told <- struct{}{}:
				default:
				}
			})
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				client.send(header.TCPFlagAck|header.TCPFlagPsh, data)
				for to = 0; int(to) < size; {
					<-told
					if err := c.MoveTo(&to); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// counter takes all.
type counter int

// TryWrite implements [nat.TryWriter].
func (c *counter) TryWrite(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

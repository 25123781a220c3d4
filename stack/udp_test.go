package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"aarptun/nat"
)

// udpEcho answers each datagram with itself until the flow is closed.
func udpEcho(flows chan<- nat.Tuple) func(context.Context, nat.Tuple, waitingUDP) {
	return func(ctx context.Context, tuple nat.Tuple, in waitingUDP) {
		defer context.AfterFunc(ctx, func() { _ = in.Close() })()
		flows <- tuple
		for {
			d, err := in.Receive()
			if err != nil {
				return
			}
			if err := in.TrySend(d); err != nil {
				return
			}
		}
	}
}

func TestUDPCarriesDatagramsOfEverySize(t *testing.T) {
	for _, wiring := range wirings {
		for _, f := range families {
			t.Run(wiring.name+" "+f.name, func(t *testing.T) {
				flows := make(chan nat.Tuple, 2)
				_, w := start(t, handler{udp: udpEcho(flows)}, wiring.c)
				c := w.mustDial(t, udp.ProtocolNumber, f.dest, 53)
				largest := 65507
				if f.dest.Is6() {
					largest = 65527
				}
				for _, n := range []int{1, 0, 1200, testMTU - 48, testMTU - 47, 8000, largest} {
					sent := randomBytes(t, n)
					if _, err := c.endpointWrite(sent); err != nil {
						t.Fatalf("%d bytes: %v", n, err)
					}
					got := make([]byte, 65535)
					m, err := c.Read(got)
					if err != nil || !bytes.Equal(got[:m], sent) {
						t.Errorf("%d bytes came back as %d, or others, %v", n, m, err)
					}
				}
				if got := <-flows; got.Anycast != netip.AddrPortFrom(f.dest, 53) || got.Client.Addr() != f.client || got.Proto != nat.UDP {
					t.Errorf("flow %v", got)
				}
				if len(flows) != 0 {
					t.Error("one socket made two flows")
				}
			})
		}
	}
}

// TestUDPSeveralAtOnce: what a member sends in one go arrives as the datagrams
// that it is, whatever the device can, and what a client sends in one go is
// handed over so.
func TestUDPSeveralAtOnce(t *testing.T) {
	const size, count, last = 1000, 20, 7
	for _, wiring := range wirings {
		for _, f := range families {
			t.Run(wiring.name+" "+f.name, func(t *testing.T) {
				data := randomBytes(t, size*(count-1)+last)
				m := nat.Meta{Class: 0x2a, Hops: 33}
				atOnce := make(chan int, count)
				_, w := start(t, handler{udp: func(ctx context.Context, _ nat.Tuple, in waitingUDP) {
					defer context.AfterFunc(ctx, func() { _ = in.Close() })()
					if _, err := in.Receive(); err != nil {
						t.Errorf("Receive: %v", err)
					}
					if err := in.TrySend(nat.Datagram{Data: data, Segment: size, Meta: m}); err != nil {
						t.Errorf("Send: %v", err)
					}
					for rest := data; len(rest) > 0; {
						d, err := in.Receive()
						if err != nil {
							t.Errorf("Receive: %v", err)
							return
						}
						atOnce <- (len(d.Data) + d.Size() - 1) / d.Size()
						for piece := range d.Pieces() {
							if want := rest[:min(size, len(rest))]; !bytes.Equal(piece, want) {
								t.Errorf("a datagram of %d bytes or others, want %d", len(piece), len(want))
								return
							}
							rest = rest[len(piece):]
						}
						if d.Free != nil {
							d.Free()
						}
					}
					close(atOnce)
				}}, wiring.c)
				c := w.mustDial(t, udp.ProtocolNumber, f.dest, 53)
				if _, err := c.Write([]byte("hello")); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, 65535)
				for rest := data; len(rest) > 0; rest = rest[min(size, len(rest)):] {
					if n, err := c.Read(got); err != nil || !bytes.Equal(got[:n], rest[:min(size, len(rest))]) {
						t.Fatalf("%d bytes came, or others, %v", n, err)
					}
					if b := <-w.out; classOf(b) != m.Class || hopsOf(b) != m.Hops {
						t.Errorf("class %#x, hop limit %d", classOf(b), hopsOf(b))
					}
				}
				if split := w.split.Load(); split != map[bool]int64{true: 1}[wiring.c.UDPOffload] {
					t.Errorf("%d packets of several datagrams were written", split)
				}
				for rest := data; len(rest) > 0; rest = rest[min(size, len(rest)):] {
					if _, err := c.Write(rest[:min(size, len(rest))]); err != nil {
						t.Fatal(err)
					}
				}
				sum := 0
				for n := range atOnce {
					sum += n
				}
				if sum != count {
					t.Errorf("%d datagrams arrived of %d", sum, count)
				}
			})
		}
	}
}

// endpointWrite sends one datagram, an empty one too.
func (c *conn) endpointWrite(b []byte) (int, error) {
	if len(b) == 0 {
		_, err := c.endpoint.Write(bytes.NewReader(nil), writeOptions)
		if err != nil {
			return 0, c.wrap("write", err)
		}
		return 0, nil
	}
	return c.Write(b)
}

func TestUDPMetaBothWays(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			got := make(chan nat.Datagram, 4)
			s, w := start(t, handler{udp: func(ctx context.Context, _ nat.Tuple, in waitingUDP) {
				defer context.AfterFunc(ctx, func() { _ = in.Close() })()
				for {
					d, err := in.Receive()
					if err != nil {
						return
					}
					got <- d
					_ = in.TrySend(nat.Datagram{Data: []byte("back"), Meta: nat.Meta{Class: 0x2b}})
				}
			}}, Config{})
			// The client has no socket, and its netstack would say so.
			if err := w.client.DisableNIC(1); err != nil {
				t.Fatal(err)
			}
			packet := udpDatagram(f.client, f.dest, 4000, []byte("there"))
			setClass(packet, 0xb9)
			s.injectPacket(packet)
			d := <-got
			if d.Meta.Class != 0xb9 || d.Meta.Hops != 64 || d.Meta.Whole != f.dest.Is6() || string(d.Data) != "there" {
				t.Errorf("datagram %q %+v", d.Data, d.Meta)
			}
			if class := classOf(w.next(t)); class != 0x2b {
				t.Errorf("the answer has class %#x, want 0x2b", class)
			}
			if f.dest.Is4() {
				header.IPv4(packet).SetFlagsFragmentOffset(header.IPv4FlagDontFragment, 0)
				header.IPv4(packet).SetChecksum(0)
				header.IPv4(packet).SetChecksum(^header.IPv4(packet).CalculateChecksum())
				s.injectPacket(packet)
				if d := <-got; !d.Meta.Whole {
					t.Error("the datagram came with DF, and yet may be fragmented")
				}
			}
			for _, part := range fragments(packet, 0x77) {
				s.injectPacket(part)
			}
			if d := <-got; d.Meta.Whole || string(d.Data) != "there" {
				t.Errorf("a datagram that came in fragments: %q %+v", d.Data, d.Meta)
			}
		})
	}
}

func TestUDPQueueIsBoundedAndInOrder(t *testing.T) {
	goOn, ended := make(chan struct{}), make(chan int, 1)
	const sent, size = 300, 1000
	s, _ := start(t, handler{udp: func(_ context.Context, _ nat.Tuple, in waitingUDP) {
		<-goOn
		n := 0
		for n < udpQueue/size {
			d, err := in.Receive()
			if err != nil {
				t.Errorf("Receive: %v", err)
				break
			}
			if waiting := min(udpQueue/size-n, maxJoinedBytes/size, maxJoined); len(d.Data) != waiting*size {
				t.Errorf("%d bytes at once, want %d datagrams", len(d.Data), waiting)
			}
			for piece := range d.Pieces() {
				if want := fmt.Sprintf("%04d", n); len(piece) != size || string(piece[:4]) != want {
					t.Errorf("datagram %s of %d bytes, want %s", piece[:4], len(piece), want)
				}
				n++
			}
			d.Free()
		}
		ended <- n
	}}, Config{})
	for i := range sent {
		data := make([]byte, size)
		copy(data, fmt.Sprintf("%04d", i))
		s.injectPacket(udpDatagram(client6, any6, 4000, data))
	}
	if got, want := s.Stats().DatagramsDropped, uint64(sent-udpQueue/size); got != want {
		t.Errorf("%d datagrams dropped, want %d", got, want)
	}
	close(goOn)
	<-ended
}

func TestUDPReject(t *testing.T) {
	for _, f := range families {
		for _, want := range rejections {
			t.Run(f.name+" "+want.reason.String(), func(t *testing.T) {
				rejected := make(chan struct{})
				_, w := start(t, handler{udp: func(_ context.Context, _ nat.Tuple, in waitingUDP) {
					d, err := in.Receive()
					if err != nil {
						t.Errorf("Receive: %v", err)
					}
					in.Reject(nat.Refusal{Reason: want.reason}, d.Data)
					close(rejected)
				}}, Config{})
				packet := udpDatagram(f.client, f.dest, 4000, []byte("hello"))
				w.send(packet)
				<-rejected
				code := want.code6
				if f.dest.Is4() {
					code = want.code4
				}
				switch want.reason {
				case nat.Refused:
					code = map[bool]int{true: 3, false: 4}[f.dest.Is4()]
				case nat.Busy:
					code = map[bool]int{true: 13, false: 1}[f.dest.Is4()]
				}
				if code >= 0 {
					wantUnreachable(t, w, f.dest, code, packet)
				}
				w.wantNothingMore(t)
			})
		}
	}
}

func TestUDPClientsClosedPortEndsTheFlow(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			ended := make(chan error, 1)
			s, w := start(t, handler{udp: func(_ context.Context, _ nat.Tuple, in waitingUDP) {
				_, _ = in.Receive()
				_ = in.TrySend(nat.Datagram{Data: []byte("too late")})
				_, err := in.Receive() // the client's netstack has no socket, and says so
				ended <- err
			}}, Config{})
			w.send(udpDatagram(f.client, f.dest, 4000, []byte("hello")))
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("the flow ended with %v", err)
			}
			eventually(t, "no flow is left", func() bool { s.udp.mu.Lock(); defer s.udp.mu.Unlock(); return len(s.udp.flows) == 0 })
		})
	}
}

func TestUDPOfAnotherClientCannotEndAFlow(t *testing.T) {
	begun := make(chan struct{})
	s, w := start(t, handler{udp: func(ctx context.Context, _ nat.Tuple, in waitingUDP) {
		_, _ = in.Receive()
		_ = in.TrySend(nat.Datagram{Data: []byte("quote me")})
		close(begun)
		<-ctx.Done()
	}}, Config{})
	if err := w.client.DisableNIC(1); err != nil {
		t.Fatal(err)
	}
	s.injectPacket(udpDatagram(client6, any6, 4000, []byte("hello")))
	<-begun
	quote := w.next(t)
	message := append([]byte{1, 4, 0, 0, 0, 0, 0, 0}, quote...)
	stranger := netip.MustParseAddr("2001:db8:c::666")
	s.injectPacket(ipPacket(stranger, any6, header.ICMPv6ProtocolNumber, message))
	s.udp.mu.Lock()
	n := len(s.udp.flows)
	s.udp.mu.Unlock()
	if n != 1 {
		t.Errorf("%d flows, want the one that is", n)
	}
}

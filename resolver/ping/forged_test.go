package ping

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// forger sends whatever ICMP message one asks it to send, from a host that
// itself answers no ping.
type forger struct{ v4, v6 net.PacketConn }

func (h *host) forger() forger {
	h.t.Helper()
	h.sysctl("ipv4.icmp_echo_ignore_all", "1")
	h.sysctl("ipv6.icmp.echo_ignore_all", "1")
	var f forger
	h.on(func() {
		var err4, err6 error
		f.v4, err4 = net.ListenPacket("ip4:icmp", "0.0.0.0")
		f.v6, err6 = net.ListenPacket("ip6:ipv6-icmp", "::")
		if err := errors.Join(err4, err6); err != nil {
			h.t.Fatal(err)
		}
	})
	h.t.Cleanup(func() { _ = errors.Join(f.v4.Close(), f.v6.Close()) })
	return f
}

func (f forger) send(t *testing.T, to netip.Addr, kind icmp.Type, body icmp.MessageBody) {
	t.Helper()
	conn := f.v6
	if to.Is4() {
		conn = f.v4
	}
	m, err := (&icmp.Message{Type: kind, Body: body}).Marshal(nil)
	if err == nil {
		_, err = conn.WriteTo(m, &net.IPAddr{IP: to.AsSlice()})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// request is an echo request as it was on the wire.
type request struct {
	packet  []byte // from the IP header on
	header  int    // of which so much is the IP header
	id, seq int
	data    []byte
}

func (w wire) request(t *testing.T, v6 bool) request {
	t.Helper()
	wanted, header := echoRequestV4, 20
	if v6 {
		wanted, header = echoRequestV6, 40
	}
	packet, _ := w.next(t, wanted)
	m := packet[header:]
	return request{packet, header, int(m[4])<<8 | int(m[5]), int(m[6])<<8 | int(m[7]), m[8:]}
}

// A member answers a probe by guesses, then with another's nonce, then right.
func TestForgedReplies(t *testing.T) {
	eachOnPath(t, func(t *testing.T, p path, s *Socket) {
		const guesses = 500
		f := p.member.forger()
		w := p.member.listen()
		for _, tc := range []struct {
			ua, client netip.Addr
			reply      icmp.Type
		}{{memberV6, clientV6, ipv6.ICMPTypeEchoReply}, {memberV4, clientV4, ipv4.ICMPTypeEchoReply}} {
			before := s.Stats()
			unmatched := func() uint64 { return s.Stats().Unmatched - before.Unmatched }
			ctx := within(t)
			replies := make(chan Reply, 1)
			go func() {
				r, err := s.Probe(ctx, tc.ua)
				if err != nil {
					t.Error(err)
				}
				replies <- r
			}()
			asked := w.request(t, tc.ua.Is6())
			for i := range guesses {
				nonce := slices.Clone(asked.data)
				_, _ = rand.Read(nonce[i%2*8:][:8]) // half of it is known
				f.send(t, tc.client, tc.reply, &icmp.Echo{ID: asked.id, Seq: asked.seq, Data: nonce})
				// One after the other, so that none is lost for want of room.
				eventually(t, "the guess is refused", func() bool { return unmatched() == uint64(i+1) })
			}
			if n := len(replies); n != 0 {
				t.Fatal("a guess was taken for the answer")
			}
			f.send(t, tc.client, tc.reply, &icmp.Echo{ID: asked.id, Seq: asked.seq, Data: asked.data})
			if r := <-replies; r.From != tc.ua {
				t.Errorf("the answer is from %v", r.From)
			}
			// It comes too late, and to nobody.
			f.send(t, tc.client, tc.reply, &icmp.Echo{ID: asked.id, Seq: asked.seq, Data: asked.data})
			eventually(t, "the duplicate is refused", func() bool { return unmatched() == guesses+1 })
		}
	})
}

// The router, on the path, answers first, and is not believed: the member's
// answer behind it is heard.
func TestReplyThatIsNotBelieved(t *testing.T) {
	eachOnPath(t, func(t *testing.T, p path, s *Socket) {
		member, router := p.member.forger(), p.router.forger()
		w := p.member.listen()
		for _, tc := range []struct {
			ua, client netip.Addr
			reply      icmp.Type
		}{{memberV6, clientV6, ipv6.ICMPTypeEchoReply}, {memberV4, clientV4, ipv4.ICMPTypeEchoReply}} {
			var heard []netip.Addr
			judged := make(chan struct{}, 100)
			ctx := within(t)
			replies := make(chan Reply, 1)
			go func() {
				r, err := s.ProbePath(ctx, tc.ua, 0, func(r Reply) bool {
					heard = append(heard, r.From)
					judged <- struct{}{}
					return r.From == tc.ua
				})
				if err != nil {
					t.Error(err)
				}
				replies <- r
			}()
			asked := w.request(t, tc.ua.Is6())
			echo := &icmp.Echo{ID: asked.id, Seq: asked.seq, Data: asked.data}
			for range 3 {
				router.send(t, tc.client, tc.reply, echo)
				<-judged
			}
			member.send(t, tc.client, tc.reply, echo)
			if r := <-replies; r.From != tc.ua || len(heard) != 4 || heard[0] == tc.ua {
				t.Errorf("the answer is from %v; heard %v", r.From, heard)
			}
		}
	})
}

// Routers quote requests that were never sent, and at last one that was: with
// the offset of what they did not like.
func TestForgedErrors(t *testing.T) {
	eachOnPath(t, func(t *testing.T, p path, s *Socket) {
		f := p.router.forger()
		p.member.forger() // for its silence
		w := p.member.listen()
		for _, tc := range []struct {
			ua, client netip.Addr
			problem    icmp.Type
			want       PathError
		}{
			{memberV6, clientV6, ipv6.ICMPTypeParameterProblem, said(routerV6.String(), 4, 0, 0x12345, syscall.EPROTO)},
			{memberV4, clientV4, ipv4.ICMPTypeParameterProblem, said(routerV4.String(), 12, 0, 17, syscall.EPROTO)},
		} {
			before := s.Stats()
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			errs := make(chan error, 1)
			go func() {
				_, err := s.Echo(ctx, tc.ua, 0, true, []byte("what the client has sent"))
				errs <- err
			}()
			asked := w.request(t, tc.ua.Is6())
			quote := func(at int) {
				packet := bytes.Clone(asked.packet)
				if at >= 0 {
					packet[at] ^= 1
				}
				f.send(t, tc.client, tc.problem, &icmp.ParamProb{Pointer: uintptr(tc.want.Info), Data: packet})
			}
			quote(asked.header + 7)  // another sequence number
			quote(asked.header + 12) // other data
			quote(asked.header - 1)  // another destination
			eventually(t, "three forgeries are refused", func() bool { return s.Stats().Unmatched-before.Unmatched == 3 })
			quote(asked.header) // no request
			eventually(t, "so is that", func() bool { return s.Stats().Malformed-before.Malformed == 1 || !s.v4.raw })
			if len(errs) != 0 {
				t.Fatalf("a forgery was taken for an answer: %v", <-errs)
			}
			quote(-1)
			wantError(t, tc.ua.String(), <-errs, tc.want)
			cancel()
		}
	})
}

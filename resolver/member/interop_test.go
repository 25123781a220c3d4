package member

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v3"
)

// TestPionAsksOurResponder asks with pion/stun's own client, which reads the
// answer with its own code, and then asks the alternate server, as RFC 8489
// section 10 has it.
func TestPionAsksOurResponder(t *testing.T) {
	client, server := newPair(t)
	member := server.serve(levels[1].setup())
	for aa, ua := range map[netip.Addr]netip.Addr{aa6: ua6, aa4: ua4} {
		dial := func(to netip.Addr) *stun.Client {
			var conn net.Conn
			var err error
			client.on(func() { conn, err = net.Dial("udp", netip.AddrPortFrom(to, DefaultPort).String()) })
			if err != nil {
				t.Fatal(err)
			}
			c, err := stun.NewClient(conn)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		ask := func(to netip.Addr) (answer *stun.Message) {
			c := dial(to)
			defer func() { _ = c.Close() }()
			request := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewUsername(goldenPSK.ID),
				names(aa), filler, integrity(goldenPSK.Secret), stun.Fingerprint)
			if err := c.Do(request, func(e stun.Event) {
				if e.Error != nil {
					t.Fatal(e.Error)
				}
				answer = new(stun.Message)
				if err := e.Message.CloneTo(answer); err != nil {
					t.Fatal(err)
				}
			}); err != nil {
				t.Fatal(err)
			}
			if err := stun.Fingerprint.Check(answer); err != nil {
				t.Error(err)
			}
			if !integrity(goldenPSK.Secret).check(answer) {
				t.Error("the MAC does not fit")
			}
			return answer
		}
		answer := ask(aa)
		var code stun.ErrorCodeAttribute
		var alternate stun.AlternateServer
		if err := answer.Parse(&code, &alternate); err != nil {
			t.Fatal(err)
		}
		if answer.Type != stun.BindingError || code.Code != stun.CodeTryAlternate || string(code.Reason) != "Try Alternate" {
			t.Errorf("%v: %v", answer.Type, code)
		}
		if got, _ := netip.AddrFromSlice(alternate.IP); got != ua || alternate.Port != DefaultPort {
			t.Errorf("alternate server %v port %d, want %v", got, alternate.Port, ua)
		}
		second := ask(ua)
		var mapped stun.XORMappedAddress
		if err := second.Parse(&mapped); err != nil || second.Type != stun.BindingSuccess || mapped.Port == 0 {
			t.Errorf("%v: %v, %v", second, mapped, err)
		}
	}
	if s := member.stats(); s.Answered != 2 || s.Confirmed != 2 {
		t.Errorf("%+v", s)
	}
}

// pionServer answers with what pion/stun makes, after it has ignored some
// requests. It tells when each request came.
func pionServer(h *host, aa netip.Addr, ignore int, answer func(request *stun.Message) []stun.Setter) <-chan time.Time {
	h.t.Helper()
	var conn net.PacketConn
	var err error
	h.on(func() { conn, err = net.ListenPacket("udp", netip.AddrPortFrom(aa, DefaultPort).String()) })
	if err != nil {
		h.t.Fatal(err)
	}
	times, done := make(chan time.Time, 100), make(chan struct{})
	h.t.Cleanup(func() { _ = conn.Close(); <-done })
	go func() {
		defer close(done)
		for n, buf := 0, make([]byte, 1500); ; n++ {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			times <- time.Now()
			request := new(stun.Message)
			if stun.Decode(buf[:size], request) != nil || n < ignore {
				continue
			}
			response := stun.MustBuild(append([]stun.Setter{request}, answer(request)...)...)
			_, _ = conn.WriteTo(response.Raw, from) // the client would miss it
		}
	}()
	return times
}

// TestOurProberReadsPion: an answer of the short-term mechanism needs nothing
// that only we have.
func TestOurProberReadsPion(t *testing.T) {
	h := newHost(t)
	h.address("lo", []string{"2001:db8:aa::1/128"})
	h.reaches(aa6)
	pionServer(h, aa6, 0, func(*stun.Message) []stun.Setter {
		return []stun.Setter{stun.BindingError, stun.CodeTryAlternate, &stun.AlternateServer{IP: ua6.AsSlice(), Port: DefaultPort},
			integrity(goldenPSK.Secret), stun.Fingerprint}
	})
	p := h.prober(ProberConfig{Rings: levels[1].rings()})
	if found, err := p.Probe(within(t), aa6); err != nil || found.UA != ua6 || found.Proof != ProofPSK || found.Lifetime != 0 {
		t.Errorf("%+v, %v", found, err)
	}
}

// TestOrdinaryServer: a STUN server that is no member says 420, or success; it
// names nobody.
func TestOrdinaryServer(t *testing.T) {
	for want, answer := range map[Refusal]func(*stun.Message) []stun.Setter{
		RefusedError: func(*stun.Message) []stun.Setter {
			return []stun.Setter{stun.BindingError, stun.CodeUnknownAttribute, stun.UnknownAttributes{stun.AttrPadding}, stun.Fingerprint}
		},
		RefusedAnswer: func(*stun.Message) []stun.Setter {
			return []stun.Setter{stun.BindingSuccess, &stun.XORMappedAddress{IP: asker6.AsSlice(), Port: 1}, stun.Fingerprint}
		},
	} {
		t.Run(string(want), func(t *testing.T) {
			h := newHost(t)
			h.address("lo", []string{"2001:db8:aa::1/128"})
			h.reaches(aa6)
			h.reaches(aa6)
			pionServer(h, aa6, 0, answer)
			p := h.prober(ProberConfig{})
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if found, err := p.Probe(ctx, aa6); !errors.Is(err, ErrNoAnswer) || p.Stats().Refused[want] == 0 {
				t.Errorf("%+v, %v, %+v", found, err, p.Stats())
			}
		})
	}
}

// TestRetransmission: the second request comes after the RTO, the third after
// twice that.
func TestRetransmission(t *testing.T) {
	h := newHost(t)
	h.address("lo", []string{"2001:db8:aa::1/128"})
	h.reaches(aa6)
	signed := levels[2].answerer()
	times := pionServer(h, aa6, 2, func(request *stun.Message) []stun.Setter {
		return []stun.Setter{stun.BindingError, stun.CodeTryAlternate, address{stun.AttrAlternateServer, netip.AddrPortFrom(ua6, DefaultPort)}, seconds(30), stun.NewTransactionIDSetter(request.TransactionID),
			signedNow(signed, request.TransactionID), stun.Fingerprint}
	})
	p := h.prober(ProberConfig{Rings: levels[2].rings()})
	found, err := p.Probe(within(t), aa6)
	if err != nil {
		t.Fatal(err)
	}
	first, second, third := <-times, <-times, <-times
	if d := second.Sub(first); d < firstRTO*9/10 || d > firstRTO*2 {
		t.Errorf("the second came after %v", d)
	}
	if d := third.Sub(second); d < 2*firstRTO*9/10 || d > 2*firstRTO*2 {
		t.Errorf("the third came after %v", d)
	}
	if found.RTT < 3*firstRTO*9/10 {
		t.Errorf("RTT %v does not begin with the first request", found.RTT)
	}
	if rto := p.rtos.rto(aa6, time.Now()); rto != firstRTO {
		t.Errorf("a repeated question was measured: RTO %v", rto)
	}
	if _, err := p.Probe(within(t), aa6); err != nil {
		t.Fatal(err)
	}
	if rto := p.rtos.rto(aa6, time.Now()); rto >= firstRTO {
		t.Errorf("one that was not repeated was not measured: RTO %v", rto)
	}
}

// signedNow is the signature over the answer that names ua6 for aa6.
func signedNow(a *answerer, id transactionID) stun.Setter {
	now := time.Now().Truncate(time.Second)
	return signed{key: a.signer, statement: statement{
		kind: stun.BindingError, id: id, aa: aa6, ua: netip.AddrPortFrom(ua6, DefaultPort), lifetime: 30, notBefore: now, notAfter: now.Add(30 * time.Second),
	}}
}

// TestFalseAnswersFirst: somebody on the path answers each question at once,
// and many times; the member is found all the same.
func TestFalseAnswersFirst(t *testing.T) {
	h := newHost(t)
	h.address("lo", []string{"2001:db8:aa::1/128"})
	h.reaches(aa6)
	var conn net.PacketConn
	var err error
	h.on(func() { conn, err = net.ListenPacket("udp", netip.AddrPortFrom(aa6, DefaultPort).String()) })
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = conn.Close(); <-done })
	go func() {
		defer close(done)
		out := newMessage()
		for buf := make([]byte, 1500); ; {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			forger := levels[0].answerer()
			forger.unicast = func(netip.Addr, time.Time) netip.Addr { return addr("2001:db8:bad::1") }
			forger.keyless = true
			asker := from.(*net.UDPAddr).AddrPort()
			for range maxAnswers / 2 {
				request := newMessage()
				if request.Build(stun.BindingRequest, stun.NewTransactionIDSetter(transactionID(buf[8:])), filler, stun.Fingerprint) == nil &&
					forger.answer(newMessage(), out, request.Raw, asker, aa6, time.Now()) == answered {
					_, _ = conn.WriteTo(out.Raw, from) // lost ones are no loss
				}
			}
			if levels[3].answerer().answer(newMessage(), out, buf[:n], asker, aa6, time.Now()) == answered {
				_, _ = conn.WriteTo(out.Raw, from) // the question would be repeated
			}
		}
	}()
	for _, l := range []level{levels[3]} {
		p := h.prober(ProberConfig{Rings: l.rings()})
		if found, err := p.Probe(within(t), aa6); err != nil || found.UA != ua6 {
			t.Errorf("%s: %+v, %v", l.name, found, err)
		}
		if p.Stats().Refused[RefusedNoMAC] == 0 {
			t.Errorf("%s: %+v", l.name, p.Stats())
		}
	}
}

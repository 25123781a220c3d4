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

// liar answers at an address of the host, each question with all that tell
// says, in that order.
func (h *host) liar(at netip.Addr, tell func(id transactionID, asker netip.AddrPort) [][]byte) {
	h.t.Helper()
	var conn net.PacketConn
	var err error
	h.on(func() { conn, err = net.ListenPacket("udp", netip.AddrPortFrom(at, DefaultPort).String()) })
	if err != nil {
		h.t.Fatal(err)
	}
	done := make(chan struct{})
	h.t.Cleanup(func() { _ = conn.Close(); <-done })
	go func() {
		defer close(done)
		for buf := make([]byte, 1500); ; {
			_, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			for _, message := range tell(transactionID(buf[8:]), from.(*net.UDPAddr).AddrPort()) {
				_, _ = conn.WriteTo(message, from) // the question would be repeated
			}
		}
	}()
}

// naming300 is an answer of AA's that names ua, without proof.
func naming300(t testing.TB, id transactionID, ua netip.Addr) []byte {
	return raw(t, stun.BindingError, stun.CodeTryAlternate, address{stun.AttrAlternateServer, netip.AddrPortFrom(ua, DefaultPort)},
		stun.NewTransactionIDSetter(id), stun.Fingerprint)
}

// draining500 is one of AA's, or of ua's, that says that ua drains.
func draining500(t testing.TB, id transactionID, ua netip.Addr) []byte {
	return raw(t, stun.BindingError, stun.CodeServerError, address{stun.AttrAlternateServer, netip.AddrPortFrom(ua, DefaultPort)}, seconds(0),
		stun.NewTransactionIDSetter(id), stun.Fingerprint)
}

// confirms answers at ua that it is a member.
func (h *host) confirms(ua netip.Addr) {
	h.liar(ua, func(id transactionID, asker netip.AddrPort) [][]byte {
		return [][]byte{raw(h.t, stun.BindingSuccess, xorAddress(asker), stun.NewTransactionIDSetter(id), stun.Fingerprint)}
	})
}

func many(n int) (uas []netip.Addr) {
	for i := range n {
		uas = append(uas, netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0xb, 0xad, 15: byte(i)}))
	}
	return uas
}

// TestFalseNamesFirst: without keys, somebody on the path answers each question
// first. What is not confirmed, or not what the caller wants, does not end it:
// the member's own answer behind it does.
func TestFalseNamesFirst(t *testing.T) {
	other := addr("2001:db8:12::9")
	only := func(want netip.Addr) func(Found) bool { return func(f Found) bool { return f.UA == want } }
	for _, tc := range []struct {
		name    string
		lies    []netip.Addr
		drains  bool // and not names
		believe func(Found) bool
		refused Refusal
		err     error
	}{
		{name: "hosts that do not confirm", lies: many(maxConfirms - 1), believe: only(ua6)},
		{name: "one host many times", lies: []netip.Addr{addr("2001:db8:bad::"), addr("2001:db8:bad::"), addr("2001:db8:bad::")}, believe: only(ua6)},
		{name: "a host that confirms and is not wanted", lies: []netip.Addr{other}, believe: only(ua6)},
		{name: "the member drains, which it does not", lies: []netip.Addr{ua6}, drains: true, believe: only(ua6)},
		{name: "more hosts than are asked", lies: many(maxConfirms), believe: only(ua6), refused: RefusedMany, err: ErrNoAnswer},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t)
			h.address("lo", []string{"2001:db8:aa::1/128", "2001:db8:12::2/128", "2001:db8:12::9/128"})
			h.ip("-6 route add blackhole 2001:db8:bad::/64")
			h.reaches(aa6, ua6)
			h.confirms(ua6)
			h.confirms(other)
			h.liar(aa6, func(id transactionID, _ netip.AddrPort) (all [][]byte) {
				for _, ua := range tc.lies {
					if tc.drains {
						all = append(all, draining500(t, id, ua))
						continue
					}
					all = append(all, naming300(t, id, ua))
				}
				return append(all, naming300(t, id, ua6))
			})
			p := h.prober(ProberConfig{})
			ctx := within(t)
			if tc.err != nil {
				ctx = shortly(t)
			}
			found, err := p.ProbeLane(ctx, aa6, 0, tc.believe)
			if !errors.Is(err, tc.err) || tc.err == nil && (err != nil || found.UA != ua6 || found.Draining) {
				t.Errorf("%+v, %v", found, err)
			}
			if tc.refused != "" && p.Stats().Refused[tc.refused] == 0 {
				t.Errorf("%+v", p.Stats())
			}
		})
	}
}

// TestWhoDrainsSaysSo: without keys, it takes the member itself to say that it
// drains.
func TestWhoDrainsSaysSo(t *testing.T) {
	for _, itself := range []bool{true, false} {
		h := newHost(t)
		h.address("lo", []string{"2001:db8:aa::1/128", "2001:db8:12::2/128"})
		h.reaches(aa6, ua6)
		if itself {
			h.liar(ua6, func(id transactionID, _ netip.AddrPort) [][]byte { return [][]byte{draining500(t, id, ua6)} })
		}
		h.liar(aa6, func(id transactionID, _ netip.AddrPort) [][]byte { return [][]byte{draining500(t, id, ua6)} })
		p, told := h.prober(ProberConfig{}), 0
		ctx := within(t)
		if !itself {
			ctx = shortly(t)
		}
		_, err := p.ProbeLane(ctx, aa6, 0, func(f Found) bool {
			if f.UA == ua6 && f.Draining {
				told++
			}
			return true
		})
		if want := map[bool]error{true: ErrDraining, false: ErrNoAnswer}[itself]; !errors.Is(err, want) || itself != (told == 1) {
			t.Errorf("by itself %v: %v, told %d times", itself, err, told)
		}
		if s := p.Stats(); itself && (s.Confirms != 1 || s.Transmissions != defaultLanes+1) {
			t.Errorf("%+v", s)
		}
	}
}

// TestConfirmationsEndWithTheQuestion: each of the hosts that are asked to confirm
// is given up with the question.
func TestConfirmationsEndWithTheQuestion(t *testing.T) {
	h := newHost(t)
	h.address("lo", []string{"2001:db8:aa::1/128"})
	h.ip("-6 route add 2001:db8:bad::/64 dev lo")
	h.reaches(aa6)
	h.liar(aa6, func(id transactionID, _ netip.AddrPort) (all [][]byte) {
		for _, ua := range many(maxConfirms) {
			all = append(all, naming300(t, id, ua))
		}
		return all
	})
	p := h.prober(ProberConfig{})
	if found, err := p.Probe(shortly(t), aa6); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("%+v, %v", found, err)
	}
	if len(p.questions) != 0 {
		t.Errorf("%d questions are kept", len(p.questions))
	}
	if n := p.Stats().Refused[RefusedUnconfirmed]; n != maxConfirms {
		t.Errorf("%d counted as not confirmed", n)
	}
}

// shortly is the time of a question that nobody answers.
func shortly(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

package member

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v3"
)

// raw builds a message of any attributes.
func raw(t testing.TB, setters ...stun.Setter) []byte {
	t.Helper()
	m := newMessage()
	if err := m.Build(append([]stun.Setter{stun.NewTransactionIDSetter(goldenID)}, setters...)...); err != nil {
		t.Fatal(err)
	}
	return m.Raw
}

// attr is an attribute of any content.
func attr(of stun.AttrType, value ...byte) stun.Setter {
	return stun.RawAttribute{Type: of, Value: value}
}

func names(aa netip.Addr) stun.Setter { return address{attrAnycast, netip.AddrPortFrom(aa, 0)} }

// filler pads a request so that size is no reason to be silent.
var filler = attr(stun.AttrPadding, make([]byte, 300)...)

func TestVerdicts(t *testing.T) {
	mac, username := integrity(goldenPSK.Secret), stun.NewUsername(goldenPSK.ID)
	nonce, psk := levels[0], levels[1]
	open := func(a *answerer) { a.keyless = true }
	drain := func(a *answerer) { a.drains = func() bool { return true } }
	for _, tc := range []struct {
		name   string
		level  level
		change func(*answerer)
		to     netip.Addr
		ask    []stun.Setter
		want   verdict
	}{
		{name: "AA", ask: []stun.Setter{stun.BindingRequest, filler, stun.Fingerprint}, want: answered},
		{name: "AA, named", ask: []stun.Setter{stun.BindingRequest, names(aa6), filler, stun.Fingerprint}, want: answered},
		{name: "AA, another one named", ask: []stun.Setter{stun.BindingRequest, names(aa4), filler, stun.Fingerprint}, want: foreign},
		{name: "AA, a stranger named", ask: []stun.Setter{stun.BindingRequest, names(asker6), filler, stun.Fingerprint}, want: foreign},
		{name: "UA", to: ua6, ask: []stun.Setter{stun.BindingRequest, names(aa6), filler, stun.Fingerprint}, want: confirmed},
		{name: "UA, none named", to: ua6, ask: []stun.Setter{stun.BindingRequest, filler, stun.Fingerprint}, want: foreign},
		{name: "UA, a stranger named", to: ua6, ask: []stun.Setter{stun.BindingRequest, names(asker6), filler, stun.Fingerprint}, want: foreign},
		{name: "another address of the host", to: addr("2001:db8:99::1"), ask: []stun.Setter{stun.BindingRequest, names(aa6), filler, stun.Fingerprint}, want: foreign},
		{name: "too small", ask: []stun.Setter{stun.BindingRequest, stun.Fingerprint}, want: larger},

		{name: "success response", ask: []stun.Setter{stun.BindingSuccess, filler, stun.Fingerprint}, want: unsupported},
		{name: "error response", ask: []stun.Setter{stun.BindingError, filler, stun.Fingerprint}, want: unsupported},
		{name: "indication", ask: []stun.Setter{stun.NewType(stun.MethodBinding, stun.ClassIndication), filler, stun.Fingerprint}, want: unsupported},
		{name: "Allocate", ask: []stun.Setter{stun.NewType(stun.MethodAllocate, stun.ClassRequest), filler, stun.Fingerprint}, want: unsupported},
		{name: "RESPONSE-PORT", ask: []stun.Setter{stun.BindingRequest, attr(stun.AttrResponsePort, 0, 53, 0, 0), filler, stun.Fingerprint}, want: unsupported},
		{name: "MESSAGE-INTEGRITY", ask: []stun.Setter{stun.BindingRequest, filler, stun.NewShortTermIntegrity(goldenPSK.Secret), stun.Fingerprint}, want: unsupported},
		{name: "unknown but optional", ask: []stun.Setter{stun.BindingRequest, attr(0xfffe, 1), filler, stun.Fingerprint}, want: answered},

		{name: "no FINGERPRINT", ask: []stun.Setter{stun.BindingRequest, filler}, want: malformed},
		{name: "FINGERPRINT not last", ask: []stun.Setter{stun.BindingRequest, stun.Fingerprint, filler}, want: malformed},
		{name: "FINGERPRINT wrong", ask: []stun.Setter{stun.BindingRequest, filler, attr(stun.AttrFingerprint, 1, 2, 3, 4)}, want: malformed},
		{name: "AA cut short", ask: []stun.Setter{stun.BindingRequest, attr(attrAnycast, 0, 2, 0, 0, 1, 2, 3, 4), filler, stun.Fingerprint}, want: malformed},
		{name: "AA of no family", ask: []stun.Setter{stun.BindingRequest, attr(attrAnycast, 0, 3, 0, 0, 1, 2, 3, 4), filler, stun.Fingerprint}, want: malformed},

		{name: "key", level: psk, ask: []stun.Setter{stun.BindingRequest, username, filler, mac, stun.Fingerprint}, want: answered},
		{name: "key, UA", level: psk, to: ua6, ask: []stun.Setter{stun.BindingRequest, username, names(aa6), filler, mac, stun.Fingerprint}, want: confirmed},
		{name: "no key", level: psk, ask: []stun.Setter{stun.BindingRequest, filler, stun.Fingerprint}, want: noKey},
		{name: "no key, and none needed", level: psk, change: open, ask: []stun.Setter{stun.BindingRequest, filler, stun.Fingerprint}, want: answered},
		{name: "bad key where none is needed", level: psk, change: open, ask: []stun.Setter{stun.BindingRequest, username, filler, integrity("another-secret-of-28-letters"), stun.Fingerprint}, want: badKey},
		{name: "wrong secret", level: psk, ask: []stun.Setter{stun.BindingRequest, username, filler, integrity("another-secret-of-28-letters"), stun.Fingerprint}, want: badKey},
		{name: "unknown key", level: psk, ask: []stun.Setter{stun.BindingRequest, stun.NewUsername("k2"), filler, mac, stun.Fingerprint}, want: badKey},
		{name: "MAC of no key", level: psk, ask: []stun.Setter{stun.BindingRequest, filler, mac, stun.Fingerprint}, want: badKey},
		{name: "key without MAC", level: psk, ask: []stun.Setter{stun.BindingRequest, username, filler, stun.Fingerprint}, want: badKey},
		{name: "key without MAC, where none is needed", level: psk, change: open, ask: []stun.Setter{stun.BindingRequest, username, filler, stun.Fingerprint}, want: badKey},
		{name: "key, but none is known here", level: nonce, ask: []stun.Setter{stun.BindingRequest, username, filler, mac, stun.Fingerprint}, want: badKey},
		{name: "AA named behind the MAC", level: psk, to: ua6, ask: []stun.Setter{stun.BindingRequest, username, filler, mac, names(aa6), stun.Fingerprint}, want: foreign},

		{name: "draining", change: drain, ask: []stun.Setter{stun.BindingRequest, filler, stun.Fingerprint}, want: declined},
		{name: "draining, UA", change: drain, to: ua6, ask: []stun.Setter{stun.BindingRequest, names(aa6), filler, stun.Fingerprint}, want: declined},
		{name: "draining, no key", level: psk, change: drain, ask: []stun.Setter{stun.BindingRequest, filler, stun.Fingerprint}, want: noKey},
		{name: "limited", change: func(a *answerer) { a.limit = func(netip.Addr, time.Time) bool { return false } }, ask: []stun.Setter{stun.BindingRequest, filler, stun.Fingerprint}, want: limited},
		{name: "bad key before the limit", level: psk, change: func(a *answerer) { a.limit = func(netip.Addr, time.Time) bool { panic("counted") } }, ask: []stun.Setter{stun.BindingRequest, filler, stun.Fingerprint}, want: noKey},
		{name: "no unicast", change: func(a *answerer) { a.unicast = func(netip.Addr, time.Time) netip.Addr { return netip.Addr{} } }, ask: []stun.Setter{stun.BindingRequest, filler, stun.Fingerprint}, want: noUnicast},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.level.name == "" {
				tc.level = nonce
			}
			a := tc.level.answerer()
			if tc.change != nil {
				tc.change(a)
			}
			if !tc.to.IsValid() {
				tc.to = aa6
			}
			if v := a.answer(newMessage(), newMessage(), raw(t, tc.ask...), netip.AddrPortFrom(asker6, 40000), tc.to, goldenTime); v != tc.want {
				t.Errorf("verdict %d, want %d", v, tc.want)
			}
		})
	}
}

func TestMalformedDatagrams(t *testing.T) {
	good := golden(t, "v6-nonce-request")
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	for name, datagram := range map[string][]byte{
		"empty":            {},
		"short":            good[:19],
		"cut":              good[:len(good)-4],
		"trailing bytes":   append(bytes.Clone(good), 0, 0, 0, 0),
		"odd length":       change(func(b []byte) []byte { binary.BigEndian.PutUint16(b[2:], uint16(len(b)-20-1)); return b }),
		"longer than real": change(func(b []byte) []byte { binary.BigEndian.PutUint16(b[2:], 1000); return b }),
		"no cookie":        change(func(b []byte) []byte { b[4] = 0; return b }),
		"first bits":       change(func(b []byte) []byte { b[0] = 0x80; return b }),
	} {
		if v := levels[0].answerer().answer(newMessage(), newMessage(), datagram, netip.AddrPortFrom(asker6, 40000), aa6, goldenTime); v != malformed {
			t.Errorf("%s: verdict %d", name, v)
		}
	}
	if v := levels[0].answerer().answer(newMessage(), newMessage(), good, netip.AddrPortFrom(asker6, 0), aa6, goldenTime); v != malformed {
		t.Errorf("from port 0: verdict %d", v)
	}
}

// TestAnswerIsNeverLarger holds the promise that nobody is flooded by us: the
// largest answer has the size of our requests, and to a request of one word
// less than its answer there is none.
func TestAnswerIsNeverLarger(t *testing.T) {
	longest := 0
	for _, l := range levels {
		for _, q := range []question{l.question(stun.BindingError, aa6, aa6), l.question(stun.BindingSuccess, aa6, ua6)} {
			ask := func(size int) (verdict, int, int) {
				setters, behind := []stun.Setter{stun.BindingRequest}, attrHeaderSize+fingerprintSize
				if q.kind == stun.BindingSuccess {
					setters = append(setters, names(aa6))
				}
				if l.psk {
					setters = append(setters, stun.NewUsername("k1"))
					behind += attrHeaderSize + macSize
				}
				setters = append(setters, padding{size, behind})
				if l.psk {
					setters = append(setters, integrity(goldenPSK.Secret))
				}
				request, out := raw(t, append(setters, stun.Fingerprint)...), newMessage()
				v := l.answerer().answer(newMessage(), out, request, netip.AddrPortFrom(asker6, 40000), q.to.Addr(), goldenTime)
				return v, len(request), len(out.Raw)
			}
			v, _, size := ask(requestSize)
			if v != answered && v != confirmed {
				t.Fatalf("%s: verdict %d", l.name, v)
			}
			longest = max(longest, size)
			if v, asked, _ := ask(size); asked == size && v != answered && v != confirmed {
				t.Errorf("%s: as many bytes asked as answered: verdict %d", l.name, v)
			}
			if v, asked, _ := ask(size - 4); asked < size && v != larger {
				t.Errorf("%s: %d bytes asked, %d to answer: verdict %d", l.name, asked, size, v)
			}
		}
	}
	if longest != requestSize {
		t.Errorf("the largest answer has %d bytes, our requests %d", longest, requestSize)
	}
}

// TestRotation: while a key is exchanged, askers with either are answered, each
// with its own.
func TestRotation(t *testing.T) {
	old, next := PSK{"2026", "the-secret-of-last-year-xx"}, PSK{"2027", "the-secret-of-this-year-xx"}
	a := levels[0].answerer()
	a.psks[old.ID], a.psks[next.ID] = integrity(old.Secret), integrity(next.Secret)
	for _, k := range []PSK{old, next} {
		q := question{id: goldenID, kind: stun.BindingError, to: netip.AddrPortFrom(aa6, DefaultPort), aa: aa6, ring: &Keyring{PSKs: []PSK{k}}}
		request, out := newMessage(), newMessage()
		if err := q.build(request); err != nil {
			t.Fatal(err)
		}
		if v := a.answer(newMessage(), out, request.Raw, netip.AddrPortFrom(asker6, 40000), aa6, goldenTime); v != answered {
			t.Fatalf("%s: verdict %d", k.ID, v)
		}
		if found, refusal := q.check(newMessage(), out.Raw, q.to, goldenTime); refusal != "" || found.Proof != ProofPSK {
			t.Errorf("%s: %q, %+v", k.ID, refusal, found)
		}
	}
}

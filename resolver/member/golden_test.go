package member

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v3"
)

// The parts of the golden messages in testdata/golden. These were not made by
// this package but from the RFCs' text, with Python's hmac and zlib for the
// checksums and OpenSSL for the signatures.
var (
	goldenID   = transactionID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	goldenTime = time.Unix(1800000000, 0)
	goldenPSK  = PSK{ID: "k1", Secret: "correct-horse-battery-staple"}
	goldenKey  = ed25519.NewKeyFromSeed([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31})

	aa6, ua6, asker6 = addr("2001:db8:aa::1"), addr("2001:db8:12::2"), addr("2001:db8:1::2")
	aa4, ua4, asker4 = addr("198.51.100.1"), addr("192.0.2.130"), addr("192.0.2.2")
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// level is a choice of keys.
type level struct {
	name        string
	psk, signed bool
	proof       Proof
}

var levels = []level{
	{"nonce", false, false, ProofNonce},
	{"psk", true, false, ProofPSK},
	{"ed25519", false, true, ProofEd25519},
	{"both", true, true, ProofEd25519},
}

func (l level) ring() *Keyring {
	ring := &Keyring{Prefix: netip.PrefixFrom(aa6, 64)}
	if l.psk {
		ring.PSKs = []PSK{goldenPSK}
	}
	if l.signed {
		ring.Public = []ed25519.PublicKey{goldenKey.Public().(ed25519.PublicKey)}
	}
	return ring
}

// question is what is asked at that level, about AA of UA or of AA itself.
func (l level) question(kind stun.MessageType, aa, to netip.Addr) question {
	return question{id: goldenID, kind: kind, to: netip.AddrPortFrom(to, DefaultPort), aa: aa, ring: l.ring()}
}

// answerer answers at that level, for the addresses of the golden messages.
func (l level) answerer() *answerer {
	a := &answerer{
		anycast: []netip.Addr{aa6, aa4}, port: DefaultPort, psks: map[string]integrity{}, lifetime: 30,
		drains: func() bool { return false }, limit: func(netip.Addr, time.Time) bool { return true },
		unicast: func(from netip.Addr, _ time.Time) netip.Addr {
			if from.Is4() {
				return ua4
			}
			return ua6
		},
	}
	if l.psk {
		a.psks[goldenPSK.ID] = integrity(goldenPSK.Secret)
	}
	if l.signed {
		a.signer = goldenKey
	}
	return a
}

func golden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "golden", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	message, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return message
}

func TestGolden(t *testing.T) {
	for _, l := range levels {
		for family, of := range map[string][3]netip.Addr{"v6": {aa6, ua6, asker6}, "v4": {aa4, ua4, asker4}} {
			t.Run(family+"-"+l.name, func(t *testing.T) {
				aa, ua, asker := of[0], of[1], netip.AddrPortFrom(of[2], 40000)
				requestName := family + "-nonce-request"
				if l.psk {
					requestName = family + "-psk-request"
				}
				for _, tc := range []struct {
					kind stun.MessageType
					to   netip.Addr
					file string
					want verdict
				}{
					{stun.BindingError, aa, "alternate", answered},
					{stun.BindingSuccess, ua, "confirm", confirmed},
					{stun.BindingError, aa, "draining", declined},
					{stun.BindingSuccess, ua, "draining", declined}, // UA asked says the same
				} {
					q := l.question(tc.kind, aa, tc.to)
					request := newMessage()
					if err := q.build(request); err != nil {
						t.Fatal(err)
					}
					if want := golden(t, requestName); !bytes.Equal(request.Raw, want) {
						t.Errorf("request\n%x, want\n%x", request.Raw, want)
					}
					out, a, lifetime := newMessage(), l.answerer(), 30*time.Second
					if tc.want == declined {
						a.drains, lifetime = func() bool { return true }, 0
					}
					if v := a.answer(newMessage(), out, request.Raw, asker, tc.to, goldenTime); v != tc.want {
						t.Fatalf("verdict %d", v)
					}
					if want := golden(t, family+"-"+l.name+"-"+tc.file); !bytes.Equal(out.Raw, want) {
						t.Errorf("%s\n%x, want\n%x", tc.file, out.Raw, want)
					}
					found, refusal := q.check(newMessage(), out.Raw, q.to, goldenTime)
					if refusal != "" || found.UA != ua || found.Lifetime != lifetime || found.Proof != l.proof || found.Draining != (tc.want == declined) {
						t.Errorf("%s: refused %q, found %+v", tc.file, refusal, found)
					}
				}
			})
		}
	}
}

// TestIntegrityVector checks with the vector of RFC 8489 appendix B.1 as its
// erratum corrects it: the one printed has a length that counts the header, and
// lacks PASSWORD-ALGORITHM. Its key is that of a long-term credential.
func TestIntegrityVector(t *testing.T) {
	const head = "000100902112a44278ad3433c6ad72c029da412e" +
		"001e00204a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704" +
		"001500296f624d61744a6f7332414141" + "43662f2f3439396b39353464364f4c33346f4c394653547679363473" + "41000000" +
		"0014000b6578616d706c652e6f726700" + "001d000400020000"
	const tail = "001c0020b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65"
	vector, err := hex.DecodeString(head + tail)
	if err != nil {
		t.Fatal(err)
	}
	key := sha256.Sum256([]byte("マトリックス:example.org:TheMatrIX"))
	m := newMessage()
	if _, err := m.Write(vector); err != nil {
		t.Fatal(err)
	}
	if !integrity(key[:]).check(m) {
		t.Errorf("the RFC's MAC is refused; ours is %x", integrity(key[:]).sum(vector[:len(vector)-36]))
	}
	m.Raw[len(m.Raw)-1] ^= 1
	if integrity(key[:]).check(m) {
		t.Error("a wrong MAC is accepted")
	}
}

func TestTruncatedIntegrityIsRefused(t *testing.T) {
	m := newMessage()
	if err := m.Build(stun.BindingRequest, stun.NewTransactionIDSetter(goldenID)); err != nil {
		t.Fatal(err)
	}
	head := bytes.Clone(m.Raw)
	head[3] = 4 + 16
	mac := hmac.New(sha256.New, []byte(goldenPSK.Secret))
	mac.Write(head)
	m.Add(stun.AttrMessageIntegritySHA256, mac.Sum(nil)[:16]) // as RFC 8489 14.6 would let a usage
	if integrity(goldenPSK.Secret).check(m) {
		t.Error("16 bytes of MAC are accepted")
	}
	if integrity(goldenPSK.Secret).check(newMessage()) {
		t.Error("no MAC is accepted")
	}
}

func TestStatementsDiffer(t *testing.T) {
	base := statement{
		kind: stun.BindingError, id: goldenID, aa: aa6, ua: netip.AddrPortFrom(ua6, 3478), lifetime: 30,
		notBefore: goldenTime, notAfter: goldenTime.Add(30 * time.Second),
	}
	seen := map[string]int{string(base.text()): -1}
	for i, change := range []func(*statement){
		func(s *statement) { s.kind = stun.BindingSuccess },
		func(s *statement) { s.id[11]++ },
		func(s *statement) { s.aa = ua6 },
		func(s *statement) { s.aa = aa4 },
		func(s *statement) { s.ua = netip.AddrPortFrom(aa6, 3478) },
		func(s *statement) { s.ua = netip.AddrPortFrom(ua6, 3479) },
		func(s *statement) { s.lifetime++ },
		func(s *statement) { s.notBefore = s.notBefore.Add(time.Second) },
		func(s *statement) { s.notAfter = s.notAfter.Add(time.Second) },
	} {
		s := base
		change(&s)
		if other, same := seen[string(s.text())]; same {
			t.Errorf("changes %d and %d are signed alike", i, other)
		}
		if len(s.text()) != len(base.text()) {
			t.Errorf("change %d: a text of %d bytes, not %d", i, len(s.text()), len(base.text()))
		}
		seen[string(s.text())] = i
	}
}

func addrs(list ...string) (all []netip.Addr) {
	for _, s := range list {
		all = append(all, addr(s))
	}
	return all
}

// TestProtocolIsDocumented: the bytes in docs/protocol.md are those of the golden
// messages.
func TestProtocolIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	var dump strings.Builder
	_, bytesOf, found := strings.Cut(string(text), "## The bytes\n")
	if !found {
		t.Fatal("there is no chapter of the bytes")
	}
	for line := range strings.Lines(bytesOf) {
		if hexes, indented := strings.CutPrefix(line, "    "); indented {
			// Four words of hexadecimal at most, then words.
			dump.WriteString(strings.ReplaceAll(strings.TrimSpace(hexes[:min(36, len(hexes))]), " ", ""))
		}
	}
	want := ""
	for _, name := range []string{"v6-psk-request", "v6-both-alternate", "v6-ed25519-confirm", "v6-ed25519-draining"} {
		want += hex.EncodeToString(golden(t, name))
	}
	if dump.String() != want {
		t.Errorf("docs/protocol.md has\n%s, want\n%s", dump.String(), want)
	}
	for _, value := range []string{fmt.Sprintf("%04x", uint16(attrAnycast)), fmt.Sprintf("%04x", uint16(attrProof)), fmt.Sprintf("has %d bytes", requestSize), fmt.Sprintf("has %d bytes", proofSize), fmt.Sprintf("%d bytes:", len(statement{aa: aa6, ua: netip.AddrPortFrom(ua6, 1)}.text()))} {
		if !strings.Contains(string(text), value) {
			t.Errorf("docs/protocol.md does not say %q", value)
		}
	}
}

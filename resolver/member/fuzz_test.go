package member

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pion/stun/v3"
)

// seed gives a fuzz target every golden message.
func seed(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "golden", "*.hex"))
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, file := range files {
		f.Add(golden(f, strings.TrimSuffix(filepath.Base(file), ".hex")))
	}
	f.Add([]byte{})
}

// FuzzRequest: whatever is asked, nothing panics, no answer is larger than its
// question, none is for anybody without the key, and each is what a prober
// would take.
func FuzzRequest(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, datagram []byte) {
		for _, l := range levels {
			for _, drains := range []bool{false, true} {
				a, in, out := l.answerer(), newMessage(), newMessage()
				a.drains = func() bool { return drains }
				v := a.answer(in, out, datagram, netip.AddrPortFrom(asker6, 40000), aa6, goldenTime)
				if v != answered && v != declined {
					continue
				}
				if len(out.Raw) > len(datagram) {
					t.Errorf("%d bytes answered to %d", len(out.Raw), len(datagram))
				}
				if l.psk && !integrity(goldenPSK.Secret).check(in) {
					t.Error("answered without the key")
				}
				q := l.question(stun.BindingError, aa6, aa6)
				q.id = in.TransactionID
				if found, refusal := q.check(newMessage(), out.Raw, q.to, goldenTime); refusal != "" || found.UA != ua6 || found.Draining != drains {
					t.Errorf("our own answer is refused: %s, %+v", refusal, found)
				}
			}
		}
	})
}

// FuzzResponse: whatever is answered, nothing panics, and where there are keys
// nothing is believed but what the member has said.
func FuzzResponse(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, datagram []byte) {
		for _, l := range levels {
			for to, kind := range map[netip.Addr]stun.MessageType{aa6: stun.BindingError, ua6: stun.BindingSuccess} {
				q := l.question(kind, aa6, to)
				found, refusal := q.check(newMessage(), datagram, q.to, goldenTime)
				if refusal != "" {
					continue
				}
				if !found.UA.IsGlobalUnicast() || !found.UA.Is6() {
					t.Errorf("believed %+v", found)
				}
				if l.proof > ProofNonce && (found.UA != ua6 || found.Proof != l.proof) {
					t.Errorf("%s: believed %+v", l.name, found)
				}
			}
		}
	})
}

// FuzzKeys: no key file panics, and what is read can be used.
func FuzzKeys(f *testing.F) {
	f.Add("psk one the-secret-of-last-year-xx\n# comment\n")
	f.Add("ed25519-private AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n")
	path := filepath.Join(f.TempDir(), "keys")
	f.Fuzz(func(t *testing.T, content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if keys, err := ReadPSKs(path); err == nil {
			for _, k := range keys {
				if k.check() != nil {
					t.Errorf("read %v", k)
				}
			}
		}
		if keys, err := ReadPrivateKeys(path); err == nil && len(keys) == 0 {
			t.Error("read nothing")
		}
	})
}

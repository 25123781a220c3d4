package member

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func keyFile(t *testing.T, mode fs.FileMode, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

func TestKeysMadeAreRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "psk")
	for i, id := range []string{"2026", "2027"} {
		if err := NewPSK(path, id, i > 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := NewPSK(path, "2026", true); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "already") {
		t.Errorf("the same id twice: %v", err)
	}
	keys, err := ReadPSKs(path)
	if err != nil || len(keys) != 2 || keys[0].ID != "2026" || keys[1].ID != "2027" || keys[0].Secret == keys[1].Secret || len(keys[0].Secret) != 43 {
		t.Errorf("%v, %v", keys, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := NewPSK(path, "2028", false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a key was replaced: %v", err)
	}

	path = filepath.Join(t.TempDir(), "private")
	key, err := NewPrivateKey(path, false)
	if err != nil {
		t.Fatal(err)
	}
	private, err := ReadPrivateKeys(path)
	if err != nil || len(private) != 1 || !private[0].Equal(key) {
		t.Errorf("%v", err)
	}
	public, err := ParsePublicKey(FormatPublicKey(key.Public().(ed25519.PublicKey)))
	if err != nil || !public.Equal(key.Public()) {
		t.Errorf("%v, %v", public, err)
	}
}

func TestAddKeyToALineWithoutEnd(t *testing.T) {
	path := keyFile(t, 0o600, "# ours\n\n  psk one the-secret-of-last-year-xx")
	if err := NewPSK(path, "two", true); err != nil {
		t.Fatal(err)
	}
	if keys, err := ReadPSKs(path); err != nil || len(keys) != 2 || keys[1].ID != "two" {
		t.Errorf("%v, %v", keys, err)
	}
}

func TestKeyFilesThatOthersCanReadAreRefused(t *testing.T) {
	for mode, refused := range map[fs.FileMode]bool{0o400: false, 0o600: false, 0o640: true, 0o604: true, 0o620: true, 0o666: true, 0o601: true} {
		path := keyFile(t, mode, "psk one the-secret-of-last-year-xx\n")
		_, err := ReadPSKs(path)
		if refused != errors.Is(err, ErrKey) || refused && !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("%o: %v", mode, err)
		}
		if err := NewPSK(path, "two", true); refused && !errors.Is(err, ErrKey) {
			t.Errorf("%o: a key was added: %v", mode, err)
		}
	}
	if _, err := ReadPSKs(t.TempDir()); !errors.Is(err, ErrKey) {
		t.Errorf("a directory: %v", err)
	}
	if _, err := ReadPSKs(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestBadKeyFiles(t *testing.T) {
	const secret = "the-secret-of-last-year-xx"
	for content, want := range map[string]string{
		"":                                     "no key in it",
		"# nothing\n":                          "no key in it",
		"psk one\n":                            "line 1: there must be 2 words",
		"psk one " + secret + " more\n":        "line 1: there must be 2 words",
		"\n\nsecret " + secret + "\n":          `line 3: it must begin with "psk", not with "..."`,
		"ed25519-private " + secret + "\n":     `not with "ed25519-private"`,
		"psk one short\n":                      "must have 22 to 256 printable",
		"psk one the-secret-of-läst-year-xx\n": "must have 22 to 256 printable",
		"psk " + strings.Repeat("x", 65) + " " + secret + "\n": "1 to 64 printable",
		"psk one " + secret + "\npsk one " + secret + "\n":     `line 2: the id "one" is there twice`,
		strings.Repeat("# filler\n", 10000):                    "larger than 65536 bytes",
	} {
		_, err := ReadPSKs(keyFile(t, 0o600, content))
		if !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%.40q: %v, want %q", content, err, want)
		}
	}
	many := ""
	for range maxKeys + 1 {
		many += "ed25519-private AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
	}
	for content, want := range map[string]string{
		many:                            "more than 16 keys",
		"ed25519-private AAAA\n":        "32 bytes in base64",
		"ed25519-private not/base64!\n": "32 bytes in base64",
		"ed25519-public AAAA\n":         `not with "ed25519-public"`,
	} {
		if _, err := ReadPrivateKeys(keyFile(t, 0o600, content)); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", content, err, want)
		}
	}
	for _, s := range []string{"", "AAAA", "*"} {
		if _, err := ParsePublicKey(s); !errors.Is(err, ErrKey) {
			t.Errorf("public %q: %v", s, err)
		}
	}
	if err := NewPSK(filepath.Join(t.TempDir(), "psk"), "two words", false); !errors.Is(err, ErrKey) {
		t.Errorf("%v", err)
	}
}

func TestListenNamesWhatIsWrong(t *testing.T) {
	aa := ResponderConfig{Anycast: addrs("2001:db8:aa::1")}.Anycast
	for want, c := range map[string]ResponderConfig{
		"no anycast address":     {},
		"can be no anycast":      {Anycast: addrs("::1")},
		"given twice":            {Anycast: addrs("2001:db8:aa::1", "2001:db8:aa::1")},
		"can be no unicast":      {Anycast: aa, Unicast: aa},
		"second one of its":      {Anycast: aa, Unicast: addrs("192.0.2.1", "192.0.2.2")},
		"bad key":                {Anycast: aa, PSKs: []PSK{{"k", "short"}}},
		"a private key has":      {Anycast: aa, Signer: make([]byte, 3)},
		"lifetime 1ms":           {Anycast: aa, Lifetime: 1e6},
		"must not be negative":   {Anycast: aa, Rate: -1},
		"fe80::1%eth0 can be no": {Anycast: addrs("fe80::1%eth0")},
	} {
		if r, err := Listen(c); !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v", want, r, err)
		}
	}
}

// Keys that are replaced count for the next question, and wrong ones replace none.
func TestRingsAreReplaced(t *testing.T) {
	client, server := newPair(t)
	server.serve(levels[1].setup())
	p := client.prober(ProberConfig{Rings: levels[1].rings()})
	asks := func(what string, want error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if want != nil {
			ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
		}
		defer cancel()
		if found, err := p.Probe(ctx, aa6); !errors.Is(err, want) || want == nil && found.Proof != ProofPSK {
			t.Errorf("%s: %+v, %v, want %v", what, found, err, want)
		}
	}
	asks("the members' key", nil)
	other := levels[1].rings()
	for i := range other {
		other[i].PSKs = []PSK{{ID: "other", Secret: strings.Repeat("x", minSecret)}}
	}
	if err := p.SetRings(other); err != nil {
		t.Fatal(err)
	}
	asks("another key", ErrNoAnswer)
	short := levels[1].rings()
	short[0].PSKs = []PSK{{ID: "short", Secret: "x"}}
	if err := p.SetRings(short); !errors.Is(err, ErrKey) {
		t.Errorf("a short key: %v", err)
	}
	asks("another key still", ErrNoAnswer)
	if err := p.SetRings(levels[1].rings()); err != nil {
		t.Fatal(err)
	}
	asks("the members' key again", nil)
}

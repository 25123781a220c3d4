package member

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// PSK is a key that clients and members share. Its ID goes over the network,
// its Secret never.
type PSK struct {
	ID     string // 1 to 64 printable ASCII characters without space
	Secret string // at least 22 such, which base64 makes of 128 bits
}

// String hides the secret, so that no message can show it.
func (k PSK) String() string { return "psk " + k.ID }

const (
	maxKeyID  = 64
	minSecret = 22  // RFC 8489 section 9.2 asks for 128 bits of randomness
	maxSecret = 256 // more than any generator makes
	newSecret = 32  // bytes of a generated secret
	maxKeys   = 16  // in one file: more than any rotation needs
	maxFile   = 64 << 10
)

// Keyring says how the answers about the anycast addresses of a prefix must be
// proved. What it holds is required: with PSKs an answer must carry the MAC of
// the first one, with Public keys a signature of any of them; with neither, UA
// is asked to confirm.
type Keyring struct {
	Prefix netip.Prefix
	PSKs   []PSK // the first asks
	Public []ed25519.PublicKey
}

// The words that begin the lines of a key file.
const (
	wordPSK     = "psk"
	wordPrivate = "ed25519-private"
	wordPublic  = "ed25519-public"
)

// ErrKey is what every error about a key or a key file is, by [errors.Is].
var ErrKey = errors.New("member: bad key")

func keyError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrKey}, args...)...)
}

// ReadPSKs reads a file of shared keys, one "psk ID SECRET" a line. It refuses
// a file that others than its owner may read.
func ReadPSKs(path string) ([]PSK, error) {
	var keys []PSK
	err := readKeys(path, wordPSK, 2, func(fields []string) error {
		k := PSK{ID: fields[0], Secret: fields[1]}
		for _, other := range keys {
			if other.ID == k.ID {
				return fmt.Errorf("the id %q is there twice", k.ID)
			}
		}
		keys = append(keys, k)
		return k.check()
	})
	return keys, err
}

func (k PSK) check() error {
	switch {
	case k.ID == "" || len(k.ID) > maxKeyID || !printable(k.ID):
		return fmt.Errorf("the id %q must have 1 to %d printable ASCII characters without space", k.ID, maxKeyID)
	case len(k.Secret) < minSecret || len(k.Secret) > maxSecret || !printable(k.Secret):
		return fmt.Errorf("the secret of %q must have %d to %d printable ASCII characters without space", k.ID, minSecret, maxSecret)
	}
	return nil
}

func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

// ReadPrivateKeys reads a file of private keys, one "ed25519-private BASE64" a
// line. It refuses a file that others than its owner may read.
func ReadPrivateKeys(path string) ([]ed25519.PrivateKey, error) {
	var keys []ed25519.PrivateKey
	err := readKeys(path, wordPrivate, 1, func(fields []string) error {
		seed, err := base64.StdEncoding.DecodeString(fields[0])
		if err != nil || len(seed) != ed25519.SeedSize {
			return errors.New("the key must be 32 bytes in base64, 44 characters")
		}
		keys = append(keys, ed25519.NewKeyFromSeed(seed))
		return nil
	})
	return keys, err
}

// ParsePublicKey reads a public key as it is pinned and printed: 32 bytes in
// base64.
func ParsePublicKey(s string) (ed25519.PublicKey, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s, wordPublic+" "))
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, keyError("public key %q: it must be 32 bytes in base64, 44 characters", s)
	}
	return key, nil
}

// FormatPublicKey is the inverse of [ParsePublicKey].
func FormatPublicKey(key ed25519.PublicKey) string { return base64.StdEncoding.EncodeToString(key) }

// NewPSK makes a shared key in a new file, which only its owner may read, or
// with add as the last key of a file that is there.
func NewPSK(path, id string, add bool) error {
	var secret [newSecret]byte
	_, _ = rand.Read(secret[:]) // crypto/rand never fails (Go 1.24)
	k := PSK{ID: id, Secret: base64.RawURLEncoding.EncodeToString(secret[:])}
	if err := k.check(); err != nil {
		return keyError("%w", err)
	}
	if add {
		keys, err := ReadPSKs(path)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(keys, func(other PSK) bool { return other.ID == id }) {
			return keyError("%s has a key of the id %q already: give the new one another with --id", path, id)
		}
	}
	return writeKey(path, wordPSK+" "+k.ID+" "+k.Secret+"\n", add)
}

// NewPrivateKey is NewPSK for a private key, which it returns.
func NewPrivateKey(path string, add bool) (ed25519.PrivateKey, error) {
	var seed [ed25519.SeedSize]byte
	_, _ = rand.Read(seed[:]) // crypto/rand never fails (Go 1.24)
	if add {
		if _, err := ReadPrivateKeys(path); err != nil {
			return nil, err
		}
	}
	line := wordPrivate + " " + base64.StdEncoding.EncodeToString(seed[:]) + "\n"
	return ed25519.NewKeyFromSeed(seed[:]), writeKey(path, line, add)
}

// writeKey never replaces a key.
func writeKey(path, line string, add bool) (err error) {
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if add {
		flags = os.O_RDWR | os.O_APPEND
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("member: key file: %w: choose another name, or add the key to it with --add", err)
	}
	if err != nil {
		return keyError("%w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if add {
		content, err := secretsOf(f)
		if err != nil {
			return err
		}
		if len(content) > 0 && !bytes.HasSuffix(content, []byte("\n")) {
			line = "\n" + line
		}
	}
	if _, err := f.WriteString(line); err != nil {
		return fmt.Errorf("member: key file: %w", err)
	}
	return nil
}

// readKeys calls take with what follows the word on each line.
func readKeys(path, word string, fields int, take func([]string) error) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return keyError("%w: 'aarptun keygen' makes such files", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	content, err := secretsOf(f)
	if err != nil {
		return err
	}
	n, keys := 0, 0
	for line := range strings.Lines(string(content)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		words := strings.Fields(line)
		// The line itself stays out of the messages, for it may hold a secret.
		if words[0] != word {
			return keyError("%s line %d: it must begin with %q, not with %q", path, n, word, firstWord(words[0]))
		}
		if len(words) != fields+1 {
			return keyError("%s line %d: there must be %d words after %q", path, n, fields, word)
		}
		if keys++; keys > maxKeys {
			return keyError("%s line %d: more than %d keys", path, n, maxKeys)
		}
		if err := take(words[1:]); err != nil {
			return keyError("%s line %d: %w", path, n, err)
		}
	}
	if keys == 0 {
		return keyError("%s: there is no key in it: make one with 'aarptun keygen'", path)
	}
	return nil
}

// firstWord returns a word that is one of ours, or what hides it.
func firstWord(s string) string {
	switch s {
	case wordPSK, wordPrivate, wordPublic:
		return s
	}
	return "..."
}

// secretsOf reads a file of secrets whole, unless others could read it too.
func secretsOf(f *os.File) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("member: key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, keyError("%s: it is no regular file", f.Name())
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, keyError("%s: its mode is %#o, so others than its owner can use it: chmod 600 %s", f.Name(), info.Mode().Perm(), f.Name())
	}
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("member: key file: %w", err)
	}
	if len(content) > maxFile {
		return nil, keyError("%s: it is larger than %d bytes", f.Name(), maxFile)
	}
	return content, nil
}

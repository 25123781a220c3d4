package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"sort"
	"strings"
	"syscall"
)

// liar is on the path: it sees the probes for aa, and the client hears its lie
// before the member's answer, which comes as well.
type liar struct {
	bump
	lies    []string
	aa      netip.Addr // whose probes are lied about
	other   netip.Addr // another anycast address, with other members
	name    netip.Addr // who is named: a victim, or the liar itself
	confirm bool       // in the name of whoever is named
	keys    stolen

	answer []byte            // the last true one, to be replayed
	reply  packet            // likewise
	turned map[[12]byte]bool // transactions that were carried to another AA
	told   map[string]int    // lies that were sent to the client
}

// stolen are keys in the liar's hands.
type stolen struct {
	number  ed25519.PublicKey  // what is pinned, and public
	private ed25519.PrivateKey // of the liar's own, or the member's at an earlier time
}

// lies are told about STUN requests, or, those with "echo", echo requests.
// The member's answer is let through after each.
var lies = []string{
	"name",        // an answer of its own making that names somebody, with no proof
	"bad-mac",     // the same, with a MAC by another secret
	"bad-key",     // the same, signed with the liar's own key
	"bad-sign",    // the same, and claims that the key is the pinned one
	"flip",        // the member's answer, one bit of its proof changed, then the answer itself
	"rename",      // the member's answer, its UA changed, all else kept
	"recode",      // the member's answer, its error changed to that of one that drains
	"draining",    // an answer of its own making that says that the named one drains, with no proof
	"strip",       // the member's answer, its proof taken away
	"expired",     // an answer that the member's own key has signed, for a time that is over
	"replay",      // an earlier answer
	"replay-id",   // an earlier answer, the transaction id changed to this one
	"other",       // what the members of another AA answer to this question
	"turn",        // the question itself, carried to another AA
	"unreachable", // port unreachable, from AA
	"unasked",     // an echo reply, while only STUN is asked
	"echo-name", "echo-self", "echo-replay", "echo-other",
}

// intercept runs until SIGTERM and then prints what it has told.
func intercept(args []string) error {
	f := flag.NewFlagSet("intercept", flag.ExitOnError)
	inner := f.String("inner", "", "interface towards the client")
	outer := f.String("outer", "", "interface towards the network")
	lie := f.String("lie", "", "which, with commas: "+strings.Join(lies, " "))
	aa := f.String("aa", "", "anycast address whose probes are lied about")
	other := f.String("other", "", "another anycast address")
	name := f.String("name", "", "whom to name")
	confirm := f.Bool("confirm", false, "confirm in the name of whoever is named")
	pinned := f.String("pinned", "", "public key that the client has pinned, base64")
	private := f.String("private", "", "stolen key file, for expired")
	_ = f.Parse(args) // exits on error
	l := &liar{lies: strings.Split(*lie, ","), confirm: *confirm, turned: map[[12]byte]bool{}, told: map[string]int{}}
	for _, lie := range l.lies {
		if !slices.Contains(lies, lie) {
			return fmt.Errorf("no lie is called %q", lie)
		}
	}
	var err error
	for _, a := range []struct {
		text string
		to   *netip.Addr
	}{{*aa, &l.aa}, {*other, &l.other}, {*name, &l.name}} {
		if *a.to, err = netip.ParseAddr(a.text); err != nil {
			return err
		}
	}
	if l.keys, err = readStolen(*pinned, *private); err != nil {
		return err
	}
	if l.inner, err = openPort(*inner); err != nil {
		return err
	}
	if l.outer, err = openPort(*outer); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	fmt.Println("listening")
	if err := l.run(stop, l.see); err != nil {
		return err
	}
	var lines []string
	for what, n := range l.told {
		lines = append(lines, fmt.Sprintf("told %s=%d", what, n))
	}
	sort.Strings(lines)
	fmt.Println(strings.Join(lines, "\n"))
	return nil
}

func readStolen(pinned, path string) (k stolen, err error) {
	if k.number, err = base64.StdEncoding.DecodeString(pinned); err != nil {
		return k, err
	}
	if path == "" {
		_, k.private, err = ed25519.GenerateKey(nil)
		return k, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return k, err
	}
	for line := range strings.Lines(string(text)) {
		if seed, ok := strings.CutPrefix(strings.TrimSpace(line), "ed25519-private "); ok {
			b, err := base64.StdEncoding.DecodeString(seed)
			if err != nil || len(b) != ed25519.SeedSize {
				return k, fmt.Errorf("%s: no key of %d bytes: %w", path, ed25519.SeedSize, err)
			}
			k.private = ed25519.NewKeyFromSeed(b)
			return k, nil
		}
	}
	return k, fmt.Errorf("%s: no key", path)
}

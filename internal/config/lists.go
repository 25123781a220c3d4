package config

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// setEach calls set with each text of several that have commas between them.
func setEach(texts string, set func(string) error) error {
	for part := range strings.SplitSeq(texts, ",") {
		if err := set(strings.TrimSpace(part)); err != nil {
			return err
		}
	}
	return nil
}

// Prefixes is a list of address prefixes, which may be given with commas too.
func Prefixes(to *[]netip.Prefix) Value { return prefixes{to} }

type prefixes struct{ to *[]netip.Prefix }

func (prefixes) Type() string     { return "PREFIX" }
func (prefixes) kind() kind       { return list }
func (p prefixes) String() string { return joined(p) }

func (p prefixes) texts() (texts []string) {
	if p.to == nil {
		return nil
	}
	for _, prefix := range *p.to {
		texts = append(texts, prefix.String())
	}
	return texts
}

func (p prefixes) Set(s string) error {
	return setEach(s, func(one string) error {
		prefix, err := ParsePrefix(one)
		if err == nil && !slices.Contains(*p.to, prefix) {
			*p.to = append(*p.to, prefix)
		}
		return err
	})
}

// joined is the one text that stands for those of a list.
func joined(v interface{ texts() []string }) string { return strings.Join(v.texts(), ",") }

// Static is a list of members AA=UA.
func Static(to *map[netip.Addr][]netip.Addr) Value { return static{to} }

type static struct{ to *map[netip.Addr][]netip.Addr }

func (static) Type() string     { return "AA=UA" }
func (static) kind() kind       { return list }
func (s static) String() string { return joined(s) }

func (s static) texts() (texts []string) {
	if s.to == nil {
		return nil
	}
	for _, aa := range slices.SortedFunc(maps.Keys(*s.to), netip.Addr.Compare) {
		for _, ua := range (*s.to)[aa] {
			texts = append(texts, fmt.Sprintf("%v=%v", aa, ua))
		}
	}
	return texts
}

func (s static) Set(text string) error {
	aa, ua, err := ParseStatic(text)
	if err != nil {
		return err
	}
	if *s.to == nil {
		*s.to = map[netip.Addr][]netip.Addr{}
	}
	if !slices.Contains((*s.to)[aa], ua) {
		(*s.to)[aa] = append((*s.to)[aa], ua)
	}
	return nil
}

// forPrefixes is what is given for single prefixes, or for all.
type forPrefixes[T any] struct {
	to    *PerPrefix[T]
	what  string
	add   func(before T, text string) (T, error)
	print func(T) []string
}

func (f forPrefixes[T]) Type() string { return "[PREFIX=]" + f.what }
func (forPrefixes[T]) kind() kind     { return list }

func (f forPrefixes[T]) String() string {
	if f.to == nil {
		return ""
	}
	return joined(f)
}

func (f forPrefixes[T]) texts() (texts []string) {
	for _, p := range sortedKeys(*f.to) {
		for _, one := range f.print((*f.to)[p]) {
			if p != AllPrefixes {
				one = p.String() + "=" + one
			}
			texts = append(texts, one)
		}
	}
	return texts
}

func (f forPrefixes[T]) Set(text string) error {
	prefix, value, err := ParseKeyed(text)
	if err != nil {
		return err
	}
	return f.setFor(prefix, value)
}

// setFor is Set for one prefix.
func (f forPrefixes[T]) setFor(prefix netip.Prefix, value string) error {
	read, err := f.add((*f.to)[prefix], value)
	if err != nil {
		return err
	}
	if *f.to == nil {
		*f.to = PerPrefix[T]{}
	}
	(*f.to)[prefix] = read
	return nil
}

// MemberPrefixes is a list [PREFIX=]MEMBER-PREFIX.
func MemberPrefixes(to *PerPrefix[[]netip.Prefix]) Value {
	return forPrefixes[[]netip.Prefix]{
		to: to, what: "PREFIX",
		add: func(before []netip.Prefix, s string) ([]netip.Prefix, error) {
			err := prefixes{&before}.Set(s)
			return before, err
		},
		print: func(list []netip.Prefix) []string { return prefixes{&list}.texts() },
	}
}

// PSKFiles is a list [PREFIX=]FILE, with one file for each prefix.
func PSKFiles(to *PerPrefix[string]) Value {
	return forPrefixes[string]{
		to: to, what: "FILE",
		add: func(_, s string) (string, error) {
			if s == "" {
				return "", invalid("the name of the file of shared keys is empty: take it away, or name a file")
			}
			return s, nil
		},
		print: func(path string) []string { return []string{path} },
	}
}

// PublicKeys is a list [PREFIX=]KEY.
func PublicKeys(to *PerPrefix[[]ed25519.PublicKey]) Value {
	return forPrefixes[[]ed25519.PublicKey]{
		to: to, what: "KEY",
		add: func(before []ed25519.PublicKey, s string) ([]ed25519.PublicKey, error) {
			_, key, err := ParsePublicKey(s)
			if err == nil && !slices.ContainsFunc(before, func(k ed25519.PublicKey) bool { return k.Equal(key) }) {
				before = append(before, key)
			}
			return before, err
		},
		print: func(keys []ed25519.PublicKey) (texts []string) {
			for _, key := range keys {
				texts = append(texts, base64.StdEncoding.EncodeToString(key))
			}
			return texts
		},
	}
}

// unresolvedFor is a list [PREFIX=]direct|reject.
func unresolvedFor(to *PerPrefix[Unresolved]) Value {
	return forPrefixes[Unresolved]{
		to: to, what: "direct|reject",
		add: func(_ Unresolved, s string) (u Unresolved, err error) {
			err = Word(&u, Direct, Reject).Set(s)
			return u, err
		},
		print: func(u Unresolved) []string { return []string{string(u)} },
	}
}

// limit is one of the limits by its name.
type limit struct {
	name  string
	value *int
}

func (l *Limits) named() []limit {
	return []limit{
		{"flows", &l.Flows}, {"flows-per-client", &l.FlowsPerClient}, {"flows-per-network", &l.FlowsPerNetwork}, {"udp-flows", &l.UDPFlows},
		{"opening", &l.Opening}, {"opening-per-client", &l.OpeningPerClient}, {"opening-per-network", &l.OpeningPerNetwork}, {"opening-per-anycast", &l.OpeningPerAnycast},
		{"udp-flows-per-second", &l.UDPFlowsPerSecond}, {"echoes-per-second", &l.EchoesPerSecond},
	}
}

// limitsValue is a list NAME=NUMBER, which may be given with commas too.
type limitsValue struct{ to *Limits }

func (limitsValue) Type() string { return "NAME=NUMBER" }
func (limitsValue) kind() kind   { return table }

// String has what is not the default.
func (l limitsValue) String() string {
	if l.to == nil {
		return ""
	}
	defaults := Default().Limits
	var texts []string
	for i, d := range defaults.named() {
		if now := l.to.named()[i]; *now.value != *d.value {
			texts = append(texts, fmt.Sprintf("%s=%d", now.name, *now.value))
		}
	}
	return strings.Join(texts, ",")
}

func (l limitsValue) texts() (texts []string) {
	for _, now := range l.to.named() {
		texts = append(texts, fmt.Sprintf("%s=%d", now.name, *now.value))
	}
	return texts
}

func (l limitsValue) Set(texts string) error {
	return setEach(texts, func(one string) error {
		name, value, found := strings.Cut(one, "=")
		if !found {
			return invalid("limit %q: write NAME=NUMBER, such as flows=10000", one)
		}
		var names []string
		for _, now := range l.to.named() {
			if names = append(names, now.name); now.name == name {
				if err := (integer[int]{now.value}).Set(value); err != nil {
					return invalid("limit %s %q: %v", name, value, err)
				}
				return nil
			}
		}
		return invalid("unknown limit %q: %s", name, meant(name, names))
	})
}

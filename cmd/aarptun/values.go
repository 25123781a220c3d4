package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"aarptun/internal/config"
)

// The flag values below are read by package config, so that a wrong one is
// refused with the same words wherever it comes from.

// prefixes is a flag that may be given several times or with commas.
type prefixes struct{ list *[]netip.Prefix }

func (p prefixes) String() string {
	if p.list == nil {
		return ""
	}
	return strings.Trim(fmt.Sprint(*p.list), "[]")
}

func (prefixes) Type() string { return "PREFIX" }

func (p prefixes) Set(s string) error {
	for part := range strings.SplitSeq(s, ",") {
		prefix, err := config.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return err
		}
		if !slices.Contains(*p.list, prefix) {
			*p.list = append(*p.list, prefix)
		}
	}
	return nil
}

// statics is a flag AA=UA that may be given several times.
type statics struct{ members *map[netip.Addr][]netip.Addr }

func (statics) String() string { return "" }
func (statics) Type() string   { return "AA=UA" }

func (s statics) Set(text string) error {
	aa, ua, err := config.ParseStatic(text)
	if err != nil {
		return err
	}
	if *s.members == nil {
		*s.members = map[netip.Addr][]netip.Addr{}
	}
	if !slices.Contains((*s.members)[aa], ua) {
		(*s.members)[aa] = append((*s.members)[aa], ua)
	}
	return nil
}

// mark is a firewall mark.
type mark struct{ value *uint32 }

func (m mark) String() string {
	if m.value == nil {
		return ""
	}
	return fmt.Sprintf("%#x", *m.value)
}
func (mark) Type() string { return "MARK" }
func (m mark) Set(s string) (err error) {
	*m.value, err = config.ParseMark(s)
	return err
}

// logLevel is debug, info, warn or error.
type logLevel struct{ value *slog.Level }

func (l logLevel) String() string {
	if l.value == nil {
		return ""
	}
	return strings.ToLower(l.value.String())
}
func (logLevel) Type() string { return "LEVEL" }
func (logLevel) choices() []string {
	return []string{"debug", "info", "warn", "error"}
}
func (l logLevel) Set(s string) (err error) {
	*l.value, err = config.ParseLogLevel(s)
	return err
}

// choice is one of a few words.
type choice[T ~string] struct {
	value *T
	words []T
}

func (c choice[T]) String() string {
	if c.value == nil {
		return ""
	}
	return string(*c.value)
}

func (c choice[T]) Type() string { return strings.Join(c.choices(), "|") }

func (c choice[T]) choices() []string {
	words := make([]string, len(c.words))
	for i, w := range c.words {
		words[i] = string(w)
	}
	return words
}

func (c choice[T]) Set(s string) error {
	if !slices.Contains(c.words, T(s)) {
		words := c.choices()
		last := len(words) - 1
		return fmt.Errorf("it must be %s or %s", strings.Join(words[:last], ", "), words[last])
	}
	*c.value = T(s)
	return nil
}

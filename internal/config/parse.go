package config

import (
	"crypto/ed25519"
	"encoding/base64"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
)

// ParsePrefix reads an address prefix such as 2001:db8:aa::/64. A lone address
// stands for itself. Host bits are an error, for they hide a slip: the message
// offers both readings.
func ParsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return netip.Prefix{}, invalid("prefix %q: a prefix has no zone", s)
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, invalid("prefix %q: write it as address/length, such as 2001:db8:aa::/64 or 192.0.2.0/24", s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, invalid("prefix %q has host bits set: write %v for the network or %v for the one address",
			s, p.Masked(), netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
	}
	return p, nil
}

// ParseAddr reads an IPv4 or IPv6 address without a zone.
func ParseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, invalid("address %q: write an IPv4 or IPv6 address, such as 2001:db8:aa::1", s)
	}
	return a, nil
}

// ParseAnycast reads an address that can be anycast: not loopback, link-local,
// multicast, or of another class that hosts do not share.
func ParseAnycast(s string) (netip.Addr, error) {
	a, err := ParseAddr(s)
	if err != nil {
		return a, err
	}
	if a.Is4In6() {
		return netip.Addr{}, invalid("address %q: write %v, the IPv4 address that it stands for", s, a.Unmap())
	}
	if special, ok := specialIn(netip.PrefixFrom(a, a.BitLen())); ok {
		return netip.Addr{}, invalid("address %q lies in %v, which is never anycast: name the anycast address", s, special)
	}
	return a, nil
}

// ParseStatic reads AA=UA.
func ParseStatic(s string) (aa, ua netip.Addr, err error) {
	left, right, found := strings.Cut(s, "=")
	if !found {
		return aa, ua, invalid("static member %q: write AA=UA, such as 192.0.2.1=198.51.100.7", s)
	}
	if aa, err = ParseAddr(strings.TrimSpace(left)); err != nil {
		return aa, ua, err
	}
	ua, err = ParseAddr(strings.TrimSpace(right))
	return aa, ua, err
}

// ParseKeyed reads [PREFIX=]VALUE; without a prefix it is [AllPrefixes].
func ParseKeyed(s string) (netip.Prefix, string, error) {
	left, right, found := strings.Cut(s, "=")
	if !found || strings.Trim(right, "=") == "" { // base64 ends with =
		return AllPrefixes, s, nil
	}
	prefix, err := ParsePrefix(left)
	return prefix, right, err
}

// ParsePublicKey reads [PREFIX=]KEY, the key being 32 bytes in base64.
func ParsePublicKey(s string) (netip.Prefix, ed25519.PublicKey, error) {
	prefix, value, err := ParseKeyed(s)
	if err != nil {
		return prefix, nil, err
	}
	key, err := base64.StdEncoding.DecodeString(value)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return prefix, nil, invalid("public key %q: it must be 32 bytes in base64, 44 characters, as 'aarptun keygen' prints it", value)
	}
	return prefix, key, nil
}

// ParseMark reads a firewall mark, decimal or hexadecimal with 0x, from 1 to
// 0xffffffff.
func ParseMark(s string) (uint32, error) {
	digits, base := s, 10
	if hex, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		digits, base = hex, 16
	}
	mark, err := strconv.ParseUint(digits, base, 32)
	if err != nil || mark == 0 {
		return 0, invalid("mark %q: it must be a number from 1 to 0xffffffff", s)
	}
	return uint32(mark), nil
}

// ParseLogLevel reads debug, info, warn or error.
func ParseLogLevel(s string) (slog.Level, error) {
	for name, level := range map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	} {
		if strings.EqualFold(s, name) {
			return level, nil
		}
	}
	return 0, invalid("log level %q: it must be debug, info, warn or error", s)
}

package stack

import (
	"net/netip"
	"testing"
)

// A prefix that is taken away is let in no more, and again when it comes back.
func TestPrefixesAreReplaced(t *testing.T) {
	s, _ := start(t, handler{}, Config{})
	six, four := synTo(client6, any6, 1, 1), udpDatagram(client4, any4, 1, nil)
	for name, tc := range map[string]struct {
		prefixes []netip.Prefix
		six      verdict
		four     verdict
	}{
		"both":    {[]netip.Prefix{netip.PrefixFrom(any4, 32), netip.PrefixFrom(any6, 128)}, admit, admit},
		"IPv6":    {[]netip.Prefix{netip.PrefixFrom(any6, 128)}, admit, dropDestination},
		"none":    {nil, dropDestination, dropDestination},
		"clients": {[]netip.Prefix{netip.PrefixFrom(any4, 32), netip.PrefixFrom(client4, 32)}, dropDestination, dropSource},
	} {
		s.SetPrefixes(tc.prefixes)
		if _, got := s.judge(six); got != tc.six {
			t.Errorf("%s: IPv6: verdict %d, want %d", name, got, tc.six)
		}
		if _, got := s.judge(four); got != tc.four {
			t.Errorf("%s: IPv4: verdict %d, want %d", name, got, tc.four)
		}
	}
}

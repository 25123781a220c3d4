package stack

import (
	"net/netip"
	"testing"
)

// Where the device is the only way out, packets to any host come, and only such.
func TestEverything(t *testing.T) {
	s := &Stack{all: true}
	for a, want := range map[string]bool{
		"192.0.2.1": true, "10.0.0.1": true, "2001:db8::1": true, "fd00::1": true,
		"224.0.0.251": false, "255.255.255.255": false, "127.0.0.1": false, "169.254.0.1": false, "0.0.0.0": false,
		"ff02::fb": false, "fe80::1": false, "::1": false, "::": false, "::ffff:192.0.2.1": false,
	} {
		if got := s.isAnycast(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s is let in: %v, want %v", a, got, want)
		}
	}
}

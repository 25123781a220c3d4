package ping

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Marked packets take another table than the rest, as they do on a host with a
// TUN.
func TestMarkedSocketsBypassTheTUN(t *testing.T) {
	const mark = 0xaa
	p := newPath(t)
	for _, family := range []string{"-6", "-4"} {
		p.client.ip(family+" route add prohibit default table 170", family+" rule add not fwmark 0xaa lookup 170 priority 17000")
	}
	for _, v := range variants {
		marked, plain := p.client.socket(v, mark), p.client.socket(v, 0)
		for _, a := range []netip.Addr{memberV6, memberV4} {
			if r, err := marked.Probe(within(t), a); err != nil || r.From != a {
				t.Errorf("%s: marked: %+v, %v", v.name, r, err)
			}
			if _, err := plain.Probe(within(t), a); !errors.Is(err, syscall.EACCES) {
				t.Errorf("%s: not marked: %v", v.name, err)
			}
			family, err := marked.familyOf(a)
			if err != nil {
				t.Fatal(err)
			}
			// The path's MTU must be asked for on the same way.
			if mtu, err := family.paths.mtu(a); err != nil || mtu != 1500 {
				t.Errorf("%s: path MTU %d, %v", v.name, mtu, err)
			}
		}
	}
}

func TestMissingFamily(t *testing.T) {
	h := newHost(t)
	var v4 *family
	h.on(func() {
		var err error
		if v4, err = openSocket(false, true, 0); err != nil {
			t.Fatal(err)
		}
	})
	s := newSocket(v4, nil)
	run(t, s)
	for _, a := range []netip.Addr{netip.IPv6Loopback(), {}, netip.MustParseAddr("::ffff:127.0.0.1")} {
		if _, err := s.Probe(within(t), a); !errors.Is(err, ErrNoFamily) || !errors.Is(err, syscall.EAFNOSUPPORT) {
			t.Errorf("probe of %v: %v", a, err)
		}
		if _, err := s.Echo(within(t), a, 0, false, nil); !errors.Is(err, ErrNoFamily) {
			t.Errorf("echo to %v: %v", a, err)
		}
	}
	if r, err := s.Probe(within(t), loopbacks[1]); err != nil || r.From != loopbacks[1] {
		t.Errorf("the family that is there: %+v, %v", r, err)
	}
}

// dropCap takes a capability from the test's thread, which keeps the others.
func dropCap(t *testing.T, capability int) {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	data[capability/32].Effective &^= 1 << (capability % 32)
	if err := unix.Capset(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
}

func TestOpenByPrivilege(t *testing.T) {
	t.Run("with CAP_NET_RAW", func(t *testing.T) {
		newHost(t)
		s, err := Open(Config{Mark: 1})
		if err != nil {
			t.Fatal(err)
		}
		run(t, s)
		if !s.v4.raw || !s.v6.raw {
			t.Error("not raw")
		}
	})
	t.Run("in the ping group", func(t *testing.T) {
		newHost(t).allowPing()
		dropCap(t, unix.CAP_NET_RAW)
		s, err := Open(Config{Mark: 1}) // CAP_NET_ADMIN is still there
		if err != nil {
			t.Fatal(err)
		}
		run(t, s)
		if s.v4.raw || s.v6.raw {
			t.Error("raw")
		}
		for _, a := range loopbacks {
			if r, err := s.Probe(within(t), a); err != nil || r.From != a {
				t.Errorf("%+v, %v", r, err)
			}
		}
	})
	t.Run("with neither", func(t *testing.T) {
		newHost(t)
		dropCap(t, unix.CAP_NET_RAW)
		if _, err := Open(Config{}); !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "ping_group_range") || strings.Contains(err.Error(), "SO_MARK") {
			t.Errorf("%v", err)
		}
	})
	t.Run("no mark allowed", func(t *testing.T) {
		newHost(t).allowPing()
		dropCap(t, unix.CAP_NET_RAW)
		dropCap(t, unix.CAP_NET_ADMIN)
		if _, err := Open(Config{Mark: 1}); !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "SO_MARK") || strings.Contains(err.Error(), "ping_group_range") {
			t.Errorf("%v", err)
		}
		s, err := Open(Config{})
		if err != nil {
			t.Fatal(err)
		}
		run(t, s)
	})
}

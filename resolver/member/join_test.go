package member

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// site is a network namespace with an interface eth0, which is up and has
// 2001:db8:1::2/64. The test's goroutine keeps its thread in it to the end and
// takes it along; a subtest is on another thread, and elsewhere.
type site struct{ t *testing.T }

func newSite(t *testing.T) site {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, unix.EPERM) && os.Getenv("AARPTUN_TEST_NO_SKIP") == "" {
		t.Skip("this needs a network namespace of its own: run it as root, or by 'unshare --user --map-root-user --net'")
	} else if err != nil {
		t.Fatal(err)
	}
	s := site{t}
	s.ip("link set lo up")
	s.ip("link add eth0 type veth peer name eth1")
	s.ip("link set eth1 up")
	s.ip("link set eth0 up")
	s.ip("addr add 2001:db8:1::2/64 dev eth0 nodad")
	return s
}

func (s site) ip(command string) {
	s.t.Helper()
	if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
		s.t.Fatalf("ip %s: %v\n%s", command, err, out)
	}
}

// run types a command that aarptun told somebody to type.
func (s site) run(command string) {
	s.t.Helper()
	words := strings.Fields(command)
	if words[0] == "sysctl" {
		name, value, _ := strings.Cut(words[2], "=")
		s.sysctl(name, value)
		return
	}
	s.ip(strings.TrimPrefix(command, "ip "))
}

// sysctl swaps dots and slashes in a name as sysctl(8) does.
func (s site) sysctl(name, value string) {
	s.t.Helper()
	path := strings.NewReplacer(".", "/", "/", ".").Replace(name)
	if err := os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0); err != nil {
		s.t.Fatal(err)
	}
}

// joined lists what the kernel has joined on eth0.
func (s site) joined() (joined []netip.Addr) {
	s.t.Helper()
	text, err := os.ReadFile("/proc/thread-self/net/anycast6")
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		b, err := hex.DecodeString(fields[2])
		if err != nil || len(b) != 16 {
			s.t.Fatalf("%q: %v", line, err)
		}
		if fields[1] == "eth0" {
			joined = append(joined, netip.AddrFrom16([16]byte(b)))
		}
	}
	return joined
}

func TestJoin(t *testing.T) {
	s := newSite(t)
	onLink, elsewhere := netip.MustParseAddr("2001:db8:1::aa"), netip.MustParseAddr("2001:db8:aa::1")
	join := func(aa netip.Addr) *Membership {
		t.Helper()
		m, err := Join(aa, "eth0")
		if err != nil {
			t.Fatal(err)
		}
		if want := aa.String() + "%eth0"; m.String() != want {
			t.Errorf("%v, want %s", m, want)
		}
		if !slices.Contains(s.joined(), aa) {
			t.Errorf("%v is not in %v", aa, s.joined())
		}
		return m
	}
	first, second := join(onLink), join(onLink)
	if err := first.Close(); err != nil || !slices.Contains(s.joined(), onLink) {
		t.Errorf("one of two has left: %v, %v", s.joined(), err)
	}
	if err := second.Close(); err != nil || len(s.joined()) != 0 {
		t.Errorf("both have left: %v, %v", s.joined(), err)
	}
	if err := second.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("left again: %v", err)
	}
	s.sysctl("net.ipv6.conf.all.forwarding", "1") // a router may join any
	router := join(elsewhere)
	if err := router.Close(); err != nil || slices.Contains(s.joined(), elsewhere) {
		t.Errorf("the router has left: %v, %v", s.joined(), err)
	}
}

// The remedy in each refusal is tried: what it says must be true.
func TestJoinRefusals(t *testing.T) {
	const onLink, elsewhere = "2001:db8:1::aa", "2001:db8:aa::1"
	for _, tc := range []struct {
		name   string
		spoil  func(site)
		aa     string
		errno  syscall.Errno
		say    []string
		remedy string // which must be in the error
	}{
		{"off-link", func(site) {}, elsewhere, unix.EADDRNOTAVAIL, []string{"on-link", "ip addr add PREFIX dev eth0"}, "sysctl -w net.ipv6.conf.all.forwarding=1"},
		{"an ordinary address", func(site) {}, "2001:db8:1::2", unix.EINVAL, []string{"ordinary"}, "ip -6 addr show to 2001:db8:1::2"},
		{"an ordinary address of another interface", func(s site) { s.ip("addr add 2001:db8:1::aa/128 dev lo nodad") }, onLink, unix.EINVAL, []string{"ordinary"}, "ip -6 addr show to 2001:db8:1::aa"},
		{"IPv6 disabled, a router", func(s site) {
			s.sysctl("net.ipv6.conf.all.forwarding", "1")
			s.sysctl("net.ipv6.conf.eth0.disable_ipv6", "1")
		}, elsewhere, unix.EACCES, []string{"disabled"}, "sysctl -w net.ipv6.conf.eth0.disable_ipv6=0"},
		{"IPv6 disabled everywhere, a host", func(s site) { s.sysctl("net.ipv6.conf.all.disable_ipv6", "1") }, onLink, unix.EADDRNOTAVAIL, []string{"disabled"}, "sysctl -w net.ipv6.conf.eth0.disable_ipv6=0"},
		{"link down", func(s site) { s.ip("link set eth0 down") }, onLink, unix.EADDRNOTAVAIL, []string{"is down"}, "ip link set eth0 up"},
		{"a small MTU", func(s site) {
			s.sysctl("net.ipv6.conf.default.forwarding", "1") // for the IPv6 that the remedy brings
			s.ip("link set eth0 mtu 1000")
		}, onLink, unix.ENODEV, []string{"MTU is 1000", "needs 1280"}, "ip link set eth0 mtu 1280"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSite(t)
			tc.spoil(s)
			aa := netip.MustParseAddr(tc.aa)
			m, err := Join(aa, "eth0")
			if m != nil || !errors.Is(err, tc.errno) {
				t.Fatalf("%v, %v, want %v", m, err, tc.errno)
			}
			for _, text := range append(tc.say, tc.aa, "'"+tc.remedy+"'") {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%v does not say %q", err, text)
				}
			}
			if len(s.joined()) != 0 {
				t.Errorf("joined: %v", s.joined())
			}
			s.run(tc.remedy)
			if tc.errno == unix.EINVAL {
				return // its remedy only shows where the address is
			}
			if strings.HasSuffix(tc.remedy, "disable_ipv6=0") || tc.remedy == "ip link set eth0 up" {
				s.ip("addr add 2001:db8:1::2/64 dev eth0 nodad") // lost with it
			}
			if m, err = Join(aa, "eth0"); err != nil {
				t.Fatalf("after the remedy: %v", err)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestJoinOnAVLAN(t *testing.T) {
	s := newSite(t)
	s.ip("link set eth0 name eth0.5") // a dot is not a dot of the sysctl's name
	s.sysctl("net.ipv6.conf.all.disable_ipv6", "1")
	const remedy = "sysctl -w net.ipv6.conf.eth0/5.disable_ipv6=0"
	if _, err := Join(netip.MustParseAddr("2001:db8:1::aa"), "eth0.5"); err == nil || !strings.Contains(err.Error(), "'"+remedy+"'") {
		t.Fatalf("%v does not say %q", err, remedy)
	}
	s.run(remedy)
	s.ip("addr add 2001:db8:1::2/64 dev eth0.5 nodad")
	m, err := Join(netip.MustParseAddr("2001:db8:1::aa"), "eth0.5")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestJoinWithoutPrivilege(t *testing.T) {
	newSite(t)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	data[unix.CAP_NET_ADMIN/32].Effective &^= 1 << (unix.CAP_NET_ADMIN % 32)
	if err := unix.Capset(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	_, err := Join(netip.MustParseAddr("2001:db8:1::aa"), "eth0")
	if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("%v", err)
	}
}

func TestJoinOfWhatCannotBe(t *testing.T) {
	newSite(t)
	for _, aa := range []string{"192.0.2.1", "::ffff:192.0.2.1", "::", "::1", "fe80::1", "ff02::1", "2001:db8:1::aa%eth0"} {
		if m, err := Join(netip.MustParseAddr(aa), "eth0"); m != nil || err == nil || !strings.Contains(err.Error(), "no IPv6 address that can be joined") {
			t.Errorf("%s: %v, %v", aa, m, err)
		}
	}
	if _, err := Join(netip.Addr{}, "eth0"); err == nil {
		t.Error("no address at all can be joined")
	}
	for _, dev := range []string{"eth7", "", "../eth0"} {
		if m, err := Join(netip.MustParseAddr("2001:db8:1::aa"), dev); m != nil || err == nil || !strings.Contains(err.Error(), "ip link") {
			t.Errorf("%q: %v, %v", dev, m, err)
		}
	}
}

// Each warning is of a real setting, and its remedy mends it.
func TestWarnings(t *testing.T) {
	s := newSite(t)
	aa := netip.MustParseAddr("2001:db8:1::aa")
	if found := Warnings(aa); len(found) != 0 {
		t.Fatalf("of a new namespace: %+v", found)
	}
	for _, tc := range []struct {
		name  string
		spoil func()
		want  string
	}{
		{"answers come from AA", func() { s.sysctl("net.ipv6.anycast_src_echo_reply", "1") }, "net.ipv6.anycast_src_echo_reply=1"},
		{"AA is not answered", func() { s.sysctl("net.ipv6.icmp.echo_ignore_anycast", "1") }, "net.ipv6.icmp.echo_ignore_anycast=1"},
		{"nothing is answered", func() { s.sysctl("net.ipv6.icmp.echo_ignore_all", "1") }, "net.ipv6.icmp.echo_ignore_all=1"},
		{"AA is an ordinary address", func() { s.ip("addr add 2001:db8:1::aa/128 dev lo") }, "2001:db8:1::aa is also an ordinary address"},
	} {
		tc.spoil()
		found := Warnings(aa)
		if len(found) != 1 || !strings.HasPrefix(found[0].Finding, tc.want) {
			t.Errorf("%s: %+v", tc.name, found)
			continue
		}
		s.run(found[0].Remedy)
		if found := Warnings(aa); len(found) != 0 {
			t.Errorf("%s: after the remedy: %+v", tc.name, found)
		}
	}
	for _, setting := range breaking {
		s.sysctl("net.ipv6."+strings.ReplaceAll(setting.name, "/", "."), "1")
	}
	if found := Warnings(aa); len(found) != len(breaking) {
		t.Errorf("all at once: %+v", found)
	}
}

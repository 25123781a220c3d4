package netns

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestStandIns(t *testing.T) {
	addr := netip.MustParseAddr
	for _, c := range []struct {
		text, want string
		stands     map[netip.Addr]netip.Addr
	}{
		{"", "", nil},
		{"nameserver 192.0.2.53\nnameserver 2001:db8::53\n", "", nil},
		{"search a\nnameserver 127.0.0.53\noptions edns0", "search a\nnameserver 192.0.0.2\noptions edns0", map[netip.Addr]netip.Addr{addr("192.0.0.2"): addr("127.0.0.53")}},
		{"nameserver ::1\nnameserver 192.0.2.53\n  nameserver\tfe80::1%eth0\n", "nameserver 192.0.0.2\nnameserver 192.0.2.53\nnameserver 192.0.0.3\n",
			map[netip.Addr]netip.Addr{addr("192.0.0.2"): addr("::1"), addr("192.0.0.3"): addr("fe80::1%eth0")}},
		{"nameserver 0.0.0.0", "nameserver 192.0.0.2\n", map[netip.Addr]netip.Addr{addr("192.0.0.2"): addr("0.0.0.0")}},
		{"#nameserver 127.0.0.1\nnameserver\nnameserver x\nnameservers 127.0.0.1\n", "", nil},
		{strings.Repeat("nameserver 127.0.0.1\n", 4), "nameserver 192.0.0.2\nnameserver 192.0.0.3\nnameserver 192.0.0.4\nnameserver 127.0.0.1\n",
			map[netip.Addr]netip.Addr{addr("192.0.0.2"): addr("127.0.0.1"), addr("192.0.0.3"): addr("127.0.0.1"), addr("192.0.0.4"): addr("127.0.0.1")}},
	} {
		got, stands := standIns(c.text)
		if got != c.want || !maps.Equal(stands, c.stands) {
			t.Errorf("%q: got %q, %v\nwant %q, %v", c.text, got, stands, c.want, c.stands)
		}
		for a := range stands {
			if !standInPrefix.Contains(a) {
				t.Errorf("%v has no route", a)
			}
		}
	}
}

func TestForbidden(t *testing.T) {
	const nothing = ""
	for _, c := range []struct {
		name, path, value string
		err               error
		want              string
	}{
		{"none may be made", "user/max_user_namespaces", "0", unix.ENOSPC, "user.max_user_namespaces is 0: allow it with 'sysctl -w user.max_user_namespaces=10000'"},
		{"Debian's switch", "kernel/unprivileged_userns_clone", "0", unix.EPERM, "'sysctl -w kernel.unprivileged_userns_clone=1'"},
		{"AppArmor's", "kernel/apparmor_restrict_unprivileged_userns", "1", unix.EACCES, "'sysctl -w kernel.apparmor_restrict_unprivileged_userns=0'"},
		{"a switch that allows", "kernel/unprivileged_userns_clone", "1", unix.EPERM, "seccomp filter or a chroot"},
		{"no setting", nothing, nothing, unix.EPERM, "seccomp filter or a chroot"},
		{"too many", "user/max_user_namespaces", "100", unix.ENOSPC, "as many namespaces as there may be"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if c.path != nothing {
				path := filepath.Join(dir, c.path)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(c.value+"\n"), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			err := forbidden(c.err, dir)
			if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want a matter of permission and %q", err, c.want)
			}
		})
	}
	if other := syscall.Errno(unix.EINVAL); forbidden(other, t.TempDir()) != error(other) {
		t.Error("another error is taken for a matter of permission")
	}
}

func TestFamilies(t *testing.T) {
	network := func(s string) net.Addr {
		ip, n, err := net.ParseCIDR(s)
		if err != nil {
			t.Fatal(err)
		}
		n.IP = ip
		return n
	}
	for _, c := range []struct {
		own    []net.Addr
		v4, v6 bool
	}{
		{nil, false, false},
		{[]net.Addr{network("127.0.0.1/8"), network("::1/128"), network("fe80::1/64")}, false, false},
		{[]net.Addr{network("10.0.0.1/8")}, true, false},
		{[]net.Addr{network("fd00::1/64"), network("192.0.2.1/24")}, true, true},
	} {
		if v4, v6 := families(c.own); v4 != c.v4 || v6 != c.v6 {
			t.Errorf("%v: IPv4 %v, IPv6 %v", c.own, v4, v6)
		}
	}
}

// The plan goes by an environment variable, which the command is not to see.
func TestPlanIsHandedOn(t *testing.T) {
	p, err := MakePlan("/bin/true", []string{"true", "a b", "\"'\n"}, 1400)
	if err != nil {
		t.Fatal(err)
	}
	env, err := p.environment(nil, childVariable)
	if err != nil || len(env) != 1 {
		t.Fatal(env, err)
	}
	t.Setenv(childVariable, strings.TrimPrefix(env[0], childVariable+"="))
	got, ok, err := planFor(childVariable)
	if err != nil || !ok || got.Path != p.Path || len(got.Args) != 3 || got.Args[2] != p.Args[2] || got.Device.MTU != 1400 {
		t.Errorf("%+v, %v, %v, want %+v", got, ok, err, p)
	}
	if _, there := os.LookupEnv(childVariable); there {
		t.Error("the variable is still there")
	}
	if _, ok, _ := planFor(childVariable); ok {
		t.Error("there is a plan twice")
	}
	t.Setenv(childVariable, "x")
	if _, ok, err := planFor(childVariable); !ok || err == nil {
		t.Error("what is no plan is taken for one")
	}
}

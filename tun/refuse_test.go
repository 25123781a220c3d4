package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// refused opens a Host where that cannot be: it must fail with want, in one
// line that says so, and leave nothing changed and nothing open.
func refused(t *testing.T, c Config, want error, says string) {
	t.Helper()
	files, before := openFiles(t), networkState(t)
	for range 3 {
		h, err := Open(c)
		if err == nil {
			must(t, h.Close())
			t.Fatalf("Open did not fail, want %v", want)
		}
		if !errors.Is(err, want) {
			t.Errorf("Open: %v, want %v", err, want)
		}
		if !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("Open: %q, want one line with %q", err, says)
		}
		if config, permission := errors.Is(err, ErrConfig), errors.Is(err, os.ErrPermission); !config && !permission {
			t.Errorf("Open: %v, which is neither a matter of the host nor of permission", err)
		}
	}
	unchanged(t, before)
	if n := openFiles(t); n > files {
		t.Errorf("%d descriptors are open, were %d", n, files)
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(t *testing.T)
		want    error
		says    string
	}{
		"a name that is taken": {
			func(t *testing.T) { ip(t, "tuntap", "add", testDevice, "mode", "tap") },
			ErrNameTaken, testDevice + " already: choose another name with --tun",
		},
		"a persistent TUN of that name": {
			func(t *testing.T) { ip(t, "tuntap", "add", testDevice, "mode", "tun", "vnet_hdr") },
			ErrNameTaken, testDevice,
		},
		"a second name that is taken": {
			func(t *testing.T) {
				ip(t, "tuntap", "add", "other", "mode", "tap")
				ip(t, "link", "property", "add", "dev", "other", "altname", testDevice)
			},
			ErrNameTaken, testDevice,
		},
		"an IPv6 route in the table": {
			func(t *testing.T) { ip(t, "-6", "route", "add", "2001:db8:5::/48", "dev", "lo", "table", "170") },
			ErrTableTaken, "table 170 holds 2001:db8:5::/48: choose another with --table",
		},
		"an IPv4 route in the table": {
			func(t *testing.T) { ip(t, "-4", "route", "add", "192.0.2.0/24", "dev", "lo", "table", "170") },
			ErrTableTaken, "table 170 holds 192.0.2.0/24",
		},
		"a default route in the table": {
			func(t *testing.T) { ip(t, "-4", "route", "add", "default", "dev", "lo", "table", "170") },
			ErrTableTaken, "table 170 holds 0.0.0.0/0",
		},
		"an unreachable route in the table": {
			func(t *testing.T) { ip(t, "-6", "route", "add", "unreachable", "default", "table", "170") },
			ErrTableTaken, "table 170 holds ::/0",
		},
		"an IPv6 rule to the table": {
			func(t *testing.T) { ip(t, "-6", "rule", "add", "lookup", "170", "priority", "5") },
			ErrTableTaken, "the rule of priority 5 in 'ip -6 rule' leads to table 170",
		},
		"an IPv4 rule to the table": {
			func(t *testing.T) { ip(t, "-4", "rule", "add", "lookup", "170", "priority", "5") },
			ErrTableTaken, "the rule of priority 5 in 'ip -4 rule' leads to table 170",
		},
		"a host without TUN": {
			func(t *testing.T) { must(t, unix.Mount("none", "/dev/net", "tmpfs", 0, "")) },
			ErrNoTUN, "modprobe tun",
		},
		"a TUN that may not be opened": {
			func(t *testing.T) {
				must(t, unix.Mount(clonePath, clonePath, "", unix.MS_BIND, ""))
				flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC)
				must(t, unix.Mount("", clonePath, "", flags, ""))
			},
			os.ErrPermission, "chmod 0666 /dev/net/tun",
		},
	} {
		t.Run(name, func(t *testing.T) {
			isolateTUN(t)
			test.prepare(t)
			dir := t.TempDir()
			refused(t, testConfig(dir), test.want, test.says)
			check(t, "files", filesIn(t, dir))
		})
	}
}

func TestOpenRefusesWithoutPrivilege(t *testing.T) {
	isolate(t)
	dir := filepath.Join(t.TempDir(), "sub")
	// Of this thread only, which ends with the test.
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	must(t, unix.Capget(&header, &data[0]))
	data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	must(t, unix.Capset(&header, &data[0]))
	refused(t, testConfig(dir), os.ErrPermission, "CAP_NET_ADMIN is missing")
	if _, err := Cleanup(dir, false); !errors.Is(err, os.ErrPermission) {
		t.Errorf("Cleanup: %v, want %v", err, os.ErrPermission)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
}

// CAP_NET_ADMIN in a user namespace is none over a network namespace of another:
// the kernel says so late, and what was done by then is undone.
func TestOpenRefusesWithoutPrivilegeHere(t *testing.T) {
	isolateTUN(t)
	dir := t.TempDir()
	for _, prepare := range []func(){func() {}, func() { addOurs(t) }} {
		prepare()
		before := networkState(t)
		cmd := childCommand(confined, dir, testDevice)
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		}
		out, err := cmd.Output()
		if errors.Is(err, os.ErrPermission) {
			skip(t, "it needs a user namespace: "+err.Error())
		}
		must(t, err)
		if !strings.HasPrefix(string(out), "true tun: ") {
			t.Errorf("the child says %q, want an error that is a matter of permission", out)
		}
		t.Logf("%s", out)
		unchanged(t, before)
		check(t, "files", filesIn(t, dir))
	}
}

func TestOpenRefusesASecondOfTheSameProcess(t *testing.T) {
	isolateTUN(t)
	dir := t.TempDir()
	h := mustOpen(t, testConfig(dir))
	refused(t, testConfig(dir), ErrBusy, fmt.Sprintf("process %d has the device %s", os.Getpid(), testDevice))
	must(t, h.AddRoutes())
	refused(t, testConfig(dir), ErrBusy, testDevice)
	check(t, "files", filesIn(t, dir), filepath.Base(testJournal(t, dir, testDevice)))
}

// The device is there already when the kernel refuses its size.
func TestOpenRefusesSizes(t *testing.T) {
	isolateTUN(t)
	c := testConfig(t.TempDir())
	for _, mtu := range []int{-1, 67, maximumMTU + 1} {
		c.MTU = mtu
		refused(t, c, ErrConfig, fmt.Sprintf("set the MTU of %s to %d", testDevice, mtu))
	}
	check(t, "files", filesIn(t, c.Dir))
}

func TestOpenRefusesNames(t *testing.T) {
	isolate(t)
	dir := t.TempDir()
	for _, name := range []string{"", ".", "..", "../x", "a/b", "a:b", "a b", "a%d", "a\nb", "a\x00b", "sixteen-bytes-xx"} {
		c := testConfig(dir)
		c.Name = name
		refused(t, c, ErrConfig, fmt.Sprintf("device name %q", name))
	}
	check(t, "files", filesIn(t, dir))
}

func TestOpenRefusesPlacesForItsJournal(t *testing.T) {
	isolateTUN(t)
	base := t.TempDir()
	must(t, os.WriteFile(filepath.Join(base, "file"), nil, 0o600))
	for _, dir := range []string{"readonly", "symlink", "fifo", "directory"} {
		must(t, os.Mkdir(filepath.Join(base, dir), dirMode))
	}
	must(t, unix.Mount("none", filepath.Join(base, "readonly"), "tmpfs", unix.MS_RDONLY, ""))
	t.Cleanup(func() { must(t, unix.Unmount(filepath.Join(base, "readonly"), 0)) })
	journal := func(dir string) string { return testJournal(t, filepath.Join(base, dir), testDevice) }
	must(t, os.Symlink(filepath.Join(base, "file"), journal("symlink")))
	must(t, unix.Mkfifo(journal("fifo"), 0o600))
	must(t, os.Mkdir(journal("directory"), dirMode))
	for dir, says := range map[string]string{
		"readonly": "read-only file system", "readonly/sub": "read-only file system",
		"file": "not a directory", "file/sub": "not a directory",
		"symlink": "too many levels of symbolic links", "fifo": "no regular file", "directory": "is a directory",
	} {
		c := testConfig(filepath.Join(base, dir))
		refused(t, c, ErrConfig, says)
	}
	if text, err := os.ReadFile(filepath.Join(base, "file")); err != nil || len(text) > 0 {
		t.Errorf("the symlink's end was written to: %q (%v)", text, err)
	}
}

func TestOpenRefusesWhileTheDirectoryIsHeld(t *testing.T) {
	isolate(t)
	d, err := lockDirectory(t.TempDir(), false)
	must(t, err)
	defer d.unlock()
	file, err := os.Open(d.file.Name())
	must(t, err)
	defer func() { must(t, file.Close()) }()
	if err := flockPatiently(file, lockPause); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "fuser "+d.file.Name()) {
		t.Errorf("flockPatiently: %v, want %v", err, ErrBusy)
	}
}

func TestIPv6IsDisabled(t *testing.T) {
	isolateTUN(t)
	sysctl(t, "net.ipv6.conf.all.disable_ipv6", "1")
	sysctl(t, "net.ipv6.conf.default.disable_ipv6", "1")
	before := networkState(t)
	h, err := Open(testConfig(t.TempDir()))
	must(t, err)
	opened := networkState(t)
	if err := h.AddRoutes(); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "is IPv6 disabled") {
		t.Errorf("AddRoutes: %v, want %v that says why", err, ErrConfig)
	}
	unchanged(t, opened)
	must(t, h.Close())

	c := testConfig(t.TempDir())
	c.Prefixes = []netip.Prefix{testPrefix4}
	h, err = Open(c)
	must(t, err)
	must(t, h.AddRoutes())
	golden(t, "ipv4-only.txt", changed(t))
	must(t, h.Close())
	unchanged(t, before)
}

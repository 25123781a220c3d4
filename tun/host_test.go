package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// changed is what ip(8) says about what aarptun has changed, numbers as
// numbers, so that a name in /etc/iproute2 does not matter.
func changed(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, args := range []string{"-N -6 rule", "-N -4 rule", "-N -6 route show table 170", "-N -4 route show table 170"} {
		out, err := exec.Command("ip", strings.Fields(args)...).Output()
		if err != nil && !strings.Contains(args, "table") { // a table without a route is none
			t.Fatalf("ip %s: %v", args, err)
		}
		fmt.Fprintf(&all, "# ip %s\n%s", args, out)
	}
	facts := linkFacts.FindAllString(ip(t, "-d", "link", "show", "dev", testDevice), -1)
	fmt.Fprintf(&all, "# ip -d link show dev %s\n%s\n", testDevice, strings.Join(facts, "\n"))
	fmt.Fprintf(&all, "# ip -o addr show dev %s\n%s", testDevice, ip(t, "-o", "addr", "show", "dev", testDevice))
	return all.String()
}

func TestHostIsAsItWasAfterwards(t *testing.T) {
	for name, c := range map[string]Config{
		"both.txt":  {Prefixes: []netip.Prefix{testPrefix6, testPrefix4}},
		"ipv6.txt":  {Prefixes: []netip.Prefix{testPrefix6, netip.MustParsePrefix("2001:db8:bb::1/128")}, MTU: 1400},
		"ipv4.txt":  {Prefixes: []netip.Prefix{testPrefix4}, MTU: 9000},
		"mark.txt":  {Prefixes: []netip.Prefix{testPrefix6}, Mark: 0x80000001, Priority: 99},
		"world.txt": {Prefixes: []netip.Prefix{netip.MustParsePrefix("::/0"), netip.MustParsePrefix("0.0.0.0/0")}},
	} {
		t.Run(name, func(t *testing.T) {
			isolateTUN(t)
			c.Name, c.Dir = testDevice, t.TempDir()
			files, before := openFiles(t), networkState(t)
			h, err := Open(c)
			must(t, err)
			opened := networkState(t)
			if strings.Contains(opened, "17000:") || strings.Contains(opened, "table 170") {
				t.Errorf("traffic is led into the device before AddRoutes:\n%s", opened)
			}
			must(t, h.AddRoutes())
			golden(t, name, changed(t))
			must(t, h.RemoveRoutes())
			unchanged(t, opened)
			must(t, h.RemoveRoutes()) // nothing is left to remove
			must(t, h.Close())
			must(t, h.Close())
			unchanged(t, before)
			if left := filesIn(t, c.Dir); len(left) > 0 {
				t.Errorf("left in the journal's directory: %q", left)
			}
			if n := openFiles(t); n > files {
				t.Errorf("%d descriptors are open, were %d", n, files)
			}
		})
	}
}

func TestCloseAloneTakesAllBack(t *testing.T) {
	isolateTUN(t)
	before := networkState(t)
	h, err := Open(testConfig(t.TempDir()))
	must(t, err)
	must(t, h.AddRoutes())
	must(t, h.Close())
	unchanged(t, before)
}

func TestAddRoutesAgainChangesNothing(t *testing.T) {
	isolateTUN(t)
	h := mustOpen(t, testConfig(t.TempDir()))
	must(t, h.AddRoutes())
	first := networkState(t)
	must(t, h.AddRoutes())
	unchanged(t, first)
}

func TestAddRoutesPutsBackWhatIsMissing(t *testing.T) {
	for _, remove := range []string{
		"-6 rule del priority 17000", "-4 rule del priority 17000",
		"-6 route flush table 170", "-4 route flush table 170",
		"-6 route del 2001:db8:aa::/64 table 170",
	} {
		t.Run(remove, func(t *testing.T) {
			isolateTUN(t)
			h := mustOpen(t, testConfig(t.TempDir()))
			must(t, h.AddRoutes())
			all := networkState(t)
			ip(t, strings.Fields(remove)...)
			if networkState(t) == all {
				t.Fatal("nothing was removed")
			}
			must(t, h.AddRoutes())
			unchanged(t, all)
		})
	}
}

// What others have removed already is no reason to fail, nor to leave the rest.
func TestCloseBearsWithWhatIsGone(t *testing.T) {
	for _, remove := range []string{
		"-6 rule del priority 17000", "-4 route flush table 170", "-6 route flush table 170",
		"link set " + testDevice + " down", "link del " + testDevice,
	} {
		t.Run(remove, func(t *testing.T) {
			isolateTUN(t)
			before := networkState(t)
			h, err := Open(testConfig(t.TempDir()))
			must(t, err)
			must(t, h.AddRoutes())
			ip(t, strings.Fields(remove)...)
			must(t, h.RemoveRoutes())
			must(t, h.Close())
			unchanged(t, before)
		})
	}
}

func TestAddRoutesThatFailsMidwayLeavesNothing(t *testing.T) {
	disable := func(t *testing.T) { sysctl(t, "net.ipv6.conf."+testDevice+".disable_ipv6", "1") }
	twin := func(family string) func(t *testing.T) {
		// For the kernel this is the rule we want to set, for it does not compare
		// the inversion.
		return func(t *testing.T) {
			ip(t, family, "rule", "add", "fwmark", "0xaa", "lookup", "170", "priority", "17000", "protocol", "170")
		}
	}
	for name, test := range map[string]struct {
		prefixes []netip.Prefix
		spoil    func(t *testing.T)
		want     error
		says     string
	}{
		"second route": {[]netip.Prefix{testPrefix4, testPrefix6}, disable, ErrConfig, "is IPv6 disabled"},
		"first rule":   {[]netip.Prefix{testPrefix4, testPrefix6}, twin("-6"), ErrTableTaken, "ip -6 rule"},
		"second rule":  {[]netip.Prefix{testPrefix4, testPrefix6}, twin("-4"), ErrTableTaken, "ip -4 rule"},
		"no device": {[]netip.Prefix{testPrefix4}, func(t *testing.T) { ip(t, "link", "del", testDevice) },
			unix.ENODEV, testPrefix4.String()},
	} {
		t.Run(name, func(t *testing.T) {
			isolateTUN(t)
			h := mustOpen(t, Config{Name: testDevice, Prefixes: test.prefixes, Dir: t.TempDir()})
			test.spoil(t)
			before := networkState(t)
			err := h.AddRoutes()
			if !errors.Is(err, test.want) || !strings.Contains(fmt.Sprint(err), test.says) || strings.Contains(fmt.Sprint(err), "\n") {
				t.Errorf("AddRoutes: %v, want one line of %v that says %q", err, test.want, test.says)
			}
			if errors.Is(err, os.ErrPermission) {
				t.Errorf("AddRoutes: %v, which is no matter of permission", err)
			}
			unchanged(t, before)
		})
	}
}

// After Close the handle would speak with the namespace of whoever calls.
func TestNothingHappensAfterClose(t *testing.T) {
	isolateTUN(t)
	h := mustOpen(t, testConfig(t.TempDir()))
	locals := h.Locals()
	must(t, h.Close())
	ip(t, "tuntap", "add", testDevice, "mode", "tun") // it may well get the same index
	ip(t, "link", "set", testDevice, "up")
	before := networkState(t)
	if err := h.AddRoutes(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("AddRoutes: %v, want %v", err, os.ErrClosed)
	}
	must(t, h.RemoveRoutes())
	unchanged(t, before)
	if locals.Contains(netip.IPv6Loopback()) {
		t.Error("Locals asked the kernel, in whatever namespace this is")
	}
}

func TestHostServesFromAnotherNamespace(t *testing.T) {
	isolateTUN(t)
	before := networkState(t)
	h := mustOpen(t, testConfig(t.TempDir()))
	from(t, func() error { return h.AddRoutes() })
	golden(t, "both.txt", changed(t))
	from(t, func() error { return errors.Join(h.RemoveRoutes(), h.Close()) })
	unchanged(t, before)
}

// from calls f in a third namespace.
func from(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // its thread ends with it
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	must(t, <-done)
}

func TestCloseWakesWhoReads(t *testing.T) {
	isolateTUN(t)
	h := mustOpen(t, testConfig(t.TempDir()))
	done := make(chan error)
	go func() {
		buf := make([]byte, 10+maximumMTU)
		for {
			if _, err := h.Device().Read([][]byte{buf}); err != nil {
				done <- err
				return
			}
		}
	}()
	must(t, h.Close())
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read: %v, want %v", err, os.ErrClosed)
	}
}

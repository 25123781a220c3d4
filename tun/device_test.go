package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// uplink makes a device with a size, whose index is not to be relied on.
func uplink(t *testing.T, name string, mtu int) {
	t.Helper()
	ip(t, "tuntap", "add", name, "mode", "tun")
	ip(t, "link", "set", name, "mtu", fmt.Sprint(mtu), "up")
}

func TestMTUIsThatOfTheSmallestUplink(t *testing.T) {
	for name, test := range map[string]struct {
		links  []int // u0, u1, ... in bytes
		routes []string
		want   int
	}{
		"no default route":       {[]int{1400}, []string{"-6 route add 2001:db8:5::/48 dev u0"}, defaultMTU},
		"one for IPv6":           {[]int{1400}, []string{"-6 route add default dev u0"}, 1400},
		"one for IPv4":           {[]int{9000}, []string{"-4 route add default dev u0"}, 9000},
		"one for each, IPv6 is":  {[]int{1420, 1500}, []string{"-6 route add default dev u0", "-4 route add default dev u1"}, 1420},
		"one for each, IPv4 is":  {[]int{1420, 1500}, []string{"-6 route add default dev u1", "-4 route add default dev u0"}, 1420},
		"a spare one is":         {[]int{1500, 1300}, []string{"-6 route add default dev u0", "-6 route add default dev u1 metric 2000"}, 1300},
		"another table's is not": {[]int{1500, 1300}, []string{"-6 route add default dev u0", "-6 route add default dev u1 table 5"}, 1500},
		"a hop of several is, IPv4": {[]int{1500, 1350}, []string{
			"-4 addr add 192.0.2.1/24 dev u0", "-4 addr add 192.0.3.1/24 dev u1",
			"-4 route add default nexthop via 192.0.2.2 dev u0 nexthop via 192.0.3.2 dev u1"}, 1350},
		"a hop of several is, IPv6": {[]int{1500, 1350}, []string{
			"-6 route add default nexthop via fe80::1 dev u0 nexthop via fe80::1 dev u1"}, 1350},
		"a route with a size of its own":               {[]int{1500}, []string{"-6 route add default dev u0 mtu 1380"}, 1380},
		"a route that leads nowhere":                   {[]int{1500}, []string{"-6 route add unreachable default", "-4 route add blackhole default"}, defaultMTU},
		"a route that leads nowhere over a small link": {nil, []string{"link set lo mtu 1400", "-6 route add unreachable default"}, defaultMTU},
		"less than IPv6 needs":                         {[]int{576}, []string{"-4 route add default dev u0"}, minimumMTU},
		"more than a packet has":                       {nil, []string{"-4 route add default dev lo"}, defaultMTU},
		"as much as a packet has":                      {[]int{65535}, []string{"-4 route add default dev u0"}, maximumMTU},
	} {
		t.Run(name, func(t *testing.T) {
			isolateTUN(t)
			for i, mtu := range test.links {
				uplink(t, fmt.Sprintf("u%d", i), mtu)
			}
			for _, route := range test.routes {
				ip(t, strings.Fields(route)...)
			}
			h := mustOpen(t, testConfig(t.TempDir()))
			if h.MTU() != test.want {
				t.Errorf("MTU is %d, want %d", h.MTU(), test.want)
			}
			if out := ip(t, "link", "show", testDevice); !strings.Contains(out, fmt.Sprintf("mtu %d ", test.want)) {
				t.Errorf("the device has another than %d: %s", test.want, out)
			} else if !strings.Contains(out, "qlen 2000") {
				t.Errorf("the device has another queue: %s", out)
			}
		})
	}
}

// A link-local address on the device would make it a source that no member can
// answer. The kernel adds one when a device comes up, if it is let.
func TestDeviceHasNoAddress(t *testing.T) {
	isolateTUN(t)
	other, err := createDevice("other")
	must(t, err)
	defer func() { must(t, other.Close()) }()
	ip(t, "link", "set", "other", "up")
	if out := ip(t, "addr", "show", "dev", "other"); !strings.Contains(out, "inet6 fe80:") {
		t.Fatalf("a device does not get an address by itself here: %s", out)
	}
	h := mustOpen(t, testConfig(t.TempDir()))
	must(t, h.AddRoutes())
	ip(t, "link", "set", testDevice, "down")
	ip(t, "link", "set", testDevice, "up")
	if out := ip(t, "addr", "show", "dev", testDevice); strings.Contains(out, "inet") {
		t.Errorf("the device has an address: %s", out)
	}
	if h.Name() != testDevice {
		t.Errorf("it is called %q", h.Name())
	}
}

// A device of that name may come between our look and our making one.
func TestCreateDeviceTakesNoneThatIsThere(t *testing.T) {
	isolateTUN(t)
	uplink(t, testDevice, 1500)
	files := openFiles(t)
	if device, err := createDevice(testDevice); !errors.Is(err, ErrNameTaken) {
		t.Errorf("createDevice: %v, %v, want %v", device, err, ErrNameTaken)
	}
	if n := openFiles(t); n > files {
		t.Errorf("%d descriptors are open, were %d", n, files)
	}
}

func TestDefaultsOfConfig(t *testing.T) {
	h := newHost(Config{Name: testDevice, Prefixes: []netip.Prefix{testPrefix4, testPrefix6}})
	got := fmt.Sprint(h.table, h.rules, dirOf(Config{}))
	if want := fmt.Sprint(170, []string{rule6, rule4}, "/run/aarptun"); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

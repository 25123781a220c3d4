package nft

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/ti-mo/conntrack"
)

var (
	lan6, lan4 = netip.MustParseAddr("2001:db8:1a::11"), netip.MustParseAddr("192.168.7.11")
	own6, own4 = netip.MustParseAddr("2001:db8:1::2"), netip.MustParseAddr("203.0.113.2")
	// second6 is another address of this host, which it does not choose itself.
	second6 = netip.MustParseAddr("2001:db8:1::3")
)

// gateway makes the test's namespace one: an uplink on which nobody answers, and a
// LAN with one host, whose shell it returns.
func gateway(t *testing.T) (lan io.Writer) {
	t.Helper()
	isolate(t)
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		run(t, "sh", "-c", "echo 1 >/proc/sys/net/"+name)
	}
	host := exec.Command("unshare", "--net", "bash")
	lan, err := host.StdinPipe()
	must(t, err)
	must(t, host.Start())
	t.Cleanup(func() {
		must(t, host.Process.Kill())
		_ = host.Wait() // it was killed
	})
	own, err := exec.Command("readlink", "/proc/self/ns/net").Output()
	must(t, err)
	eventually(t, "the LAN host has no namespace of its own", func() bool {
		its, err := exec.Command("readlink", fmt.Sprintf("/proc/%d/ns/net", host.Process.Pid)).Output()
		return err == nil && string(its) != string(own)
	})
	for _, command := range []string{
		"ip link add up0 type veth peer name nobody", "ip link set up0 up", "ip link set nobody up",
		fmt.Sprintf("ip addr add %v/64 dev up0 nodad", own6), fmt.Sprintf("ip addr add %v/24 dev up0", own4),
		fmt.Sprintf("ip addr add %v/64 dev up0 nodad preferred_lft 0", second6),
		"ip route add default dev up0", "ip -6 route add default dev up0",
		"ip link add port type veth peer name eth0 netns " + strconv.Itoa(host.Process.Pid), "ip link add lan0 type bridge",
		"ip link set port master lan0", "ip link set port up", "ip link set lan0 up",
		"ip addr add 2001:db8:1a::1/64 dev lan0 nodad", "ip addr add 192.168.7.1/24 dev lan0",
	} {
		run(t, "sh", "-c", command)
	}
	_, err = fmt.Fprintf(lan, "ip link set eth0 up; ip addr add %v/64 dev eth0 nodad; ip addr add %v/24 dev eth0; ip route add default via 192.168.7.1; ip -6 route add default via 2001:db8:1a::1\n", lan6, lan4)
	must(t, err)
	return lan
}

// hello has the LAN host send a datagram to each address.
func hello(t *testing.T, lan io.Writer, to ...netip.Addr) {
	t.Helper()
	for _, aa := range to {
		_, err := fmt.Fprintf(lan, "echo hello >/dev/udp/%v/7000\n", aa)
		must(t, err)
	}
}

// entriesOf are the connection tracking's entries of flows to anycast addresses, as an
// independent reader has them, and how many of them are translated.
func entriesOf(t *testing.T) (entries []conntrack.Flow, translated int) {
	t.Helper()
	ct, err := conntrack.Dial(nil)
	must(t, err)
	defer func() { must(t, ct.Close()) }()
	all, err := ct.Dump(nil)
	must(t, err)
	for _, e := range all {
		if aa := e.TupleOrig.IP.DestinationAddress; prefix6.Contains(aa) || prefix4.Contains(aa) {
			entries = append(entries, e)
			if e.Status.DstNAT() {
				translated++
			}
		}
	}
	return entries, translated
}

func eventually(t *testing.T, otherwise string, is func() bool) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal(otherwise)
		}
	}
}

func TestFlowsOfOtherHosts(t *testing.T) {
	for name, masquerade := range map[string]bool{"come from this one": true, "keep their own addresses": false} {
		t.Run(name, func(t *testing.T) {
			lan := gateway(t)
			c := testConfig()
			c.Masquerade = masquerade
			table := mustOpen(t, c)
			// What somebody else translates is no flow of ours, to whatever member.
			foreign := aa6.Next()
			run(t, "nft", fmt.Sprintf("table inet others { chain prerouting { type nat hook prerouting priority dstnat; ip6 daddr %v dnat to %v; }; }", foreign, ua6))
			must(t, table.Set([]Pin{pin(aa6, ua6, time.Minute), pin(aa4, ua4, time.Minute)}))
			hello(t, lan, aa6, aa4, foreign)
			run(t, "bash", "-c", fmt.Sprintf("for aa in %v %v; do echo hello >/dev/udp/$aa/7000; done", aa6, aa4))
			run(t, "ip", "-6", "route", "add", aa6.String(), "dev", "up0", "src", second6.String())
			run(t, "bash", "-c", fmt.Sprintf("echo hello >/dev/udp/%v/7000", aa6))

			want := map[netip.Addr]netip.Addr{lan6: lan6, lan4: lan4, own6: own6, own4: own4, second6: second6}
			if masquerade {
				want[lan6], want[lan4] = own6, own4
			}
			eventually(t, "the flows are not there", func() bool { _, n := entriesOf(t); return n == 6 })
			entries, _ := entriesOf(t)
			for _, e := range entries {
				client, aa, seen := e.TupleOrig.IP.SourceAddress, e.TupleOrig.IP.DestinationAddress, e.TupleReply.IP.DestinationAddress
				expected := want[client]
				if aa == foreign {
					expected = lan6
				}
				if seen != expected {
					t.Errorf("the member of %v sees %v of the client %v, want %v", aa, seen, client, expected)
				}
			}
			flows, err := table.Flows()
			must(t, err)
			for _, f := range flows {
				ua := map[bool]netip.Addr{true: ua6, false: ua4}[f.Anycast.Addr().Is6()]
				if _, ok := want[f.Client.Addr()]; f.Member != ua || !ok {
					t.Errorf("%v is listed as of %v to %v, want a client's own address and %v", f.Anycast, f.Client, f.Member, ua)
				}
			}
			cut, err := table.Cut(netip.Addr{})
			must(t, err)
			if left, _ := entriesOf(t); cut != 6 || len(left) > 0 {
				t.Errorf("%d flows were cut, want 6; left are %v", cut, left)
			}
		})
	}
}

// Where a bridge shows what it passes on, that cannot be told from what is to be
// forwarded.
func TestWhatBridgesShowIsNotCarried(t *testing.T) {
	lan := gateway(t)
	settings := []int{1, 0}
	if _, err := os.Stat("/proc/sys/net/bridge"); errors.Is(err, os.ErrNotExist) {
		settings = settings[1:] // without br_netfilter there is but this
	}
	for _, shown := range settings {
		showBridged(t, shown)
		table, err := Open(testConfig())
		must(t, err)
		if table.LeavesBridges() != (shown == 1) {
			t.Errorf("bridge-nf-call-*: %d, and LeavesBridges is %v", shown, table.LeavesBridges())
		}
		must(t, table.Set([]Pin{pin(aa6, ua6, time.Minute), pin(aa4, ua4, time.Minute)}))
		hello(t, lan, aa6, aa4)
		eventually(t, "the flows did not pass", func() bool { entries, _ := entriesOf(t); return len(entries) == 2 })
		if _, ours := entriesOf(t); ours != 2*(1-shown) {
			t.Errorf("bridge-nf-call-*: %d, and the kernel carries %d flows", shown, ours)
		}
		must(t, table.Close())
	}
}

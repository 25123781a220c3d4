package nft

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

const many = 100_000

// BenchmarkFlows says what it costs to see the flows that the kernel carries, when
// there are many; and when as many of other programs are between them, of which
// half were rewritten too.
func BenchmarkFlows(b *testing.B) {
	for name, others := range map[string]int{"alone": 0, "among-others": many} {
		b.Run(name, func(b *testing.B) {
			isolate(b)
			table := carrying(b, many, others)
			b.Run("list", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					flows, err := table.Flows()
					must(b, err)
					if len(flows) != many {
						b.Fatalf("%d flows, want %d", len(flows), many)
					}
				}
			})
			b.Run("count", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					count, err := table.Count()
					must(b, err)
					if count.All() != many {
						b.Fatalf("%+v flows, want %d", count, many)
					}
				}
			})
			b.Run("watch", func(b *testing.B) {
				b.ReportAllocs()
				var watch Watch
				for b.Loop() {
					open, err := table.TCPOpen(&watch)
					must(b, err)
					if !open {
						b.Fatal("no TCP flow is open")
					}
				}
			})
		})
	}
}

// carrying is a table in a network that has only a way out, by which n flows went
// to members, and others to elsewhere.
func carrying(t testing.TB, n, others int) *Table {
	t.Helper()
	roomFor(t, n+others)
	// A wire to a host that takes nothing.
	run(t, "ip", "link", "add", "up0", "type", "veth", "peer", "name", "far0")
	run(t, "ip", "link", "set", "far0", "up")
	run(t, "ip", "link", "set", "up0", "up")
	run(t, "ip", "-6", "addr", "add", "2001:db8:1::2/64", "dev", "up0", "nodad")
	run(t, "ip", "-6", "neigh", "add", "2001:db8:1::1", "lladdr", "02:00:00:00:00:01", "dev", "up0", "nud", "permanent")
	run(t, "ip", "-6", "route", "add", "default", "via", "2001:db8:1::1")
	must(t, os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_acct", []byte("1"), 0))
	must(t, os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_timestamp", []byte("1"), 0))
	table := mustOpen(t, testConfig())
	must(t, table.Set([]Pin{pin(aa6, ua6, time.Hour)}))
	begin(t, aa6, n)
	rewritten, plain := netip.MustParseAddr("2001:db8:bb::1"), netip.MustParseAddr("2001:db8:bb::2")
	run(t, "nft", "add table ip6 others; add chain ip6 others output { type nat hook output priority -100; }; add rule ip6 others output ip6 daddr "+rewritten.String()+" dnat to "+other6.String())
	begin(t, rewritten, others/2)
	begin(t, plain, others-others/2)
	return table
}

// roomFor skips where the kernel would not know of so many flows. How many it may
// know of is the host's to say, and no namespace's.
func roomFor(t testing.TB, n int) {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		skip(t, "this kernel tracks no connections: "+err.Error())
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(text)))
	must(t, err)
	if most < n {
		skip(t, "it needs room for "+strconv.Itoa(n)+" flows: sysctl -w net.netfilter.nf_conntrack_max="+strconv.Itoa(n))
	}
}

// begin sends the first packets of n flows to an address, half of them TCP.
func begin(t testing.TB, to netip.Addr, n int) {
	t.Helper()
	const firstPort = 1024
	udp, err := net.ListenUDP("udp6", nil)
	must(t, err)
	defer udp.Close() //nolint:errcheck // nothing is read
	tcp, err := net.ListenIP("ip6:tcp", nil)
	must(t, err)
	defer tcp.Close() //nolint:errcheck // nothing is read
	syn := make([]byte, 20)
	syn[12], syn[13] = 5<<4, 0x02 // the length in words, SYN
	for i := range n {
		if port := uint16(firstPort + i/2); i%2 == 0 {
			_, err = udp.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(to, port))
		} else {
			binary.BigEndian.PutUint16(syn[0:], port)
			binary.BigEndian.PutUint16(syn[2:], 443)
			_, err = tcp.WriteToIP(syn, &net.IPAddr{IP: to.AsSlice()})
		}
		must(t, err)
	}
}

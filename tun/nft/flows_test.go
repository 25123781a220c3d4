package nft

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"
)

func TestFlowsAndTheirCount(t *testing.T) {
	isolate(t)
	table := carrying(t, 100, 60)
	began := time.Now()
	flows, err := table.Flows()
	must(t, err)
	count, err := table.Count()
	must(t, err)
	if want := (Count{TCP: 50, UDP: 50}); count != want || len(flows) != count.All() {
		t.Fatalf("%d flows are listed, and %+v counted, want %+v", len(flows), count, want)
	}
	for _, f := range flows {
		if f.ID == 0 || f.Anycast.Addr() != aa6 || f.Member != ua6 || f.State != Opening || f.Sent == 0 || f.Got != 0 || began.Sub(f.Started).Abs() > time.Minute {
			t.Fatalf("a flow to %v at %v, just begun, is listed as %+v", aa6, ua6, f)
		}
		if f.Proto == TCP && (f.Anycast.Port() != 443 || f.Client.Port() < 1024) || f.Proto == UDP && f.Anycast.Port() < 1024 {
			t.Fatalf("the ports are not those of what was sent: %+v", f)
		}
	}
	if got := known(t); got != 160 {
		t.Fatalf("the kernel knows %d flows, want 160", got)
	}
	if cut, err := table.Cut(aa4); cut != 0 || err != nil {
		t.Errorf("%d flows to %v were cut, %v: there are none", cut, aa4, err)
	}
	cut, err := table.Cut(aa6)
	must(t, err)
	if cut != 100 || known(t) != 60 {
		t.Errorf("%d flows were cut and %d are left, want 100 and the 60 of others", cut, known(t))
	}
}

// known is how many flows the kernel knows of, whosever they are.
func known(t *testing.T) int {
	t.Helper()
	list, err := os.ReadFile("/proc/thread-self/net/nf_conntrack")
	if err != nil {
		skip(t, "this kernel does not list the flows: "+err.Error())
	}
	return strings.Count(string(list), "\n")
}

func TestNothingWaitsForAList(t *testing.T) {
	isolate(t)
	table := carrying(t, 10, 0)
	visited := 0
	must(t, table.each(filter{}, func(*entry) bool {
		visited++
		// It would wait for ever if the list held the table.
		must(t, table.Set([]Pin{pin(aa6, other6, time.Minute), pin(aa4, ua4, time.Duration(visited)*time.Minute)}))
		return true
	}))
	if visited != 10 {
		t.Errorf("%d flows were seen, want 10", visited)
	}
}

func TestAListThatIsNotReadToItsEnd(t *testing.T) {
	isolate(t)
	table := carrying(t, 1000, 0) // more than fit into one answer
	visited := 0
	must(t, table.each(filter{}, func(*entry) bool { visited++; return false }))
	count, err := table.Count()
	must(t, err)
	if visited != 1 || count.All() != 1000 {
		t.Errorf("after a list that ended at the %d. flow there are %+v, want 1000", visited, count)
	}
}

func TestTCPOpen(t *testing.T) {
	isolate(t)
	table := carrying(t, 10, 10)
	var w Watch
	is := func(want bool, when string) {
		t.Helper()
		if open, err := table.TCPOpen(&w); open != want || err != nil {
			t.Errorf("%s: TCP open is %v, %v", when, open, err)
		}
	}
	is(true, "with five flows")
	first := w.id
	is(true, "with five flows, asked again")
	if w.id != first {
		t.Error("another flow is looked at, and the first is still there")
	}
	end := func(some func(*entry) bool) {
		t.Helper()
		var doomed []key
		must(t, table.each(filter{}, func(e *entry) bool {
			if e.proto == TCP && some(e) {
				k, err := e.key()
				must(t, err)
				doomed = append(doomed, k)
			}
			return true
		}))
		must(t, table.tracking.remove(slices.Concat(doomed, doomed))) // the second time they are gone
	}
	end(func(e *entry) bool { return e.id == first })
	is(true, "when the one that was looked at has ended")
	if w.id == first {
		t.Error("what has ended is still looked at")
	}
	end(func(*entry) bool { return true })
	is(false, "when only UDP is left")
	begin(t, aa6, 2)
	is(true, "when there is one again")
}

func TestStates(t *testing.T) {
	const seenReply = 1 << 1
	for _, test := range []struct {
		e    entry
		want State
	}{
		{entry{proto: UDP}, Opening},
		{entry{proto: UDP, status: seenReply}, Established},
		{entry{proto: TCP, tcpState: 1}, Opening},                    // SYN_SENT
		{entry{proto: TCP, tcpState: 2, status: seenReply}, Opening}, // SYN_RECV
		{entry{proto: TCP, tcpState: 3, status: seenReply}, Established},
		{entry{proto: TCP, tcpState: 4, tcpFlags: 0x05, status: seenReply}, ClientClosed}, // FIN_WAIT
		{entry{proto: TCP, tcpState: 5, tcpFlags: 0x04, status: seenReply}, ClientClosed}, // CLOSE_WAIT
		{entry{proto: TCP, tcpState: 4, tcpFlags: 0x01, status: seenReply}, MemberClosed},
		{entry{proto: TCP, tcpState: 6, status: seenReply}, ended}, // LAST_ACK
		{entry{proto: TCP, tcpState: 8, status: seenReply}, ended}, // CLOSE
	} {
		if got := test.e.state(); got != test.want {
			t.Errorf("%+v is in state %d, want %d", test.e, got, test.want)
		}
	}
}

// kinds are flows of all kinds that there can be, as the kernel is told to know
// them.
func kinds() (flows []conntrack.Flow) {
	const timeout = 600
	a6, b6 := netip.MustParseAddr("2001:db8:c::9"), aa6.Next()
	a4, b4 := netip.MustParseAddr("203.0.113.9"), aa4.Next()
	for _, pair := range [][2]netip.Addr{{a6, b6}, {a4, b4}} {
		udp := conntrack.NewFlow(UDP, conntrack.StatusConfirmed|conntrack.StatusSeenReply|conntrack.StatusAssured, pair[0], pair[1], 4000, 443, timeout, 7)
		zoned := conntrack.NewFlow(UDP, conntrack.StatusConfirmed, pair[0], pair[1], 4000, 444, timeout, 0)
		zoned.Zone = 5
		echo := conntrack.NewFlow(unix.IPPROTO_ICMP, conntrack.StatusConfirmed|conntrack.StatusSeenReply, pair[0], pair[1], 0, 0, timeout, 0)
		request, reply := uint8(8), uint8(0)
		if pair[0].Is6() {
			request, reply = 128, 129
			echo.TupleOrig.Proto.Protocol, echo.TupleReply.Proto.Protocol = unix.IPPROTO_ICMPV6, unix.IPPROTO_ICMPV6
		}
		echo.TupleOrig.Proto.ICMPType, echo.TupleOrig.Proto.ICMPID = request, 77
		echo.TupleReply.Proto.ICMPType, echo.TupleReply.Proto.ICMPID = reply, 77
		flows = append(flows, udp, zoned, echo)
		for state := uint8(1); state <= 8; state++ {
			tcp := conntrack.NewFlow(TCP, conntrack.StatusConfirmed|conntrack.StatusSeenReply, pair[0], pair[1], 4000+uint16(state), 443, timeout, 0)
			tcp.ProtoInfo.TCP = &conntrack.ProtoInfoTCP{State: state, OriginalFlags: 0x0404, ReplyFlags: 0x0101}
			flows = append(flows, tcp)
		}
	}
	return flows
}

// TestEntriesAreWhatALibraryReads holds what is read of the kernel's messages
// against an independent decoder, and removes each by its key.
func TestEntriesAreWhatALibraryReads(t *testing.T) {
	isolate(t)
	must(t, os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_acct", []byte("1"), 0))
	must(t, os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_timestamp", []byte("1"), 0))
	mustOpen(t, testConfig())
	ct, err := conntrack.Dial(nil)
	must(t, err)
	defer ct.Close() //nolint:errcheck // nothing is left to be said
	made := kinds()
	for _, f := range made {
		if err := ct.Create(f); err != nil {
			t.Fatalf("the kernel does not take %+v: %v", f, err)
		}
	}
	k, err := track()
	must(t, err)
	defer k.close() //nolint:errcheck // nothing is left to be said
	messages, err := k.conn.Execute(request(messageGet, netlink.Dump, unix.NFPROTO_UNSPEC, nil))
	must(t, err)
	if len(messages) != len(made) {
		t.Fatalf("the kernel knows %d flows, want %d", len(messages), len(made))
	}
	var doomed []key
	for _, m := range messages {
		var e entry
		must(t, e.decode(m.Data))
		var read conntrack.Event
		must(t, read.Unmarshal(m))
		same(t, e, *read.Flow)
		of, err := e.key()
		must(t, err)
		doomed = append(doomed, of)
	}
	must(t, k.remove(doomed))
	if n := known(t); n != 0 {
		t.Errorf("%d flows are left, in whichever zone", n)
	}
}

func same(t *testing.T, e entry, f conntrack.Flow) {
	t.Helper()
	from, to := f.TupleOrig.Proto.SourcePort, f.TupleOrig.Proto.DestinationPort
	if f.TupleOrig.Proto.ICMPv4 || f.TupleOrig.Proto.ICMPv6 {
		from, to = f.TupleOrig.Proto.ICMPID, f.TupleOrig.Proto.ICMPID
	}
	var state, flags uint8
	if tcp := f.ProtoInfo.TCP; tcp != nil {
		state, flags = tcp.State, uint8(tcp.OriginalFlags>>8)
	}
	type all struct {
		id, status             uint32
		proto, state, flags    uint8
		from, to               netip.AddrPort
		member                 netip.Addr
		started                int64
		sent, got, zone, named uint64
	}
	var d decoder
	zone := uint64(0)
	if e.zone != nil {
		zone = d.number(e.zone, 2)
	}
	ours := all{e.id, e.status, e.proto, e.tcpState, e.tcpFlags, e.from, e.to, e.member, e.started.UnixNano(), e.sent, e.got, zone, d.number(e.number, 4)}
	theirs := all{
		f.ID, uint32(f.Status), f.TupleOrig.Proto.Protocol, state, flags,
		netip.AddrPortFrom(f.TupleOrig.IP.SourceAddress, from), netip.AddrPortFrom(f.TupleOrig.IP.DestinationAddress, to),
		f.TupleReply.IP.SourceAddress, f.Timestamp.Start.UnixNano(), f.CountersOrig.Bytes, f.CountersReply.Bytes, uint64(f.Zone), uint64(f.ID),
	}
	if ours != theirs {
		t.Errorf("read as\n%+v, and by the library as\n%+v", ours, theirs)
	}
}

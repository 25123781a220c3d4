package member

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// rings are the keys of a level for all the addresses of the tests.
func (l level) rings() []Keyring {
	ring := l.ring()
	other := *ring
	other.Prefix = netip.PrefixFrom(aa4, 24)
	return []Keyring{*ring, other}
}

// setup is a member with the keys of a level, for the addresses of the tests.
func (l level) setup() setup {
	s := setup{Anycast: []netip.Addr{aa6, aa4}, Signed: l.signed}
	if l.psk {
		s.PSKs = []PSK{goldenPSK}
	}
	return s
}

func TestProbeOverTheWire(t *testing.T) {
	for _, l := range levels {
		t.Run(l.name, func(t *testing.T) {
			client, server := newPair(t)
			member := server.serve(l.setup())
			p := client.prober(ProberConfig{Rings: l.rings()})
			for aa, ua := range map[netip.Addr]netip.Addr{aa6: ua6, aa4: ua4} {
				found, err := p.Probe(within(t), aa)
				if err != nil {
					t.Fatal(err)
				}
				if found.UA != ua || found.Proof != l.proof || found.Lifetime != 30*time.Second || found.RTT <= 0 || found.RTT > 5*time.Second {
					t.Errorf("%v: %+v", aa, found)
				}
			}
			confirms := uint64(0)
			if l.proof == ProofNonce {
				confirms = 2
			}
			if s := member.stats(); s.Answered != 2 || s.Confirmed != confirms {
				t.Errorf("the member: %+v", s)
			}
			if s := p.Stats(); s.Probes != 2 || s.Confirms != confirms || s.Answers != 2+confirms || s.Transmissions != 2+confirms || len(s.Refused) != 0 || s.Unmatched != 0 {
				t.Errorf("the client: %+v", s)
			}
		})
	}
}

// TestUnicastFollowsTheRoute: each asker is told the address on its own side of
// the member.
func TestUnicastFollowsTheRoute(t *testing.T) {
	client, server := newPair(t)
	other := newHost(t)
	server.connect("eth1", []string{"2001:db8:13::2/64", "203.0.113.130/24"}, other, "eth0", []string{"2001:db8:13::1/64", "203.0.113.2/24"})
	other.ip("-6 route add 2001:db8:aa::/64 via 2001:db8:13::2", "route add 198.51.100.0/24 via 203.0.113.130")
	other.reaches(aa6, aa4)
	server.serve(levels[0].setup())
	for _, tc := range []struct {
		of   *host
		want [2]netip.Addr
	}{
		{client, [2]netip.Addr{ua6, ua4}},
		{other, [2]netip.Addr{addr("2001:db8:13::2"), addr("203.0.113.130")}},
	} {
		p := tc.of.prober(ProberConfig{})
		for i, aa := range []netip.Addr{aa6, aa4} {
			if found, err := p.Probe(within(t), aa); err != nil || found.UA != tc.want[i] {
				t.Errorf("%v: %+v, %v, want %v", aa, found, err, tc.want[i])
			}
		}
	}
}

// TestUnnumbered: where no interface has a global address, AA and UA are both
// on lo, and the kernel may choose AA.
func TestUnnumbered(t *testing.T) {
	client, server := newHost(t), newHost(t)
	server.connect("eth0", nil, client, "eth0", []string{"192.0.2.2/32"})
	server.address("lo", []string{"198.51.100.1/32", "192.0.2.130/32"})
	client.ip("route add 198.51.100.1 dev eth0", "route add 192.0.2.130 dev eth0")
	server.ip("route add 192.0.2.2 dev eth0")
	s := setup{Anycast: []netip.Addr{aa4}}
	member := server.serve(s)
	if found, err := client.prober(ProberConfig{}).Probe(within(t), aa4); err != nil || found.UA != ua4 {
		t.Fatalf("%+v, %v", found, err)
	}
	server.ip("addr add 203.0.113.9/32 dev lo") // now there are two
	client.ip("addr add 192.0.2.3/32 dev eth0", "route change 198.51.100.1 dev eth0 src 192.0.2.3")
	server.ip("route add 192.0.2.3 dev eth0")
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	if found, err := client.prober(ProberConfig{}).Probe(ctx, aa4); !errors.Is(err, ErrNoAnswer) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%+v, %v", found, err)
	}
	if n := member.stats().NoUnicast; n == 0 {
		t.Error("not counted")
	}
}

func TestGivenUnicast(t *testing.T) {
	client, server := newPair(t)
	server.address("lo", []string{"2001:db8:77::7/128"})
	client.ip("-6 route add 2001:db8:77::/64 via 2001:db8:12::2")
	server.serve(setup{Anycast: []netip.Addr{aa6, aa4}, Unicast: []netip.Addr{addr("2001:db8:77::7")}})
	p := client.prober(ProberConfig{})
	if found, err := p.Probe(within(t), aa6); err != nil || found.UA != addr("2001:db8:77::7") {
		t.Errorf("%+v, %v", found, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	if found, err := p.Probe(ctx, aa4); err == nil {
		t.Errorf("a family without a unicast address: %+v", found)
	}
}

// TestKernelAnycast: an address that was joined answers too, from itself.
func TestKernelAnycast(t *testing.T) {
	client, server := newHost(t), newHost(t)
	server.connect("eth0", []string{"2001:db8:12::2/64"}, client, "eth0", []string{"2001:db8:12::1/64"})
	server.sysctl("ipv6.conf.all.forwarding", "1")
	client.ip("-6 route add 2001:db8:aa::/64 via 2001:db8:12::2")
	var m *Membership
	var err error
	server.on(func() { m, err = Join(aa6, "eth0") })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	server.serve(setup{Anycast: []netip.Addr{aa6}})
	client.reaches(ua6)
	if found, err := client.prober(ProberConfig{}).Probe(within(t), aa6); err != nil || found.UA != ua6 {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestSilenceWithoutTheKey(t *testing.T) {
	client, server := newPair(t)
	member := server.serve(levels[1].setup())
	wrong := []Keyring{{Prefix: netip.PrefixFrom(aa6, 64), PSKs: []PSK{{goldenPSK.ID, "another-secret-of-28-letters"}}}}
	for _, rings := range [][]Keyring{nil, wrong} {
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		defer cancel()
		if found, err := client.prober(ProberConfig{Rings: rings}).Probe(ctx, aa6); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("%+v, %v", found, err)
		}
	}
	if s := member.stats(); s.NoKey == 0 || s.BadKey == 0 || s.Answered != 0 {
		t.Errorf("%+v", s)
	}
}

// TestStrongerIsRequired: a prefix with keys takes nothing less, and says so.
func TestStrongerIsRequired(t *testing.T) {
	client, server := newPair(t)
	server.serve(levels[0].setup())
	p := client.prober(ProberConfig{Rings: levels[2].rings()})
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	found, err := p.Probe(ctx, aa6)
	if !errors.Is(err, ErrNoAnswer) || !strings.Contains(err.Error(), string(RefusedNoSignature)) {
		t.Errorf("%+v, %v", found, err)
	}
	if p.Stats().Refused[RefusedNoSignature] == 0 {
		t.Errorf("%+v", p.Stats())
	}
}

// TestNoResponder: a host without one says so by ICMP, and nobody waits; with
// keys, anybody could have sent that.
func TestNoResponder(t *testing.T) {
	client, _ := newPair(t)
	p := client.prober(ProberConfig{Rings: []Keyring{{Prefix: netip.PrefixFrom(aa4, 32), PSKs: []PSK{goldenPSK}}}})
	for range 3 {
		start := time.Now()
		if _, err := p.Probe(within(t), aa6); !errors.Is(err, ErrNoResponder) || !errors.Is(err, syscall.ECONNREFUSED) || time.Since(start) > firstRTO {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	if _, err := p.Probe(ctx, aa4); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with keys: %v", err)
	}
	if n := p.Stats().Unreachable; n < 4 {
		t.Errorf("%d ICMP errors counted", n)
	}
}

func TestUnconfirmed(t *testing.T) {
	client, server := newPair(t)
	// The host that is named knows nothing of AA: it is the client itself.
	client.ip("-6 addr add 2001:db8:77::7/128 dev lo nodad")
	server.ip("-6 route add 2001:db8:77::7/128 via 2001:db8:12::1")
	server.serve(setup{Anycast: []netip.Addr{aa6}, Unicast: []netip.Addr{addr("2001:db8:77::7")}})
	p := client.prober(ProberConfig{})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if found, err := p.Probe(ctx, aa6); !errors.Is(err, ErrNoAnswer) || !strings.Contains(err.Error(), string(RefusedUnconfirmed)) {
		t.Errorf("%+v, %v", found, err)
	}
	if p.Stats().Refused[RefusedUnconfirmed] != 1 {
		t.Errorf("%+v", p.Stats())
	}
	// One that is silent is waited for until the end of the question.
	server.ip("-6 route del 2001:db8:77::7/128")
	client.ip("-6 addr del 2001:db8:77::7/128 dev lo", "-6 route add 2001:db8:77::7/128 via 2001:db8:12::2")
	ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if found, err := p.Probe(ctx, aa6); !errors.Is(err, ErrNoAnswer) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%+v, %v", found, err)
	}
	if p.Stats().Refused[RefusedUnconfirmed] != 2 {
		t.Errorf("%+v", p.Stats())
	}
}

func TestDrain(t *testing.T) {
	client, server := newPair(t)
	file := filepath.Join(t.TempDir(), "drain")
	s := levels[0].setup()
	s.DrainFile = file
	member := server.serve(s)
	p := client.prober(ProberConfig{})
	answers := func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := p.Probe(ctx, aa6)
		return err == nil
	}
	eventually(t, "answers", answers)
	if state := member.tell("drain"); state != "draining" || answers() {
		t.Errorf("%s, and answers %v", state, answers())
	}
	// It says so, at every port it is asked from, and the question is over.
	var told []Found
	_, err := p.ProbeLane(within(t), aa6, 3, func(f Found) bool { told = append(told, f); return true })
	if !errors.Is(err, ErrDraining) || len(told) != 1 || told[0].UA != ua6 || !told[0].Draining {
		t.Errorf("%v, told %+v", err, told)
	}
	if state := member.tell("resume"); state != "answering" {
		t.Error(state)
	}
	eventually(t, "answers again", answers)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the file silences", func() bool { return member.tell("state") == "draining" })
	if state := member.tell("resume"); state != "draining" || answers() {
		t.Errorf("resumed while the file is there: %s", state)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "answers again", func() bool { return member.tell("state") == "answering" && answers() })
	if member.stats().Declined == 0 {
		t.Error("not counted")
	}
}

// TestHealth follows a service that comes, goes and comes again.
func TestHealth(t *testing.T) {
	client, server := newPair(t)
	listen := func() (l net.Listener) {
		var err error
		server.on(func() { l, err = net.Listen("tcp", "[2001:db8:12::2]:7000") })
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	member := server.serve(setup{Anycast: []netip.Addr{aa6}, Unicast: []netip.Addr{ua6}, CheckPort: 7000, Interval: 20 * time.Millisecond})
	if state := member.tell("state"); state != "unhealthy" {
		t.Errorf("before the first check: %s", state)
	}
	service := listen()
	eventually(t, "healthy", func() bool { return member.tell("state") == "answering" })
	if _, err := client.prober(ProberConfig{}).Probe(within(t), aa6); err != nil {
		t.Error(err)
	}
	_ = service.Close()
	eventually(t, "unhealthy", func() bool { return member.tell("state") == "unhealthy" })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if found, err := client.prober(ProberConfig{}).Probe(ctx, aa6); err == nil {
		t.Errorf("an unhealthy member answered: %+v", found)
	}
	service = listen()
	defer func() { _ = service.Close() }()
	eventually(t, "healthy again", func() bool { return member.tell("state") == "answering" })
	if member.stats().ChecksFailed < fall {
		t.Errorf("%+v", member.stats())
	}
}

func TestRateLimit(t *testing.T) {
	client, server := newPair(t)
	s := levels[2].setup()
	s.Rate = 1
	member := server.serve(s)
	p := client.prober(ProberConfig{Rings: levels[2].rings()})
	if _, err := p.Probe(within(t), aa6); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	if found, err := p.Probe(ctx, aa6); err == nil {
		t.Errorf("the second one in a second: %+v", found)
	}
	if s := member.stats(); s.Limited == 0 || s.Answered != 1 {
		t.Errorf("%+v", s)
	}
	if _, err := p.Probe(within(t), aa4); err != nil { // another asker
		t.Error(err)
	}
	if _, err := p.Probe(within(t), aa6); err != nil { // a second later
		t.Error(err)
	}
}

// TestThousandsOfProbes: one socket serves them all.
func TestThousandsOfProbes(t *testing.T) {
	client, server := newPair(t)
	s := levels[1].setup()
	s.Rate = 1000000
	server.serve(s)
	p := client.prober(ProberConfig{Rings: levels[1].rings(), Lanes: 1})
	const n = 5000
	results := make(chan error, n)
	for range n {
		go func() {
			_, err := p.Probe(within(t), aa6)
			results <- err
		}()
	}
	for range n {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	if s := p.Stats(); s.Answers != n || len(s.Refused) != 0 {
		t.Errorf("%+v", s)
	}
	if len(p.questions) != 0 {
		t.Errorf("%d questions are kept", len(p.questions))
	}
}

// TestLanes: over two equal paths, a question that is repeated finds the member
// that is left. The kernel hashes ports, as routers do.
func TestLanes(t *testing.T) {
	client := newHost(t)
	client.sysctl("ipv4.fib_multipath_hash_policy", "1")
	var members []*process
	var hops string
	for i, name := range []string{"m0", "m1"} {
		server := newHost(t)
		gateway := []string{"192.0.2.129", "192.0.2.133"}[i]
		local := []string{"192.0.2.130", "192.0.2.134"}[i]
		server.connect("eth0", []string{local + "/30"}, client, name, []string{gateway + "/30"})
		server.address("lo", []string{"198.51.100.1/32"})
		server.ip("route add default via " + gateway)
		members = append(members, server.serve(setup{Anycast: []netip.Addr{aa4}}))
		hops += " nexthop via " + local
	}
	client.ip("addr add 192.0.2.2/32 dev lo", "route add 198.51.100.1 src 192.0.2.2"+hops)
	client.reaches(addr("192.0.2.130"), addr("192.0.2.134"))
	p := client.prober(ProberConfig{Lanes: 16})
	seen := map[netip.Addr]int{}
	for i := range 16 {
		found, err := p.ProbeLane(within(t), aa4, i, func(Found) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		seen[found.UA]++
	}
	if len(seen) != 2 {
		t.Fatalf("16 ports have led to %v", seen) // by chance once in 32,768
	}
	members[0].tell("drain")
	told := 0
	for lane := range 16 {
		found, err := p.ProbeLane(within(t), aa4, lane, func(f Found) bool {
			if f.Draining {
				told++
			}
			return true
		})
		if err != nil || found.UA != addr("192.0.2.134") || found.Draining {
			t.Errorf("with one member draining: %+v, %v", found, err)
		}
	}
	if told == 0 {
		t.Error("the member that drains has not said so")
	}
}

func TestNoKeyInMessages(t *testing.T) {
	if s := goldenPSK.String(); strings.Contains(s, goldenPSK.Secret) {
		t.Error(s)
	}
	if _, err := OpenProber(ProberConfig{Rings: []Keyring{{Prefix: netip.PrefixFrom(aa6, 64), PSKs: []PSK{{"k", "short"}}}}}); !errors.Is(err, ErrKey) || strings.Contains(err.Error(), "short") {
		t.Errorf("%v", err)
	}
	if _, err := OpenProber(ProberConfig{Rings: []Keyring{{Prefix: netip.PrefixFrom(aa6, 64), Public: []ed25519.PublicKey{{1}}}}}); !errors.Is(err, ErrKey) {
		t.Errorf("%v", err)
	}
}

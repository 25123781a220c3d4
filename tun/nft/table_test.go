package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	prefix6  = netip.MustParsePrefix("2001:db8:aa::/64")
	prefix4  = netip.MustParsePrefix("198.51.100.0/24")
	aa6, aa4 = netip.MustParseAddr("2001:db8:aa::1"), netip.MustParseAddr("198.51.100.1")
	ua6, ua4 = netip.MustParseAddr("2001:db8:11::2"), netip.MustParseAddr("192.0.2.2")
	other6   = netip.MustParseAddr("2001:db8:12::2")
)

func testConfig() Config {
	return Config{Prefixes: []netip.Prefix{prefix6, prefix4}, Mark: 0xaa}
}

func mustOpen(t testing.TB, c Config) *Table {
	t.Helper()
	table, err := Open(c)
	if errors.Is(err, ErrUnsupported) {
		skip(t, err.Error())
	}
	must(t, err)
	t.Cleanup(func() { must(t, table.Close()) })
	return table
}

func pin(aa, ua netip.Addr, ttl time.Duration) Pin {
	return Pin{Anycast: aa, Member: ua, Expires: time.Now().Add(ttl)}
}

// elements are those of a map as nft(8) shows them, without times.
func elements(t *testing.T, name string) string {
	t.Helper()
	text := run(t, "nft", "list", "map", "inet", Name, name)
	_, after, found := strings.Cut(text, "elements = { ")
	if !found {
		return ""
	}
	list, _, _ := strings.Cut(after, " }")
	list = left.ReplaceAllString(list, "")
	fields := strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
	for i, f := range fields {
		fields[i] = strings.Join(strings.Fields(f), " ")
	}
	slices.Sort(fields)
	return strings.Join(fields, ", ")
}

func expect(t *testing.T, name, want string) {
	t.Helper()
	if got := elements(t, name); got != want {
		t.Errorf("map %s holds %q, want %q", name, got, want)
	}
}

func TestTableIsWhatTheDocSays(t *testing.T) {
	isolate(t)
	c := testConfig()
	c.Masquerade = true
	mustOpen(t, c)
	golden(t, "ruleset.nft", ruleset(t))
}

// handles are the objects with the time-outs, each with the number by which the
// kernel tells it from another of the same name.
func handles(t *testing.T) string {
	t.Helper()
	var all []string
	for line := range strings.Lines(run(t, "nft", "-a", "list", "ruleset")) {
		if strings.Contains(line, "ct timeout ") && strings.Contains(line, "{ # handle") {
			all = append(all, line)
		}
	}
	slices.Sort(all)
	return strings.Join(all, "")
}

func TestOpenAdopts(t *testing.T) {
	isolate(t)
	c := testConfig()
	c.Masquerade = true
	dead := mustOpen(t, c)
	must(t, dead.Set([]Pin{pin(aa6, ua6, time.Minute)}))
	before := handles(t)
	if strings.Count(before, "\n") != 14 {
		t.Fatalf("the objects with the time-outs are\n%s", before)
	}
	c.Masquerade, c.Key = false, BySource
	table := mustOpen(t, c)
	golden(t, "ruleset-source.nft", ruleset(t)) // nothing of the other's is left
	if after := handles(t); after != before {
		t.Errorf("the objects with the time-outs are others, so living flows have lost theirs\n--- before\n%s--- after\n%s", before, after)
	}
	p := pin(aa6, ua6, time.Minute)
	p.Client = other6
	must(t, table.Set([]Pin{p}))
	expect(t, "pins6", fmt.Sprintf("%v . %v : %v", other6, aa6, ua6))
}

func TestOpenAdoptsAnOlderLayout(t *testing.T) {
	isolate(t)
	mustOpen(t, testConfig())
	before := handles(t)
	run(t, "nft", "delete chain inet aarptun prerouting; delete chain inet aarptun syn-prerouting; delete chain inet aarptun lost-postrouting; flush chain inet aarptun pin6; flush chain inet aarptun pin4")
	c := testConfig()
	c.Masquerade = true
	if table := mustOpen(t, c); !table.Adopted() {
		t.Error("it has adopted nothing")
	}
	golden(t, "ruleset.nft", ruleset(t))
	if after := handles(t); after != before {
		t.Errorf("the objects with the time-outs are others, so living flows have lost theirs\n--- before\n%s--- after\n%s", before, after)
	}
}

func TestSetPrefixes(t *testing.T) {
	isolate(t)
	c := testConfig()
	c.Prefixes = c.Prefixes[:1] // of IPv6 alone
	table := mustOpen(t, c)
	must(t, table.SetPrefixes([]netip.Prefix{prefix4, netip.MustParsePrefix("2001:db8:cc::/48")}))
	stored, err := table.storedSpans()
	must(t, err)
	slices.SortFunc(stored, func(a, b span) int { return a.first.Compare(b.first) })
	if !slices.Equal(stored, table.spans) || len(stored) != 2 {
		t.Errorf("the table says %v, want %v", stored, table.spans)
	}
	must(t, table.Set([]Pin{pin(aa6, ua6, time.Minute), pin(aa4, ua4, time.Minute)}))
	expect(t, "pins6", "") // leads here no more
	expect(t, "pins4", fmt.Sprintf("%v : %v", aa4, ua4))
	if !within(table.ever, aa6) {
		t.Error("the flows to a prefix that was taken away would not be found")
	}
}

func TestReleaseLeavesTheTableWithoutPins(t *testing.T) {
	isolate(t)
	table := mustOpen(t, testConfig())
	must(t, table.Set([]Pin{pin(aa6, ua6, time.Minute)}))
	must(t, table.Release())
	expect(t, "pins6", "")
	must(t, table.Set([]Pin{pin(aa6, ua6, time.Minute)})) // is of no effect
	expect(t, "pins6", "")
	if _, err := Remove(false); err != nil {
		t.Fatal(err)
	}
	if got := ruleset(t); got != "" {
		t.Errorf("left is\n%s", got)
	}
}

func TestTableByOtherKeys(t *testing.T) {
	for name, key := range map[string]Key{"source": BySource, "turn": ByTurn} {
		t.Run(name, func(t *testing.T) {
			isolate(t)
			c := testConfig()
			c.Key = key
			mustOpen(t, c)
			golden(t, "pin-"+name+".nft", run(t, "nft", "list", "chain", "inet", Name, "pin6")+run(t, "nft", "list", "chain", "inet", Name, "pin4"))
		})
	}
}

func TestSetHoldsWhatIsPinned(t *testing.T) {
	isolate(t)
	table := mustOpen(t, testConfig())
	outside := netip.MustParseAddr("2001:db8:bb::1")
	must(t, table.Set([]Pin{
		pin(aa6, ua6, time.Minute), pin(aa4, ua4, time.Minute),
		pin(outside, ua6, time.Minute),           // no AA of ours
		pin(aa6.Next(), ua6, -time.Second),       // has expired
		pin(aa4.Next(), aa4.Next(), time.Minute), // answers from itself
	}))
	expect(t, "pins6", fmt.Sprintf("%v : %v", aa6, ua6))
	expect(t, "pins4", fmt.Sprintf("%v : %v", aa4, ua4))
	if got := table.Stats().Pins; got != 2 {
		t.Errorf("%d pins, want 2", got)
	}

	// Another member takes its place, and one goes.
	must(t, table.Set([]Pin{pin(aa6, other6, time.Minute)}))
	expect(t, "pins6", fmt.Sprintf("%v : %v", aa6, other6))
	expect(t, "pins4", "")
	if s := table.Stats(); s.Rebuilds+s.Failures != 0 {
		t.Errorf("it took rebuilds or failed: %+v", s)
	}
}

func TestElementsEndWithTheirPins(t *testing.T) {
	isolate(t)
	table := mustOpen(t, testConfig())
	must(t, table.Set([]Pin{pin(aa6, ua6, 100*time.Millisecond)}))
	for until := time.Now().Add(5 * time.Second); elements(t, "pins6") != ""; {
		if time.Now().After(until) {
			t.Fatal("the pin is over, and the kernel still holds it")
		}
		time.Sleep(10 * time.Millisecond)
	}
	// That it is gone is no obstacle to its renewal.
	must(t, table.Set([]Pin{pin(aa6, ua6, time.Minute)}))
	expect(t, "pins6", fmt.Sprintf("%v : %v", aa6, ua6))
}

func TestSetMendsWhatOthersChanged(t *testing.T) {
	isolate(t)
	table := mustOpen(t, testConfig())
	must(t, table.Set([]Pin{pin(aa6, ua6, time.Minute)}))
	run(t, "nft", "flush", "map", "inet", Name, "pins6")
	must(t, table.Set([]Pin{pin(aa6, other6, time.Minute)}))
	expect(t, "pins6", fmt.Sprintf("%v : %v", aa6, other6))

	run(t, "nft", "flush", "ruleset")
	select {
	case <-table.Removed():
	case <-time.After(10 * time.Second):
		t.Error("the kernel has not said that the table is removed")
	}
	gone, err := table.Check()
	must(t, err)
	if !gone {
		t.Error("the table was gone, and Check saw nothing")
	}
	must(t, table.Set([]Pin{pin(aa6, ua6, time.Minute)}))
	expect(t, "pins6", fmt.Sprintf("%v : %v", aa6, ua6))
	if gone, err := table.Check(); gone || err != nil {
		t.Errorf("Check: %v, %v: the table is there", gone, err)
	}
	// And without anybody looking.
	run(t, "nft", "flush", "ruleset")
	must(t, table.Set([]Pin{pin(aa6, other6, time.Minute)}))
	expect(t, "pins6", fmt.Sprintf("%v : %v", aa6, other6))
}

func TestSetOfManyPins(t *testing.T) {
	isolate(t)
	c := testConfig()
	c.Key = BySource
	table := mustOpen(t, c)
	var pins []Pin
	client := netip.MustParseAddr("2001:db8:c::")
	for range 3000 {
		client = client.Next()
		p := pin(aa6, ua6, time.Minute)
		p.Client = client
		pins = append(pins, p)
	}
	must(t, table.Set(pins))
	if got := strings.Count(elements(t, "pins6"), " : "); got != len(pins) {
		t.Errorf("%d elements, want %d", got, len(pins))
	}
	for i := range pins {
		pins[i].Member = other6
	}
	must(t, table.Set(pins[:2000]))
	if got := strings.Count(elements(t, "pins6"), " : "+other6.String()); got != 2000 {
		t.Errorf("%d elements lead to the other member, want 2000", got)
	}
	if s := table.Stats(); s.Rebuilds+s.Failures != 0 {
		t.Errorf("it took rebuilds or failed: %+v", s)
	}
}

func TestMembersTakeTurns(t *testing.T) {
	isolate(t)
	c := testConfig()
	c.Key = ByTurn
	table := mustOpen(t, c)
	third := other6.Next()
	must(t, table.Set([]Pin{pin(aa6, ua6, time.Minute), pin(aa6, other6, time.Minute), pin(aa6, third, time.Minute)}))
	text := elements(t, "pins6")
	for _, member := range []netip.Addr{ua6, other6, third} {
		if n := strings.Count(text, ": "+member.String()); n < turns/3 || n > turns/3+1 {
			t.Errorf("member %v has %d of %d turns", member, n, turns)
		}
	}
}

// others is a rule set of somebody else, with all sorts of things in it.
const others = `
table inet filter {
	set aarptun { type ipv6_addr; flags timeout; elements = { 2001:db8::1 timeout 1d } }
	chain output { type filter hook output priority filter; policy accept; ip6 daddr @aarptun counter drop; }
}
table ip nat {
	map ports { type inet_service : ipv4_addr; elements = { 80 : 192.0.2.80 } }
	chain output { type nat hook output priority -100; policy accept; ip daddr 203.0.113.1 dnat to tcp dport map @ports; }
}
table ip6 aarptun {
	chain output { type nat hook output priority -100; policy accept; }
}
table inet aarptun-aarptun0 {
	chain returns { type filter hook prerouting priority mangle; policy accept; }
}
`

func TestNothingElseIsTouched(t *testing.T) {
	isolate(t)
	run(t, "sh", "-c", "echo '"+others+"' | nft -f -")
	before := run(t, "nft", "-s", "-a", "-j", "list", "ruleset")
	before = left.ReplaceAllString(before, "")
	table := mustOpen(t, testConfig())
	must(t, table.Set([]Pin{pin(aa6, ua6, time.Minute), pin(aa4, ua4, time.Minute)}))
	must(t, table.Close())
	unchanged := func(when string) {
		t.Helper()
		if after := left.ReplaceAllString(run(t, "nft", "-s", "-a", "-j", "list", "ruleset"), ""); withoutTimes(after) != withoutTimes(before) {
			t.Errorf("%s: the rule set of others has changed\n--- before\n%s--- after\n%s", when, before, after)
		}
	}
	unchanged("Close")

	dead := mustOpen(t, testConfig())
	must(t, dead.Set([]Pin{pin(aa6, ua6, time.Minute)}))
	removed, err := Remove(false)
	must(t, err)
	if !slices.Equal(removed, []string{"nft table inet aarptun"}) {
		t.Errorf("removed %q", removed)
	}
	unchanged("Remove")
	if removed, err := Remove(false); err != nil || len(removed) > 0 {
		t.Errorf("a second Remove: %q, %v", removed, err)
	}
}

// withoutTimes leaves out when an element expires.
func withoutTimes(text string) string { return jsonLeft.ReplaceAllString(text, "") }

func TestRemoveDryRemovesNothing(t *testing.T) {
	isolate(t)
	mustOpen(t, testConfig())
	before := ruleset(t)
	removed, err := Remove(true)
	must(t, err)
	if len(removed) != 1 {
		t.Errorf("it would remove %q", removed)
	}
	if after := ruleset(t); after != before {
		t.Errorf("a dry run has changed\n%s\nto\n%s", before, after)
	}
}

func TestSpans(t *testing.T) {
	prefixes := []netip.Prefix{prefix6, netip.MustParsePrefix("2001:db8:aa::/80"), netip.MustParsePrefix("2001:db8:aa:1::/64"), prefix4, netip.MustParsePrefix("198.51.101.7/32")}
	spans := spansOf(prefixes)
	var got []string
	for _, s := range spans {
		got = append(got, s.first.String()+" to "+s.end.String())
	}
	if want := []string{"198.51.100.0 to 198.51.101.0", "198.51.101.7 to 198.51.101.8", "2001:db8:aa:: to 2001:db8:aa:2::"}; !slices.Equal(got, want) {
		t.Errorf("spans are %q, want %q", got, want)
	}
	for a, want := range map[string]bool{
		"2001:db8:aa::": true, "2001:db8:aa:1:ffff:ffff:ffff:ffff": true, "2001:db8:aa:2::": false, "2001:db8:a9:ffff:ffff:ffff:ffff:ffff": false,
		"198.51.100.255": true, "198.51.101.0": false, "198.51.101.7": true, "198.51.101.8": false, "::ffff:198.51.100.1": false,
	} {
		if within(spans, netip.MustParseAddr(a)) != want {
			t.Errorf("within(%s) is %v", a, !want)
		}
	}
}

func TestSpansAreReadFromTheTable(t *testing.T) {
	isolate(t)
	c := testConfig()
	c.Prefixes = append(c.Prefixes, netip.MustParsePrefix("2001:db8:cc::/48"), netip.MustParsePrefix("198.51.101.7/32"))
	table := mustOpen(t, c)
	stored, err := table.storedSpans()
	must(t, err)
	slices.SortFunc(stored, func(a, b span) int { return a.first.Compare(b.first) })
	if !slices.Equal(stored, table.spans) {
		t.Errorf("the table says %v, want %v", stored, table.spans)
	}
}

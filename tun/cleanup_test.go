package tun

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// foreignRules are like ours in all but one thing.
var foreignRules = []string{
	"fwmark 0xaa lookup 180 priority 17000 protocol 170",                                // not inverted
	"not fwmark 0xaa lookup 181 priority 17000 protocol 99",                             // another's protocol
	"not fwmark 0xaa lookup 182 priority 17000",                                         // ip(8)'s own
	"not fwmark 0xaa/0xff lookup 183 priority 17000 protocol 170",                       // a part of a mark
	"not from all lookup 184 priority 17000 protocol 170",                               // no mark
	"not from %s fwmark 0xaa lookup 185 priority 17000 protocol 170",                    // and a source
	"not from all to %s fwmark 0xaa lookup 186 priority 17000 protocol 170",             // and a destination
	"not from all iif lo fwmark 0xaa lookup 187 priority 17000 protocol 170",            // and a device
	"not from all oif lo fwmark 0xaa lookup 188 priority 17000 protocol 170",            //
	"not fwmark 0xaa ipproto tcp dport 80 lookup 189 priority 17000 protocol 170",       // and a port
	"not fwmark 0xaa uidrange 0-0 lookup 190 priority 17000 protocol 170",               // and a user
	"not tos 0x10 fwmark 0xaa lookup 191 priority 17000 protocol 170",                   // and a class
	"not fwmark 0xaa lookup 192 suppress_prefixlength 0 priority 17000 protocol 170",    // and a condition
	"not fwmark 0xaa blackhole priority 17001 protocol 170",                             // leads nowhere
	"not fwmark 0xaa goto 17100 priority 17002 protocol 170",                            //
	"not fwmark 0xaa l3mdev priority 17003 protocol 170",                                // leads into a VRF
	"not from %s fwmark 0xaa lookup 170 priority 17000 protocol 170",                    // ours, and a source
	"not fwmark 0xaa lookup 170 suppress_prefixlength 0 priority 17000 protocol 170",    // ours, and a condition
	"not fwmark 0xaa ipproto udp sport 53 lookup 170 priority 17000 protocol 170",       // ours, and a port
	"not from all to %s iif lo fwmark 0xaa lookup 170 priority 17000 protocol 170",      //
	"not fwmark 0xaa lookup 199 priority 17000 protocol 170",                            // its table is in use
	"fwmark 0xaa lookup 170 suppress_prefixlength 1 iif lo priority 17000 protocol 170", //
}

// addForeign sets all of them for both families.
func addForeign(t *testing.T) {
	t.Helper()
	for family, prefix := range map[string]string{"-6": "2001:db8:5::/48", "-4": "192.0.2.0/24"} {
		ip(t, family, "route", "add", prefix, "dev", "lo", "table", "199")
		for _, rule := range foreignRules {
			rule = strings.ReplaceAll(rule, "%s", prefix)
			ip(t, append([]string{family, "rule", "add"}, strings.Fields(rule)...)...)
		}
	}
}

func addOurs(t *testing.T) {
	t.Helper()
	for _, family := range []string{"-6", "-4"} {
		ip(t, family, "rule", "add", "not", "fwmark", "0xaa", "lookup", "170", "priority", "17000", "protocol", "170")
	}
}

// withoutOurs is the state without the lines of our rules.
func withoutOurs(state string) string {
	return strings.ReplaceAll(state, "17000:\tnot from all fwmark 0xaa lookup 170 proto 170\n", "")
}

func TestCleanupNeverTouchesOthersRules(t *testing.T) {
	for _, journal := range []bool{false, true} {
		t.Run(fmt.Sprintf("journal %v", journal), func(t *testing.T) {
			isolate(t)
			dir := t.TempDir()
			addOurs(t)
			addForeign(t)
			before := networkState(t)
			want := []string{rule6, rule4}
			if journal {
				path := testJournal(t, dir, testDevice)
				text := `{"version":1,"pid":1,"device":"aarptun0","rules":[{"family":10,"table":170,"priority":17000,"mark":170},{"family":2,"table":170,"priority":17000,"mark":170}]}`
				must(t, os.WriteFile(path, []byte(text), journalMode))
				want = append(want, "journal "+path)
			}
			check(t, "would remove", mustCleanUp(t, dir, true).Removed, want...)
			unchanged(t, before)
			check(t, "removed", mustCleanUp(t, dir, false).Removed, want...)
			if n := strings.Count(before, "not from all fwmark 0xaa lookup 170 proto 170\n"); n != 2 {
				t.Fatalf("%d rules of ours were set:\n%s", n, before)
			}
			unchanged(t, withoutOurs(before))
		})
	}
}

// twin is a rule that the kernel takes for ours when it is asked to delete ours.
const twin = "rule add not from 192.0.2.0/24 fwmark 0xaa lookup 170 priority 17000 protocol 170"

// A rule that leads to no table does not lead to an empty one.
func TestCleanupLeavesRulesWithoutATable(t *testing.T) {
	isolate(t)
	ip(t, "addr", "flush", "dev", "lo")
	ip(t, "link", "set", "lo", "down") // now there is no route in any table
	ip(t, "-6", "rule", "add", "not", "fwmark", "0xaa", "blackhole", "priority", "17001", "protocol", "170")
	ip(t, "-4", "rule", "add", "not", "fwmark", "0xaa", "l3mdev", "priority", "17003", "protocol", "170")
	before := networkState(t)
	check(t, "removed", mustCleanUp(t, t.TempDir(), false).Removed)
	unchanged(t, before)
}

func TestCleanupLeavesATwinAlone(t *testing.T) {
	isolate(t)
	ip(t, strings.Fields(twin)...)
	before := networkState(t)
	check(t, "removed", mustCleanUp(t, t.TempDir(), false).Removed)
	unchanged(t, before)
}

// Where a twin stands before ours, the kernel would delete it in ours' stead.
func TestCleanupIsStoppedByATwin(t *testing.T) {
	isolate(t)
	dir := t.TempDir()
	ip(t, strings.Fields(twin)...)
	addBeside(t, ruleSpec{Family: netlink.FAMILY_V4, Table: 170, Priority: 17000, Mark: 0xaa})
	before := networkState(t)
	if i, j := strings.Index(before, "not from 192.0.2.0/24"), strings.Index(before, "not from all"); i < 0 || j < i {
		t.Fatalf("the twin is not before ours:\n%s", before)
	}
	r, err := Cleanup(dir, false)
	if !errors.Is(err, ErrConfig) || !strings.Contains(fmt.Sprint(err), rule4) {
		t.Errorf("Cleanup: %v, want %v about %q", err, ErrConfig, rule4)
	}
	check(t, "removed", r.Removed)
	// Nor does a start lose the journal that tells of it.
	path := testJournal(t, dir, testDevice)
	content(recordText(t, testRecord))(t, path)
	refused(t, testConfig(dir), ErrConfig, rule4)
	unchanged(t, before)
	ip(t, strings.Fields(strings.Replace(twin, "add", "del", 1))...)
	check(t, "removed without it", mustCleanUp(t, dir, false).Removed, rule4, "journal "+path)
}

// addBeside sets a rule as ip(8) does not: without NLM_F_EXCL, so that the
// kernel does not mind what is there.
func addBeside(t *testing.T, s ruleSpec) {
	t.Helper()
	request := nl.NewNetlinkRequest(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_ACK)
	message := nl.NewRtMsg()
	message.Family, message.Table, message.Flags = uint8(s.Family), uint8(s.Table), netlink.FibRuleInvert
	request.AddData(message)
	for attribute, value := range map[int]uint32{nl.FRA_PRIORITY: uint32(s.Priority), nl.FRA_FWMARK: s.Mark, nl.FRA_FWMASK: fullMask} {
		request.AddData(nl.NewRtAttr(attribute, nl.Uint32Attr(value)))
	}
	request.AddData(nl.NewRtAttr(nl.FRA_PROTOCOL, nl.Uint8Attr(protocol)))
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	must(t, err)
}

func TestCleanupRemovesEveryCopy(t *testing.T) {
	isolate(t)
	before := networkState(t)
	for range 3 {
		addBeside(t, ruleSpec{Family: netlink.FAMILY_V6, Table: 170, Priority: 17000, Mark: 0xaa})
	}
	if n := strings.Count(networkState(t), "lookup 170"); n != 3 {
		t.Fatalf("%d copies were set", n)
	}
	check(t, "removed", mustCleanUp(t, t.TempDir(), false).Removed, rule6)
	unchanged(t, before)
}

func TestOpenNeverTouchesOthersRules(t *testing.T) {
	isolateTUN(t)
	addForeign(t)
	// Those that lead to table 170 keep us from it; they are in the other test.
	for _, family := range []string{"-6", "-4"} {
		for range strings.Count(strings.Join(foreignRules, "\n"), "lookup 170 ") {
			ip(t, family, "rule", "del", "lookup", "170")
		}
	}
	before := networkState(t)
	h, err := Open(testConfig(t.TempDir()))
	must(t, err)
	must(t, h.AddRoutes())
	must(t, h.AddRoutes())
	must(t, h.RemoveRoutes())
	must(t, h.Close())
	unchanged(t, before)
}

// Rules that came while we ran, and are like ours but for one thing, stay.
func TestCloseNeverTouchesOthersRules(t *testing.T) {
	isolateTUN(t)
	h := mustOpen(t, testConfig(t.TempDir()))
	before := networkState(t)
	must(t, h.AddRoutes())
	addForeign(t)
	must(t, h.RemoveRoutes())
	after := networkState(t)
	for _, rule := range foreignRules {
		for _, family := range []string{"-6", "-4"} {
			rule := strings.NewReplacer("%s", map[string]string{"-6": "2001:db8:5::/48", "-4": "192.0.2.0/24"}[family]).Replace(rule)
			ip(t, append([]string{family, "rule", "del"}, strings.Fields(rule)...)...)
		}
	}
	ip(t, "-6", "route", "flush", "table", "199")
	ip(t, "-4", "route", "flush", "table", "199")
	unchanged(t, before)
	if strings.Contains(after, "not from all fwmark 0xaa lookup 170 proto 170\n") {
		t.Errorf("our rule is still there:\n%s", after)
	}
}

func TestCleanupSweepsRulesWithoutAJournal(t *testing.T) {
	for _, dir := range []string{"empty", "missing"} {
		t.Run(dir, func(t *testing.T) {
			isolate(t)
			path := t.TempDir()
			if dir == "missing" {
				path = filepath.Join(path, dir)
			}
			before := networkState(t)
			addOurs(t)
			ip(t, "-6", "rule", "add", "not", "fwmark", "0x80000000", "lookup", "70000", "priority", "1", "protocol", "170")
			left := networkState(t)
			want := []string{strings.NewReplacer("0xaa", "0x80000000", " 170 ", " 70000 ", "17000", "1").Replace(rule6), rule6, rule4}
			check(t, "would remove", mustCleanUp(t, path, true).Removed, want...)
			unchanged(t, left)
			check(t, "removed", mustCleanUp(t, path, false).Removed, want...)
			unchanged(t, before)
			if _, err := os.Stat(path); (err == nil) != (dir == "empty") {
				t.Errorf("the directory was %s: %v", dir, err)
			}
		})
	}
}

// A run in another namespace may be alive or dead: from here it is not to be
// told, and its rules are not here.
func TestCleanupLeavesOtherNamespacesAlone(t *testing.T) {
	isolateTUN(t)
	dir := t.TempDir()
	startChild(t, steps[len(steps)-2], dir, testDevice).kill(t)
	before, name := networkState(t), filesIn(t, dir)
	journal, err := os.ReadFile(filepath.Join(dir, name[0]))
	must(t, err)
	namespace, err := namespaceID()
	must(t, err)
	from(t, func() error {
		r, err := Cleanup(dir, false)
		check(t, "removed", r.Removed)
		check(t, "elsewhere", r.Other, fmt.Sprintf("%s in network namespace %d", testDevice, namespace))
		return err
	})
	unchanged(t, before)
	if now, err := os.ReadFile(filepath.Join(dir, name[0])); err != nil || string(now) != string(journal) {
		t.Errorf("the journal is now %q (%v), was %q", now, err, journal)
	}
	// Both may have the same name and table.
	from(t, func() error {
		h, err := Open(testConfig(dir))
		if err != nil {
			return err
		}
		check(t, "alive", mustCleanUp(t, dir, false).Live, testDevice)
		return h.Close()
	})
	unchanged(t, before)
}

package nft

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const testPort = 7000

// hosts makes the namespace one in which the members live too: the anycast
// addresses are nobody's, and what is sent to them is lost.
func hosts(t *testing.T) {
	t.Helper()
	isolate(t)
	for _, a := range []netip.Addr{ua6, other6} {
		run(t, "ip", "addr", "add", a.String(), "dev", "lo", "nodad")
	}
	run(t, "ip", "addr", "add", ua4.String(), "dev", "lo")
	run(t, "ip", "route", "add", prefix6.String(), "dev", "lo", "src", ua6.String())
	run(t, "ip", "route", "add", prefix4.String(), "dev", "lo", "src", ua4.String())
}

// open opens a flow from the client to AA, and reports whether it has reached a
// member.
func open(t *testing.T, client, aa, ua netip.Addr) bool {
	t.Helper()
	member, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(ua, testPort)))
	must(t, err)
	defer member.Close()
	dialer := net.Dialer{Timeout: 500 * time.Millisecond, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(client, 0))}
	conn, err := dialer.Dial("tcp", netip.AddrPortFrom(aa, testPort).String())
	if err != nil {
		return false
	}
	must(t, conn.Close())
	return true
}

// used is what the table says, without times.
func used(t *testing.T, table *Table) []Use {
	t.Helper()
	uses, err := table.Used()
	must(t, err)
	for i := range uses {
		uses[i].Last = time.Time{}
	}
	slices.SortFunc(uses, func(a, b Use) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return uses
}

func TestUseIsNoted(t *testing.T) {
	for name, key := range map[string]Key{"anycast": ByAnycast, "source": BySource, "turn": ByTurn} {
		t.Run(name, func(t *testing.T) {
			hosts(t)
			c := testConfig()
			c.Key = key
			table := mustOpen(t, c)
			idle := pin(aa6.Next(), ua6, time.Minute)
			p6, p4 := pin(aa6, ua6, time.Minute), pin(aa4, ua4, time.Minute)
			idle.Client, p6.Client, p4.Client = other6, other6, ua4
			must(t, table.Set([]Pin{idle, p6, p4}))
			if got := used(t, table); len(got) > 0 {
				t.Fatalf("used are %v, and there was no flow", got)
			}
			if open(t, other6, aa6.Next().Next(), ua6) {
				t.Fatal("a flow to an address that is not pinned has reached a member")
			}
			if got := used(t, table); len(got) > 0 {
				t.Fatalf("used are %v, and no pin was found", got)
			}
			for range 2 {
				if !open(t, other6, aa6, ua6) || !open(t, ua4, aa4, ua4) {
					t.Fatal("a flow to a pinned address has reached nobody")
				}
			}
			want := []Use{{Anycast: aa4}, {Anycast: aa6}}
			if got := used(t, table); !slices.Equal(got, want) {
				t.Errorf("used are %v, want %v", got, want)
			}
			if text := ruleset(t); !strings.Contains(text, "set used6") { // nft(8) can still show it
				t.Errorf("the rule set is\n%s", text)
			}
		})
	}
}

func TestUseSaysWhen(t *testing.T) {
	hosts(t)
	table := mustOpen(t, testConfig())
	must(t, table.Set([]Pin{pin(aa6, ua6, time.Minute)}))
	const off = 20 * time.Millisecond // the kernel counts in jiffies
	for range 2 {
		before := time.Now()
		if !open(t, ua6, aa6, ua6) {
			t.Fatal("the flow has reached nobody")
		}
		after := time.Now()
		time.Sleep(100 * time.Millisecond)
		uses, err := table.Used()
		must(t, err)
		if len(uses) != 1 || uses[0].Last.Before(before.Add(-off)) || uses[0].Last.After(after.Add(off)) {
			t.Errorf("used are %v; it was from %v to %v", uses, before, after)
		}
	}
	if n := table.Stats().Looks; n != 2 {
		t.Errorf("%d looks, want 2", n)
	}
}

func TestUseIsForgotten(t *testing.T) {
	hosts(t)
	table := mustOpen(t, testConfig())
	must(t, table.Set([]Pin{pin(aa6, ua6, time.Minute)}))
	run(t, "nft", "add", "element", "inet", Name, "used6", fmt.Sprintf("{ %v timeout 300ms }", aa6))
	if got := used(t, table); len(got) != 1 {
		t.Fatalf("used are %v", got)
	}
	for until := time.Now().Add(5 * time.Second); len(used(t, table)) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("its time is over, and it is still noted")
		}
	}
}

func TestUsesAreBounded(t *testing.T) {
	hosts(t)
	table := mustOpen(t, testConfig())
	must(t, table.Set([]Pin{pin(aa6, ua6, time.Minute)}))
	var text strings.Builder
	fmt.Fprintf(&text, "add element inet %s used6 {\n", Name)
	a := netip.MustParseAddr("2001:db8:c::")
	for range maxUsed {
		a = a.Next()
		fmt.Fprintf(&text, "%v,\n", a)
	}
	text.WriteString("}\n")
	full := filepath.Join(t.TempDir(), "full.nft")
	must(t, os.WriteFile(full, []byte(text.String()), 0o600))
	run(t, "nft", "-f", full)
	if !open(t, ua6, aa6, ua6) {
		t.Error("there is no room to note the use of a pin, and the flow has not reached the member")
	}
	if uses := used(t, table); len(uses) != maxUsed || slices.Contains(uses, Use{Anycast: aa6}) {
		t.Errorf("%d uses are noted, want %d", len(uses), maxUsed)
	}
}

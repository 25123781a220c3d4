package admin

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"aarptun/nat"
)

func someFlows() []nat.FlowInfo {
	start := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	flow := func(id int, proto nat.Proto, client, member string, active time.Duration, out, in uint64) nat.FlowInfo {
		f := nat.FlowInfo{
			ID: uint64(id), Proto: proto, Client: netip.MustParseAddrPort(client), Anycast: netip.MustParseAddrPort("[2001:db8:aa::1]:80"),
			State: nat.Established, Started: start.Add(time.Duration(id) * time.Second), Active: start.Add(active), Sent: out, Got: in,
		}
		if member != "" {
			f.Member = netip.MustParseAddr(member)
		} else {
			f.State = nat.Resolving
		}
		return f
	}
	return []nat.FlowInfo{
		flow(1, nat.TCP, "[2001:db8:1::3]:1000", "2001:db8:11::2", 30*time.Second, 5, 500),
		flow(2, nat.UDP, "[2001:db8:1::2]:2000", "2001:db8:12::2", 20*time.Second, 50, 50),
		flow(3, nat.TCP, "192.0.2.1:3000", "", 10*time.Second, 0, 0),
		flow(4, nat.Echo, "[2001:db8:1::2]:7", "2001:db8:11::2", 40*time.Second, 7, 70),
	}
}

func TestFlowsAreAskedFor(t *testing.T) {
	source := newFixed()
	path := filepath.Join(t.TempDir(), "admin.sock")
	source.flows = someFlows()
	serve(t, path, source)
	for want, q := range map[string]FlowQuery{
		"[1 2 3 4] of 0, 0": {},
		"[4 3 2 1] of 4, 4": {Sort: "id", Reverse: true},
		"[4 1] of 4, 4":     {Sort: "active", Limit: 2},
		"[2 4 1 3] of 4, 4": {Sort: "out"},
		"[1 4 2] of 4, 4":   {Sort: "in", Limit: 3},
		"[3 4 2 1] of 4, 4": {Sort: "client"},
		"[1] of 4, 1":       {Match: "1::3"},
		"[1 3] of 4, 2":     {Match: "tcp", Sort: "age"},
		"[3] of 4, 1":       {Match: "resolving"},
		"[1 2] of 4, 4":     {Limit: 2},
		"[] of 4, 0":        {Match: "nothing"},
		"[1 4 2 3] of 4, 4": {Sort: "member", Match: "2", Reverse: false, Limit: 9},
	} {
		source.flows = someFlows() // a list is asked for each time
		got, err := NewClient(path).FlowsBy(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		ids := []uint64{}
		for _, f := range got.Flows {
			ids = append(ids, f.ID)
		}
		if want == "[1 4 2 3] of 4, 4" {
			slices.Sort(ids) // the flow without a member is first: only that all are there counts
			want = "[1 2 3 4] of 4, 4"
		}
		if text := fmt.Sprintf("%v of %d, %d", ids, got.Total, got.Matched); text != want {
			t.Errorf("%+v: %s, want %s", q, text, want)
		}
	}
}

func TestEverySortIsOne(t *testing.T) {
	if len(FlowSorts()) != len(orders) {
		t.Errorf("%d are told of, and there are %d", len(FlowSorts()), len(orders))
	}
	for _, sort := range FlowSorts() {
		if q, err := parseQuery(FlowQuery{Sort: sort, Reverse: true, Limit: 3, Match: "x y&z"}.values()); err != nil || q != (FlowQuery{sort, true, 3, "x y&z"}) {
			t.Errorf("%s is read as %+v, %v", sort, q, err)
		}
	}
}

func TestWrongQueriesAreTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	serve(t, path, newFixed())
	client := NewClient(path)
	for query, want := range map[string]string{
		"sort=size": `sort "size": it must be one of id, age`, "limit=0": "at least 1", "limit=x": "whole number", "reverse=2": "true or false",
		"match=" + strings.Repeat("x", maxMatch+1): "may have 128", "sorted=id": `and is "sorted"`,
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseQuery(values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", query, err, want)
		}
		response, err := client.http.Get("http://aarptun/v1/flows?" + query)
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s", query, response.Status)
		}
		_ = response.Body.Close() // it is not read
	}
}

func TestMembersAreCounted(t *testing.T) {
	source := newFixed()
	path := filepath.Join(t.TempDir(), "admin.sock")
	m1, m2 := netip.MustParseAddr("2001:db8:11::2"), netip.MustParseAddr("2001:db8:12::2")
	source.flows = someFlows()
	source.pins = []Pin{
		{Anycast: netip.MustParseAddr("2001:db8:aa::1"), Member: m1, Method: "stun", RTT: 300},
		{Anycast: netip.MustParseAddr("2001:db8:aa::2"), Member: m1, Method: "icmp", RTT: 200},
		{Anycast: netip.MustParseAddr("198.51.100.1"), Member: netip.MustParseAddr("192.0.2.2"), Method: "static"},
	}
	serve(t, path, source)
	got, err := NewClient(path).Members(t.Context())
	want := []Member{
		{Member: m1, Flows: 2, Pins: 2, Method: "icmp", RTT: 200, Sent: 12, Got: 570},
		{Member: m2, Flows: 1, Sent: 50, Got: 50},
		{Member: netip.MustParseAddr("192.0.2.2"), Pins: 1, Method: "static"},
	}
	if err != nil || !slices.Equal(got.Members, want) {
		t.Errorf("%+v, %v", got.Members, err)
	}
}

// BenchmarkFifteenThousandFlows is what the daemon does for one look of top.
func BenchmarkFifteenThousandFlows(b *testing.B) {
	flows := make([]nat.FlowInfo, 15_000)
	for i := range flows {
		flows[i] = someFlows()[i%4]
		flows[i].ID, flows[i].Active = uint64(i), flows[i].Active.Add(time.Duration(i*7919%15_000)*time.Millisecond)
	}
	for name, q := range map[string]FlowQuery{"all": {}, "active1000": {Sort: "active", Limit: 1000}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w := discard{}
				answer(w, q.pick(slices.Clone(flows)))
			}
		})
	}
}

// discard is a client that takes all.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

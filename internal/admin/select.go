package admin

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"aarptun/nat"
)

// FlowQuery asks for some of the flows, so that who looks on need not read all of
// them each time. The zero value asks for all, oldest first.
type FlowQuery struct {
	// Sort is one of [FlowSorts]; "" is "id".
	Sort    string
	Reverse bool
	// Limit is how many there may be at most; 0 is all.
	Limit int
	// Match is a text that the flow must have in its transport, state or one of
	// its addresses; "" is any.
	Match string
}

// FlowSorts are the orders in which flows can be asked for: id and age have the
// oldest first, active the one that moved a byte last, out and in the one that
// carried most, the others are by name or address.
func FlowSorts() []string {
	return []string{"id", "age", "active", "out", "in", "proto", "client", "anycast", "member", "state"}
}

var orders = map[string]func(a, b *nat.FlowInfo) int{
	"id":      func(a, b *nat.FlowInfo) int { return cmp.Compare(a.ID, b.ID) },
	"age":     func(a, b *nat.FlowInfo) int { return a.Started.Compare(b.Started) },
	"active":  func(a, b *nat.FlowInfo) int { return b.Active.Compare(a.Active) },
	"out":     func(a, b *nat.FlowInfo) int { return cmp.Compare(b.Sent, a.Sent) },
	"in":      func(a, b *nat.FlowInfo) int { return cmp.Compare(b.Got, a.Got) },
	"proto":   func(a, b *nat.FlowInfo) int { return cmp.Compare(a.Proto, b.Proto) },
	"client":  func(a, b *nat.FlowInfo) int { return a.Client.Compare(b.Client) },
	"anycast": func(a, b *nat.FlowInfo) int { return a.Anycast.Compare(b.Anycast) },
	"member":  func(a, b *nat.FlowInfo) int { return a.Member.Compare(b.Member) },
	"state":   func(a, b *nat.FlowInfo) int { return cmp.Compare(a.State, b.State) },
}

// maxMatch bounds the text that is looked for in every flow.
const maxMatch = 128

// values is the query as it stands in a URL.
func (q FlowQuery) values() url.Values {
	v := url.Values{}
	if q.Sort != "" {
		v.Set("sort", q.Sort)
	}
	if q.Reverse {
		v.Set("reverse", "true")
	}
	if q.Limit != 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Match != "" {
		v.Set("match", q.Match)
	}
	return v
}

// parseQuery reads what values writes. Its error says what is wrong.
func parseQuery(v url.Values) (q FlowQuery, err error) {
	for name := range v {
		text := v.Get(name)
		switch name {
		case "sort":
			if q.Sort = text; orders[text] == nil {
				return q, fmt.Errorf("sort %q: it must be one of %s", text, strings.Join(FlowSorts(), ", "))
			}
		case "reverse":
			if q.Reverse, err = strconv.ParseBool(text); err != nil {
				return q, fmt.Errorf("reverse %q: it must be true or false", text)
			}
		case "limit":
			if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit < 1 {
				return q, fmt.Errorf("limit %q: it must be a whole number, at least 1", text)
			}
		case "match":
			if q.Match = text; len(text) > maxMatch {
				return q, fmt.Errorf("match: it has %d bytes, and may have %d", len(text), maxMatch)
			}
		default:
			return q, errors.New("it must be sort, reverse, limit or match, and is " + strconv.Quote(name))
		}
	}
	return q, nil
}

// pick returns the flows that are asked for.
func (q FlowQuery) pick(flows []nat.FlowInfo) Flows {
	if q == (FlowQuery{}) {
		return Flows{Flows: flows}
	}
	found := make([]*nat.FlowInfo, 0, len(flows)) // they are large to be moved about
	for i := range flows {
		if q.Match == "" || matches(flows[i], q.Match) {
			found = append(found, &flows[i])
		}
	}
	order := orders[cmp.Or(q.Sort, "id")]
	slices.SortFunc(found, func(a, b *nat.FlowInfo) int {
		if q.Reverse {
			a, b = b, a
		}
		return cmp.Or(order(a, b), cmp.Compare(a.ID, b.ID))
	})
	picked := Flows{Total: len(flows), Matched: len(found)}
	if q.Limit > 0 && len(found) > q.Limit {
		found = found[:q.Limit]
	}
	picked.Flows = make([]nat.FlowInfo, len(found))
	for i, f := range found {
		picked.Flows[i] = *f
	}
	return picked
}

func matches(f nat.FlowInfo, text string) bool {
	return strings.Contains(f.Proto.String(), text) || strings.Contains(f.State.String(), text) ||
		strings.Contains(f.Client.String(), text) || strings.Contains(f.Anycast.String(), text) || strings.Contains(f.Member.String(), text)
}

// members puts together what is known of each member, most flows first.
func members(flows []nat.FlowInfo, pins []Pin) Members {
	at := map[netip.Addr]*Member{}
	of := func(a netip.Addr) *Member {
		if at[a] == nil {
			at[a] = &Member{Member: a}
		}
		return at[a]
	}
	for _, f := range flows {
		if f.Member.IsValid() {
			m := of(f.Member)
			m.Flows++
			m.Sent += f.Sent
			m.Got += f.Got
		}
	}
	for _, p := range pins {
		m := of(p.Member)
		m.Pins++
		m.SelfAnswer = m.SelfAnswer || p.SelfAnswer
		if m.Method == "" || p.RTT > 0 && (m.RTT == 0 || p.RTT < m.RTT) {
			m.Method, m.RTT = p.Method, p.RTT
		}
	}
	all := Members{Members: []Member{}}
	for _, m := range at {
		all.Members = append(all.Members, *m)
	}
	slices.SortFunc(all.Members, func(a, b Member) int {
		return cmp.Or(cmp.Compare(b.Flows, a.Flows), a.Member.Compare(b.Member))
	})
	return all
}

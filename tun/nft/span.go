package nft

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
)

// span is a range of addresses, from first to the one before end. A set of
// intervals takes only such that do not touch.
type span struct{ first, end netip.Addr }

func (s span) contains(a netip.Addr) bool {
	return a.Is4() == s.first.Is4() && !a.Less(s.first) && a.Less(s.end)
}

// spansOf returns what the prefixes cover.
func spansOf(prefixes []netip.Prefix) []span {
	var all []span
	for _, p := range prefixes {
		all = append(all, span{p.Addr(), after(p)})
	}
	return merge(all)
}

// merge sorts spans, and makes one of those that touch.
func merge(all []span) []span {
	slices.SortFunc(all, func(a, b span) int { return a.first.Compare(b.first) })
	var spans []span
	for _, s := range all {
		if n := len(spans); n > 0 && spans[n-1].first.Is4() == s.first.Is4() && !spans[n-1].end.Less(s.first) {
			if spans[n-1].end.Less(s.end) {
				spans[n-1].end = s.end
			}
			continue
		}
		spans = append(spans, s)
	}
	return spans
}

// after is the first address behind a prefix. There is always one: the last
// addresses of either family are no anycast ones (RFC 4291, RFC 6890).
func after(p netip.Prefix) netip.Addr {
	last := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(last)
	return a.Next()
}

// elementsOf is the spans of one family as elements of a set of intervals.
func (h *half) elementsOf(spans []span) (elements []nftables.SetElement) {
	for _, s := range spans {
		if s.first.Is4() == h.v4 {
			elements = append(elements, nftables.SetElement{Key: s.first.AsSlice()}, nftables.SetElement{Key: s.end.AsSlice(), IntervalEnd: true})
		}
	}
	return elements
}

// spansFrom is its inverse.
func spansFrom(elements []nftables.SetElement) (spans []span) {
	slices.SortFunc(elements, func(a, b nftables.SetElement) int { return slices.Compare(a.Key, b.Key) })
	var first netip.Addr
	for _, e := range elements {
		a, ok := netip.AddrFromSlice(e.Key)
		switch {
		case !ok:
		case !e.IntervalEnd:
			first = a
		case first.IsValid():
			spans = append(spans, span{first, a})
			first = netip.Addr{}
		}
	}
	return spans
}

// within reports whether an address is in one of the spans.
func within(spans []span, a netip.Addr) bool {
	return slices.ContainsFunc(spans, func(s span) bool { return s.contains(a) })
}

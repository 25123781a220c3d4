package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
)

// Pin says that new flows to an AA go to a member.
type Pin struct {
	Client  netip.Addr // whose pin it is, with [BySource]
	Anycast netip.Addr
	Member  netip.Addr
	Expires time.Time
}

// element is what a map holds under one key.
type element struct {
	member  netip.Addr
	expires time.Time
}

const (
	// shortest is the least that a pin must have left to be worth an element.
	// The kernel counts in jiffies, and takes none of them for no end at all.
	shortest = 20 * time.Millisecond

	// inOne is how many elements are changed in one transaction, whose size the
	// socket bounds.
	inOne = 256
)

// Set has the maps hold these pins and no others. A pin that has expired, or
// whose member is AA itself, is none. What else differs from the last call is
// changed at once; what expires, the kernel removes by itself. When the kernel
// refuses a change, the maps are written anew, and the table too if it is gone.
func (t *Table) Set(pins []Pin) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.stopped {
		return nil
	}
	return t.set(pins)
}

func (t *Table) set(pins []Pin) error {
	now := time.Now()
	want := t.elements(pins, now)
	err := t.change(want, now)
	if err == nil {
		return nil
	}
	// An element that we knew of may have expired a moment ago.
	t.stats.Rebuilds++
	if err = t.rewrite(want); err == nil {
		return nil
	}
	t.stats.Failures++
	if err = t.make(); err == nil {
		err = t.change(want, time.Now())
	}
	if err != nil {
		t.stats.Failures++
		return fmt.Errorf("nft: tell the kernel of %d pins: %w", len(pins), err)
	}
	return nil
}

// elements is what the two maps are to hold.
func (t *Table) elements(pins []Pin, now time.Time) (want [2]map[string]element) {
	members := make(map[netip.Addr][]element)
	want[0], want[1] = make(map[string]element), make(map[string]element)
	for _, p := range pins {
		if p.Member == p.Anycast || p.Expires.Sub(now) < shortest || !within(t.spans, p.Anycast) || p.Member.Is4() != p.Anycast.Is4() {
			continue
		}
		e, half := element{p.Member, p.Expires}, want[indexOf(p.Anycast)]
		switch {
		case t.config.Key == ByAnycast:
			half[string(p.Anycast.AsSlice())] = e
		case t.config.Key == ByTurn:
			members[p.Anycast] = append(members[p.Anycast], e)
		case p.Client.Is4() == p.Anycast.Is4() && p.Client.IsValid():
			half[string(slices.Concat(p.Client.AsSlice(), p.Anycast.AsSlice()))] = e
		}
	}
	for aa, of := range members {
		slices.SortFunc(of, func(a, b element) int { return a.member.Compare(b.member) })
		for turn := range uint32(turns) {
			want[indexOf(aa)][string(append(aa.AsSlice(), binaryutil.NativeEndian.PutUint32(turn)...))] = of[int(turn)%len(of)]
		}
	}
	return want
}

func indexOf(a netip.Addr) int {
	if a.Is4() {
		return 1
	}
	return 0
}

// change makes the maps hold what is wanted, by what differs.
func (t *Table) change(want [2]map[string]element, now time.Time) error {
	for i, h := range t.half {
		var gone, added []string
		for key, e := range h.have {
			if w, ok := want[i][key]; ok && w == e {
				continue
			}
			if e.expires.After(now) {
				gone = append(gone, key)
			} else {
				delete(h.have, key)
			}
		}
		for key, w := range want[i] {
			if h.have[key] != w {
				added = append(added, key)
			}
		}
		if err := t.apply(h, gone, added, want[i]); err != nil {
			return err
		}
	}
	return nil
}

// apply removes and adds elements, in transactions of bounded size. A key that
// is in both is replaced in one.
func (t *Table) apply(h *half, gone, added []string, want map[string]element) error {
	replaced := make(map[string]bool, len(added))
	for _, key := range added {
		replaced[key] = true
	}
	held := make(map[string]bool, len(gone))
	for _, key := range gone {
		held[key] = true
	}
	// What only goes, goes first: nobody waits for a member that is not wanted.
	gone = slices.DeleteFunc(gone, func(key string) bool { return replaced[key] })
	for part := range slices.Chunk(gone, inOne) {
		if err := t.transact(h, part, nil, nil); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(added, inOne) {
		old := slices.DeleteFunc(slices.Clone(part), func(key string) bool { return !held[key] })
		if err := t.transact(h, old, part, want); err != nil {
			return err
		}
	}
	return nil
}

func (t *Table) transact(h *half, gone, added []string, want map[string]element) error {
	var errs []error
	if len(gone) > 0 {
		var elements []nftables.SetElement
		for _, key := range gone {
			elements = append(elements, nftables.SetElement{Key: []byte(key), Val: h.have[key].member.AsSlice()})
		}
		errs = append(errs, t.nft.SetDeleteElements(h.pins, elements))
	}
	if elements := newElements(added, want); len(elements) > 0 {
		errs = append(errs, t.nft.SetAddElements(h.pins, elements))
	}
	if err := errors.Join(append(errs, t.nft.Flush())...); err != nil {
		return err
	}
	t.stats.Changes += uint64(max(len(gone), len(added)))
	for _, key := range gone {
		delete(h.have, key)
	}
	for _, key := range added {
		h.have[key] = want[key]
	}
	return nil
}

// newElements gives each the time that it has left now.
func newElements(keys []string, want map[string]element) (elements []nftables.SetElement) {
	for _, key := range keys {
		e := want[key]
		elements = append(elements, nftables.SetElement{Key: []byte(key), Val: e.member.AsSlice(), Timeout: max(time.Until(e.expires), shortest)})
	}
	return elements
}

// rewrite empties the maps and fills them.
func (t *Table) rewrite(want [2]map[string]element) error {
	for _, h := range t.half {
		t.nft.FlushSet(h.pins)
	}
	if err := t.nft.Flush(); err != nil {
		return err
	}
	for _, h := range t.half {
		clear(h.have)
	}
	return t.change(want, time.Now())
}

// Check makes the table anew if another program has removed it, and reports
// whether it had. The pins are set by the next [Table.Set].
func (t *Table) Check() (gone bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false, nil
	}
	there, err := exists(t.nft)
	if err != nil || there {
		return false, err
	}
	t.stats.Rebuilds++
	return true, t.make()
}

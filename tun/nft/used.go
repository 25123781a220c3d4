package nft

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Use says when the kernel last sent a new flow to a member of an AA.
type Use struct {
	Anycast netip.Addr
	Last    time.Time
}

const (
	// usedFor is how long a use is noted: longer than the last part of a pin's life,
	// in which it is asked for, but for very long lives.
	usedFor = 5 * time.Minute

	// maxUsed bounds each set. Flows to what finds no room get to their members all
	// the same. To read an element takes about 15 us.
	maxUsed = 1 << 13
)

// newUsed is by AA alone, whatever the key of the map: what is known of an AA is
// renewed as a whole, and of clients there may be many.
func (t *Table) newUsed(f family) *nftables.Set {
	return &nftables.Set{
		Table: t.table, Name: "used" + f.suffix, KeyType: f.address,
		HasTimeout: true, Timeout: usedFor, Dynamic: true, Size: maxUsed,
	}
}

// noteUse notes that a pin of the AA in the register is used.
func (h *half) noteUse(register uint32) part {
	return one(&expr.Dynset{SrcRegKey: register, SetName: h.used.Name, SetID: h.used.ID, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: usedFor})
}

// Used lists the AAs whose new flows the kernel has sent to members in the last
// five minutes. It reads all that is noted, so it is not to be asked often.
func (t *Table) Used() (uses []Use, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, nil
	}
	t.stats.Looks++
	now := time.Now()
	for _, h := range t.half {
		if len(h.have) == 0 {
			continue
		}
		elements, err := t.nft.GetSetElements(h.used)
		if err != nil {
			return nil, fmt.Errorf("nft: read which pins are used: %w", err)
		}
		for _, e := range elements {
			if aa, ok := netip.AddrFromSlice(e.Key); ok {
				uses = append(uses, Use{Anycast: aa, Last: now.Add(e.Expires - usedFor)})
			}
		}
	}
	return uses, nil
}

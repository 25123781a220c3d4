package daemon

import (
	"cmp"
	"slices"
	"time"

	"aarptun/internal/metrics"
	"aarptun/nat"
	"aarptun/tun/nft"
)

// pathNFT is the [nat.FlowInfo] Path of flows that the kernel carries.
const pathNFT = "nft"

// offloadedIDs is where their numbers begin, above those of all other flows: the
// kernel's have 32 bits.
const offloadedIDs = 1 << 32

// flows lists what the kernel carries, as flows of ours are listed. It knows when
// one began, and how much it has carried, only if it was asked to note that.
func (o *offload) flows() []nat.FlowInfo {
	if o == nil {
		return nil
	}
	began := time.Now()
	listed, err := o.table.Flows()
	o.see(err)
	var c nft.Count
	infos := make([]nat.FlowInfo, 0, len(listed))
	slices.SortFunc(listed, func(a, b nft.Flow) int { return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.ID, b.ID)) })
	for _, f := range listed {
		c.Add(f.Proto)
		infos = append(infos, nat.FlowInfo{
			ID: offloadedIDs | uint64(f.ID), Proto: protoOf(f.Proto), Client: f.Client, Anycast: f.Anycast, Member: f.Member,
			State: states[f.State], Path: pathNFT, Started: f.Started, Active: f.Started, Sent: f.Sent, Got: f.Got,
		})
	}
	if err == nil {
		o.counting.Lock()
		o.note(c, began)
		o.counting.Unlock()
	}
	return infos
}

var states = map[nft.State]nat.State{nft.Opening: nat.Dialling, nft.Established: nat.Established, nft.ClientClosed: nat.ClientClosed, nft.MemberClosed: nat.MemberClosed}

func protoOf(number uint8) nat.Proto {
	switch number {
	case nft.TCP:
		return nat.TCP
	case nft.UDP:
		return nat.UDP
	}
	return nat.Echo
}

// offloadStats is what status shows of it.
type offloadStats struct {
	Flows int `json:"flows"` // carried now
	nft.Stats
}

func (o *offload) stats() offloadStats {
	return offloadStats{Flows: o.count().All(), Stats: o.table.Stats()}
}

// figures is what the metrics have of it.
func (o *offload) figures() metrics.Offload {
	s, c := o.table.Stats(), o.count()
	return metrics.Offload{TCP: c.TCP, UDP: c.UDP, Echo: c.Echo, Pins: s.Pins, Rebuilds: s.Rebuilds, Failures: s.Failures}
}

// count is how many flows the kernel carries, or did a moment ago: each is looked
// at, so whoever asks often is told again for some times as long as that took.
func (o *offload) count() nft.Count {
	o.counting.Lock()
	defer o.counting.Unlock()
	began := time.Now()
	if began.Before(o.until) {
		return o.counted
	}
	c, err := o.table.Count()
	if o.see(err); err == nil {
		o.note(c, began)
	}
	return c
}

// note keeps a count for who asks next. The caller holds counting.
func (o *offload) note(c nft.Count, began time.Time) {
	o.counted, o.until = c, time.Now().Add(setRest*time.Since(began))
}

// see says why it cannot be seen which flows the kernel carries, once until it can.
func (o *offload) see(err error) {
	o.seeing.Lock()
	defer o.seeing.Unlock()
	switch {
	case err == nil:
		o.unseen = ""
	case err.Error() != o.unseen:
		o.unseen = err.Error()
		o.log.Warn("it cannot be seen which flows the kernel carries", "err", err)
	}
}

package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"
)

// Flow is one that the kernel carries, as it stood at one moment.
type Flow struct {
	ID      uint32 // of the kernel's entry
	Proto   uint8  // IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP or IPPROTO_ICMPV6
	Client  netip.AddrPort
	Anycast netip.AddrPort // echo: both ports are the identifier
	Member  netip.Addr
	State   State
	// What the kernel counts only if it is asked to, and 0 otherwise: since when
	// (net.netfilter.nf_conntrack_timestamp), and bytes of packets, headers
	// included (nf_conntrack_acct).
	Started   time.Time
	Sent, Got uint64
}

// The Proto of TCP and of UDP flows.
const (
	TCP = unix.IPPROTO_TCP
	UDP = unix.IPPROTO_UDP
)

// State is how far a flow is.
type State uint8

// The states.
const (
	Opening      State = iota + 1 // the member has not answered
	Established                   // it has
	ClientClosed                  // TCP: the client has sent FIN, the member has not
	MemberClosed                  // TCP: the member has sent FIN, the client has not
	ended                         // TCP: both have, or one has sent RST
)

// Flows lists the flows that the kernel carries to members. TCP flows that have
// ended, of which it still knows for a while, are none.
func (t *Table) Flows() ([]Flow, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	flows := []Flow{}
	if t.closed {
		return flows, nil
	}
	entries, err := t.translated()
	for _, e := range entries {
		if f := flowOf(e); f.State != ended {
			flows = append(flows, f)
		}
	}
	return flows, err
}

// translated is what the connection tracking has of flows to the prefixes whose
// destination was rewritten. The kernel passes over the others.
func (t *Table) translated() ([]conntrack.Flow, error) {
	entries, err := t.ct.DumpFilter(conntrack.NewFilter().Status(conntrack.StatusDstNAT), nil)
	if err != nil {
		return nil, fmt.Errorf("nft: list the flows: %w", err)
	}
	var ours []conntrack.Flow
	for _, e := range entries {
		// A kernel that does not know the filter lists all.
		if e.Status.DstNAT() && within(t.ever, e.TupleOrig.IP.DestinationAddress) {
			ours = append(ours, e)
		}
	}
	return ours, nil
}

func flowOf(e conntrack.Flow) Flow {
	from, to := e.TupleOrig.IP, e.TupleOrig.Proto
	f := Flow{
		ID: e.ID, Proto: to.Protocol, Member: e.TupleReply.IP.SourceAddress,
		Client:  netip.AddrPortFrom(from.SourceAddress, to.SourcePort),
		Anycast: netip.AddrPortFrom(from.DestinationAddress, to.DestinationPort),
		State:   Opening, Started: e.Timestamp.Start,
		Sent: e.CountersOrig.Bytes, Got: e.CountersReply.Bytes,
	}
	if to.Protocol == unix.IPPROTO_ICMP || to.Protocol == unix.IPPROTO_ICMPV6 {
		f.Client = netip.AddrPortFrom(from.SourceAddress, to.ICMPID)
		f.Anycast = netip.AddrPortFrom(from.DestinationAddress, to.ICMPID)
	}
	switch tcp := e.ProtoInfo.TCP; {
	case tcp != nil:
		f.State = tcpState(*tcp)
	case e.Status.SeenReply():
		f.State = Established
	}
	return f
}

// tcpState names what the kernel says of a TCP flow. In its numbers, a flow is
// established, one has closed, and both have, in this order (TCP_CONNTRACK_*).
func tcpState(tcp conntrack.ProtoInfoTCP) State {
	const (
		established = 3
		closeWait   = 5
		closeFirst  = 4 << 8 // IP_CT_TCP_FLAG_CLOSE_INIT, before the byte of the mask
	)
	switch {
	case tcp.State < established:
		return Opening
	case tcp.State == established:
		return Established
	case tcp.State > closeWait:
		return ended
	case tcp.OriginalFlags&closeFirst != 0:
		return ClientClosed
	}
	return MemberClosed
}

// Cut ends the flows to an AA, or all if aa is the zero Addr, and returns how
// many those were: the kernel forgets to which member they belong. What their
// clients send from then on gets to nobody who knows it.
func (t *Table) Cut(aa netip.Addr) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return 0, nil
	}
	entries, err := t.translated()
	if err != nil {
		return 0, err
	}
	cut := 0
	for _, e := range entries {
		if aa.IsValid() && e.TupleOrig.IP.DestinationAddress != aa {
			continue
		}
		if err := drop(t.ct, e); err != nil {
			return cut, err
		}
		if flowOf(e).State != ended {
			cut++
		}
	}
	return cut, nil
}

// drop removes an entry; it may have ended by itself.
func drop(ct *conntrack.Conn, e conntrack.Flow) error {
	if err := ct.Delete(e); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("nft: cut a flow: %w", err)
	}
	return nil
}

// forget removes all that the connection tracking knows of the prefixes: the
// flows that the kernel carried, and those that were in the TUN.
func forget(ct *conntrack.Conn, spans []span) error {
	entries, err := ct.Dump(nil)
	if err != nil {
		return fmt.Errorf("nft: list the flows: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if within(spans, e.TupleOrig.IP.DestinationAddress) {
			errs = append(errs, drop(ct, e))
		}
	}
	return errors.Join(errs...)
}

package nft

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"time"

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
	flows := []Flow{}
	err := t.each(filter{}, func(e *entry) bool {
		if state := e.state(); state != ended {
			flows = append(flows, Flow{
				ID: e.id, Proto: e.proto, Client: e.from, Anycast: e.to, Member: e.member,
				State: state, Started: e.started, Sent: e.sent, Got: e.got,
			})
		}
		return true
	})
	return flows, err
}

// Count is how many flows there are.
type Count struct{ TCP, UDP, Echo int }

// All is the sum.
func (c Count) All() int { return c.TCP + c.UDP + c.Echo }

// Add counts one more, by its [Flow] Proto.
func (c *Count) Add(proto uint8) {
	switch proto {
	case TCP:
		c.TCP++
	case UDP:
		c.UDP++
	default:
		c.Echo++
	}
}

// Count counts what [Table.Flows] would list, without making the list.
func (t *Table) Count() (c Count, err error) {
	err = t.each(filter{}, func(e *entry) bool {
		if e.state() != ended {
			c.Add(e.proto)
		}
		return true
	})
	return c, err
}

// Watch tells again and again whether TCP flows are still open: one that was found
// to be is what the kernel is asked for, until it has ended. The zero Watch is ready
// for use, by one goroutine.
type Watch struct {
	id    uint32
	found filter // its tuple is nil if none was found
}

// TCPOpen reports whether the kernel carries a TCP flow now.
func (t *Table) TCPOpen(w *Watch) (bool, error) {
	if w.found.tuple != nil {
		open := false
		err := t.each(w.found, func(e *entry) bool {
			open = open || e.id == w.id && e.state() != ended
			return true
		})
		if open || err != nil {
			return open, err
		}
	}
	*w = Watch{}
	err := t.each(filter{}, func(e *entry) bool {
		if e.proto != TCP || e.state() == ended {
			return true
		}
		w.id, w.found = e.id, filter{family: e.family(), tuple: slices.Clone(e.tuple)}
		return false
	})
	return w.found.tuple != nil, err
}

// each calls visit with each flow to the prefixes whose destination was rewritten,
// of those that f lets through, until visit returns false.
func (t *Table) each(f filter, visit func(*entry) bool) error {
	t.mu.Lock()
	closed, ever := t.closed, t.ever
	t.mu.Unlock()
	if closed {
		return nil
	}
	f.family, f.status = cmp.Or(f.family, familyOf(ever)), statusDNAT
	return t.tracking.each(f, func(e *entry) bool {
		return !within(ever, e.to.Addr()) || visit(e)
	})
}

// familyOf is that of all spans, or none if they have two.
func familyOf(spans []span) byte {
	v4 := 0
	for _, s := range spans {
		if s.first.Is4() {
			v4++
		}
	}
	switch v4 {
	case 0:
		return unix.NFPROTO_IPV6
	case len(spans):
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_UNSPEC
}

func (e *entry) family() byte {
	if e.to.Addr().Is4() {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}

// state is how far the flow is. In the kernel's numbers a TCP flow is established,
// one side has closed, and both have, in this order (TCP_CONNTRACK_*).
func (e *entry) state() State {
	const (
		seenReply   = 1 << 1 // IPS_SEEN_REPLY
		established = 3
		closeWait   = 5
		closeFirst  = 0x04 // IP_CT_TCP_FLAG_CLOSE_INIT
	)
	switch {
	case e.tcpState == 0 && e.status&seenReply != 0:
		return Established
	case e.tcpState < established:
		return Opening
	case e.tcpState == established:
		return Established
	case e.tcpState > closeWait:
		return ended
	case e.tcpFlags&closeFirst != 0:
		return ClientClosed
	}
	return MemberClosed
}

// Cut ends the flows to an AA, or all if aa is the zero Addr, and returns how
// many those were: the kernel forgets to which member they belong. What their
// clients send from then on gets to nobody who knows it.
func (t *Table) Cut(aa netip.Addr) (int, error) {
	var doomed []key
	var failed error
	cut := 0
	err := t.each(filter{}, func(e *entry) bool {
		if aa.IsValid() && e.to.Addr() != aa {
			return true
		}
		if e.state() != ended {
			cut++
		}
		var k key
		k, failed = e.key()
		doomed = append(doomed, k)
		return failed == nil
	})
	if err := errors.Join(err, failed); err != nil {
		return 0, err
	}
	return cut, t.tracking.remove(doomed)
}

// forget removes all that the connection tracking knows of the prefixes: the
// flows that the kernel carried, and those that were in the TUN.
func (k *tracking) forget(spans []span) error {
	var doomed []key
	var failed error
	err := k.each(filter{family: familyOf(spans)}, func(e *entry) bool {
		if within(spans, e.to.Addr()) {
			var of key
			of, failed = e.key()
			doomed = append(doomed, of)
		}
		return failed == nil
	})
	if err := errors.Join(err, failed); err != nil {
		return err
	}
	return k.remove(doomed)
}

package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// tracking asks the connection tracking, in the network namespace of the thread
// that called [track]. It has a lock of its own, so that no pin waits for a long
// list.
type tracking struct {
	mu   sync.Mutex
	conn *netlink.Conn // nil once it is closed
}

// What linux/netfilter/nfnetlink_conntrack.h numbers (enum cntl_msg_types).
const (
	messageGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	messageDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2
)

const (
	// atOnce is the size of the buffer for what the kernel has to say: as much as
	// it says at a time (netlink_recvmsg in net/netlink/af_netlink.c).
	atOnce = 32 << 10

	// inBatch is how many entries are removed in one go: the answers must fit into
	// the socket's buffer.
	inBatch = 64
)

// track opens the way to it.
func track() (*tracking, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: atOnce})
	if err != nil {
		return nil, err
	}
	return &tracking{conn: conn}, nil
}

func (k *tracking) close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn == nil {
		return nil
	}
	conn := k.conn
	k.conn = nil
	return conn.Close()
}

// request is a message with attributes, of one family or of all (NFPROTO_*).
func request(kind netlink.HeaderType, flags netlink.HeaderFlags, family byte, attributes []byte) netlink.Message {
	header := []byte{family, unix.NFNETLINK_V0, 0, 0} // struct nfgenmsg
	return netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request | flags}, Data: slices.Concat(header, attributes)}
}

// filter is what entries must have in common. The kernel passes over the others, if
// it knows how to (Linux 5.15).
type filter struct {
	family byte   // NFPROTO_*; NFPROTO_UNSPEC is any
	status uint32 // bits that must all be set
	tuple  []byte // of a TCP or UDP entry, whose protocol and ports they have; nil is any
}

// tupleFlags are what the kernel compares of a tuple: the protocol and both ports
// (CTA_FILTER_F_CTA_PROTO_*, which only its own headers have). Of IPv6 addresses
// Linux 6.18 lets through those that differ, so they are not compared.
const tupleFlags uint32 = 1<<3 | 1<<4 | 1<<5

func (f filter) attributes() ([]byte, error) {
	wanted := netlink.NewAttributeEncoder()
	if f.status != 0 {
		wanted.Bytes(ctaStatus, binary.BigEndian.AppendUint32(nil, f.status))
	}
	if f.tuple != nil {
		wanted.Bytes(netlink.Nested|ctaTupleOrig, f.tuple)
		wanted.Nested(ctaFilter, func(flags *netlink.AttributeEncoder) error {
			flags.Uint32(ctaFilterOrigFlags, tupleFlags)
			return nil
		})
	}
	return wanted.Encode()
}

// each calls visit with each entry that f lets through, until that returns false.
// visit must not keep the entry, nor ask anything itself.
func (k *tracking) each(f filter, visit func(*entry) bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn == nil {
		return nil
	}
	wanted, err := f.attributes()
	if err != nil {
		return fmt.Errorf("nft: list the flows: %w", err)
	}
	sent, err := k.conn.Send(request(messageGet, netlink.Dump, f.family, wanted))
	if err != nil {
		return fmt.Errorf("nft: list the flows: %w", err)
	}
	var e entry
	for m, err := range k.conn.ReceiveIter() { // it reads on to the end if we do not
		if err == nil {
			err = netlink.Validate(sent, []netlink.Message{m})
		}
		if err == nil {
			err = e.decode(m.Data)
		}
		if err != nil {
			return fmt.Errorf("nft: list the flows: %w", err)
		}
		if e.status&f.status == f.status && !visit(&e) {
			return nil
		}
	}
	return nil
}

// key names an entry to the kernel.
type key struct {
	family     byte
	attributes []byte
}

// key is that of e, in memory of its own.
func (e *entry) key() (key, error) {
	k := key{family: e.family()}
	named := netlink.NewAttributeEncoder()
	named.Bytes(netlink.Nested|ctaTupleOrig, e.tuple)
	named.Bytes(ctaID, e.number)
	if e.zone != nil {
		named.Bytes(ctaZone, e.zone)
	}
	var err error
	k.attributes, err = named.Encode()
	return k, err
}

// remove has the kernel forget entries. Some may have ended by themselves.
func (k *tracking) remove(keys []key) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for batch := range slices.Chunk(keys, inBatch) {
		if k.conn == nil {
			return nil
		}
		var requests []netlink.Message
		for _, of := range batch {
			requests = append(requests, request(messageDelete, netlink.Acknowledge, of.family, of.attributes))
		}
		if _, err := k.conn.SendMessages(requests); err != nil {
			return fmt.Errorf("nft: cut flows: %w", err)
		}
		var failed error
		for range batch { // each has an answer
			if _, err := k.conn.Receive(); err != nil && !errors.Is(err, unix.ENOENT) {
				failed = fmt.Errorf("nft: cut a flow: %w", err)
			}
		}
		if failed != nil {
			return failed
		}
	}
	return nil
}

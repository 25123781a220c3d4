package nft

import (
	"errors"
	"fmt"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// events is where the kernel says that tables are removed.
type events struct {
	conn  *netlink.Conn
	gone  chan struct{} // has room for one
	ended chan struct{}
}

// tables is the group of what becomes of the tables, and what is in them, of all
// programs in the network namespace.
const tables = unix.NFNLGRP_NFTABLES

// follow has the kernel say what it is about to, until close.
func follow() (*events, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (tables - 1)})
	if err != nil {
		return nil, fmt.Errorf("nft: follow the tables: %w", err)
	}
	e := &events{conn: conn, gone: make(chan struct{}, 1), ended: make(chan struct{})}
	go e.read()
	return e, nil
}

// read looks at no more of a message than its type: most are of elements that
// come and go.
func (e *events) read() {
	defer close(e.ended)
	const removed = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE
	for {
		for m, err := range e.conn.ReceiveIter() {
			switch {
			case errors.Is(err, unix.ENOBUFS):
				e.tell() // there were more than the socket could hold
			case err != nil:
				return // it is closed; whoever wants to know looks by the clock too
			case m.Header.Type == removed:
				e.tell()
			}
		}
	}
}

func (e *events) tell() {
	select {
	case e.gone <- struct{}{}:
	default:
	}
}

func (e *events) close() error {
	err := e.conn.Close()
	<-e.ended
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// Removed is told when a table has been removed, which may be this one: see
// [Table.Check].
func (t *Table) Removed() <-chan struct{} { return t.events.gone }

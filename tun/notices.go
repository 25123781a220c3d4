package tun

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// notices are what the kernel says of changes, in the namespace in which they
// were subscribed to.
type notices struct {
	socket   *nl.NetlinkSocket
	concerns func(syscall.NetlinkMessage) bool
	closed   atomic.Bool
}

// subscribe asks for what may concern h, in the namespace of the calling thread:
// changes to links, routes and rules (rtnetlink(7)), and to addresses and to tables
// of nftables if h has any.
func (h *Host) subscribe() error {
	err := h.listenTo(h.concerns, unix.NETLINK_ROUTE, unix.RTNLGRP_LINK,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	if err == nil && h.lend {
		err = h.listenTo(h.concerns, unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	}
	if err == nil && h.returns != nil {
		err = h.listenTo(isDeletedTable, unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		h.unsubscribe()
	}
	return err
}

func (h *Host) listenTo(concerns func(syscall.NetlinkMessage) bool, protocol int, groups ...uint) error {
	socket, err := nl.Subscribe(protocol, groups...)
	if err != nil {
		return fmt.Errorf("tun: subscribe to changes of routes and rules: %w", err)
	}
	h.notices = append(h.notices, &notices{socket: socket, concerns: concerns})
	return nil
}

// unsubscribe wakes who listens. It may be called more than once.
func (h *Host) unsubscribe() {
	for _, n := range h.notices {
		n.close()
	}
}

// isDeletedTable reports whether a message of nfnetlink tells that a table of
// nftables has gone.
func isDeletedTable(m syscall.NetlinkMessage) bool {
	return m.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE
}

// close wakes who waits in next. It may be called more than once.
func (n *notices) close() {
	n.closed.Store(true)
	n.socket.Close()
}

// change is what may concern a Host.
type change struct {
	// by is the process that asked for it; 0 if it was this one, or the kernel, or
	// if that cannot be told.
	by int
	// lost says that the kernel had more to say than the socket had room for.
	lost bool
}

// maxDeaf is how many failures in a row end the listening.
const maxDeaf = 64

// next waits for something that may concern the Host. After close it returns an
// error.
func (n *notices) next() (change, error) {
	for failures := 0; ; {
		messages, from, err := n.socket.Receive()
		switch {
		case n.closed.Load():
			return change{}, fmt.Errorf("tun: listen for changes of routes and rules: %w", os.ErrClosed)
		case errors.Is(err, unix.ENOBUFS):
			return change{lost: true}, nil
		case err != nil: // such as what another process sends, and is no message
			if failures++; failures >= maxDeaf {
				return change{}, fmt.Errorf("tun: listen for changes of routes and rules: %w", err)
			}
			continue
		case from.Pid != 0:
			continue // another process, which may say what it likes
		}
		failures = 0
		found, concerned := change{}, false
		for _, m := range messages {
			if n.concerns(m) {
				found.by, concerned = cmp.Or(found.by, processOf(m.Header.Pid)), true
			}
		}
		if concerned {
			return found, nil
		}
	}
}

// maxPID is the largest process id that there is (proc(5), pid_max).
const maxPID = 1 << 22

// processOf is the process whose netlink socket has a port: the kernel gives the
// first one of each the number of its process (netlink(7)).
func processOf(port uint32) int {
	if port > maxPID || port == uint32(os.Getpid()) {
		return 0
	}
	return int(port)
}

// concerns reports whether a message tells of the device, of a route in a table
// of ours, or of a rule or an address that has gone.
func (h *Host) concerns(m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return len(m.Data) >= unix.SizeofIfInfomsg && int(nl.DeserializeIfInfomsg(m.Data).Index) == h.link.Attrs().Index
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return len(m.Data) >= unix.SizeofRtMsg && h.uses(tableOf(m.Data))
	case unix.RTM_DELADDR:
		return len(m.Data) >= unix.SizeofIfAddrmsg && int(nl.DeserializeIfAddrmsg(m.Data).Index) == h.link.Attrs().Index
	case unix.RTM_DELRULE:
		return true // there are few
	}
	return false
}

// tableOf reads the table of a route: in an attribute, since the field of the
// header has room for the first 255 only.
func tableOf(data []byte) int {
	attributes, err := nl.ParseRouteAttr(data[unix.SizeofRtMsg:])
	if err == nil {
		for _, a := range attributes {
			if a.Attr.Type == unix.RTA_TABLE && len(a.Value) >= 4 {
				return int(nl.NativeEndian().Uint32(a.Value))
			}
		}
	}
	return int(nl.DeserializeRtMsg(data).Table)
}

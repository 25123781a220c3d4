package ping

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// sendTries is how often the kernel may fail a send with what ICMP errors about
// earlier requests have left; see [family.isOwn]. Each try uses up one of them,
// and there are no more of them than requests, unless somebody makes them up.
const sendTries = 1000

// How large an ICMP message may be: a packet's 65,535 bytes, which for IPv6 do
// not count the header (RFC 791 section 3.1, RFC 8200 section 3).
const (
	headerV4     = 20
	headerV6     = 40
	maxMessageV4 = 65535 - headerV4
	maxMessageV6 = 65535
)

// ipHeader is what is asked for in the IP header of a message.
type ipHeader struct {
	hops  uint8  // 0 is the host's own
	whole bool   // not to be fragmented
	label uint32 // IPv6 flow label; 0 leaves it to the kernel
}

// flowInfo is IPV6_FLOWINFO (linux/in6.h), which package unix lacks.
const flowInfo = 11

// labelBits is the size of a flow label (RFC 8200 section 3).
const labelBits = 20

// label is the flow label of a path. The numbers are spread over all of the
// label, for some routers hash only a part of it; with id, another host has other labels.
func (f *family) label(path int) uint32 {
	if path == 0 || f.proto == icmpV4Proto {
		return 0
	}
	const golden = 0x9e3779b1 // 2^32 divided by the golden ratio: odd, so no two paths meet
	return max(1, (uint32(f.id)<<4+uint32(path))*golden>>(32-labelBits))
}

// send transmits one message. An error wraps what the kernel said, in a
// [PathError] where the network would have answered with an ICMP error.
func (s *Socket) send(f *family, to netip.Addr, h ipHeader, message []byte) error {
	addr, err := sockaddr(to, 0)
	if err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	control := f.control(h)
	closed := f.conn.Write(func(fd uintptr) bool {
		for range sendTries {
			err = f.write(int(fd), addr, h.whole, control, message)
			if err == nil || f.isOwn(err, to, h.whole, len(message)) {
				break
			}
		}
		return !errors.Is(err, unix.EAGAIN) // false: wait until there is room
	})
	switch {
	case closed != nil:
		return ErrClosed
	case err != nil:
		s.stats.errors.Add(1)
		return fmt.Errorf("ping: %w", f.localError(err, to, len(message)))
	}
	return nil
}

func (f *family) write(fd int, to unix.Sockaddr, whole bool, control, message []byte) error {
	if f.proto == icmpV4Proto && f.whole != whole {
		if err := f.setWhole(fd, whole); err != nil {
			return err
		}
	}
	_, err := unix.SendmsgN(fd, message, control, to, 0)
	return os.NewSyscallError("sendmsg", err)
}

// control is the ancillary data of one message (RFC 3542 sections 6.3 and 11.2,
// ip(7)).
func (f *family) control(h ipHeader) []byte {
	var b []byte
	if f.proto == icmpV4Proto {
		if h.hops != 0 {
			b = appendControl(b, unix.SOL_IP, unix.IP_TTL, uint32(h.hops))
		}
		return b
	}
	if h.hops != 0 {
		b = appendControl(b, unix.SOL_IPV6, unix.IPV6_HOPLIMIT, uint32(h.hops))
	}
	if h.whole {
		b = appendControl(b, unix.SOL_IPV6, unix.IPV6_DONTFRAG, 1)
	}
	if h.label != 0 {
		// It needs no lease (IPV6_FLOWLABEL_MGR) unless a program on the host
		// has leased one for itself alone, and is in network order.
		b = appendControl(b, unix.SOL_IPV6, flowInfo, networkOrder(h.label))
	}
	return b
}

func appendControl(b []byte, level, kind int32, value uint32) []byte {
	start := len(b)
	b = append(b, make([]byte, unix.CmsgSpace(4))...)
	h := b[start:]
	// A control message's header is its length, as wide as a pointer, then
	// level and type.
	if unix.SizeofPtr == 8 {
		binary.NativeEndian.PutUint64(h, uint64(unix.CmsgLen(4)))
	} else {
		binary.NativeEndian.PutUint32(h, uint32(unix.CmsgLen(4)))
	}
	binary.NativeEndian.PutUint32(h[unix.SizeofPtr:], uint32(level))
	binary.NativeEndian.PutUint32(h[unix.SizeofPtr+4:], uint32(kind))
	binary.NativeEndian.PutUint32(h[unix.CmsgLen(0):], value)
	return b
}

// networkOrder returns the number whose bytes in the host's order are those of n
// in the network's.
func networkOrder(n uint32) uint32 {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return binary.NativeEndian.Uint32(b[:])
}

func sockaddr(a netip.Addr, port int) (unix.Sockaddr, error) {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4(), Port: port}, nil
	}
	to := &unix.SockaddrInet6{Addr: a.As16(), Port: port}
	if zone := a.Zone(); zone != "" {
		index, err := strconv.ParseUint(zone, 10, 32)
		if err != nil {
			link, err := net.InterfaceByName(zone)
			if err != nil {
				return nil, err
			}
			index = uint64(link.Index)
		}
		to.ZoneId = uint32(index)
	}
	return to, nil
}

// isOwn tells whether an error of a send is about what was to be sent. With
// IP_RECVERR the kernel also fails a send, whichever comes next, with the ICMP
// error about an earlier request; but then there is nothing wrong with the way
// to this one's destination.
func (f *family) isOwn(err error, to netip.Addr, whole bool, size int) bool {
	var errno syscall.Errno
	if !errors.As(err, &errno) || !slices.Contains(icmpErrnos, errno) {
		return true
	}
	mtu, err := f.paths.mtu(to)
	if err != nil {
		return true
	}
	header, largest := headerV4, maxMessageV4
	if f.proto == icmpV6Proto {
		header, largest = headerV6, maxMessageV6
	}
	return errno == unix.EMSGSIZE && (size > largest || whole && header+size > int(mtu))
}

// icmpErrnos are all that Linux makes of ICMP errors (icmp_err_convert in
// net/ipv4/icmp.c, icmpv6_err_convert in net/ipv6/icmp.c).
var icmpErrnos = []syscall.Errno{
	unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.ECONNREFUSED, unix.EMSGSIZE, unix.EPROTO,
	unix.ENOPROTOOPT, unix.EOPNOTSUPP, unix.EHOSTDOWN, unix.ENONET,
}

// localError makes what our own kernel said about a message what a router
// would have said about it.
func (f *family) localError(err error, to netip.Addr, size int) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err
	}
	v6 := f.proto == icmpV6Proto
	switch errno {
	case unix.EMSGSIZE:
		if v6 && size > maxMessageV6 || !v6 && size > maxMessageV4 {
			return err // no path would take it
		}
		mtu, mtuErr := f.paths.mtu(to)
		if mtuErr != nil {
			return errors.Join(err, mtuErr)
		}
		return f.pathError(ipv6.ICMPTypePacketTooBig, 0, codeFragmentationNeeded, mtu, errno)
	case unix.ENETUNREACH:
		return f.pathError(ipv6.ICMPTypeDestinationUnreachable, 0, 0, 0, errno)
	case unix.EHOSTUNREACH:
		return f.pathError(ipv6.ICMPTypeDestinationUnreachable, 3, 1, 0, errno)
	case unix.EACCES:
		return f.pathError(ipv6.ICMPTypeDestinationUnreachable, 1, 13, 0, errno)
	}
	return err
}

// codeFragmentationNeeded is IPv4's packet too big, a code of destination
// unreachable (RFC 1191 section 4).
const codeFragmentationNeeded = 4

// pathError is a PathError of our own kernel: of the given type and code in
// ICMPv6, or destination unreachable with code4 in ICMP (RFC 4443 section 3,
// RFC 792, RFC 1812 section 5.2.7.1).
func (f *family) pathError(kind6 ipv6.ICMPType, code6, code4 uint8, info uint32, errno syscall.Errno) error {
	if f.proto == icmpV6Proto {
		return &PathError{Kind: uint8(kind6), Code: code6, Info: info, Errno: errno}
	}
	return &PathError{Kind: uint8(ipv4.ICMPTypeDestinationUnreachable), Code: code4, Info: info, Errno: errno}
}

package ping

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

const (
	readBuffer = 4 << 20 // bytes; replies to thousands of probes come in bursts
	icmpFilter = 1       // ICMP_FILTER (linux/icmp.h) and ICMPV6_FILTER (linux/icmpv6.h)
)

// openFamily tries a raw socket first, which leaves identifiers alone, then a
// ping socket, which needs no privilege.
func openFamily(v6 bool, mark uint32) (*family, error) {
	f, err := openSocket(v6, true, mark)
	if err == nil {
		return f, nil
	}
	f, errPing := openSocket(v6, false, mark)
	if errPing == nil {
		return f, nil
	}
	return nil, errors.Join(err, errPing)
}

// openSocket opens a raw socket or a ping socket, ready for use.
func openSocket(v6, raw bool, mark uint32) (*family, error) {
	domain, kind, proto := unix.AF_INET, unix.SOCK_DGRAM, icmpV4Proto
	if v6 {
		domain, proto = unix.AF_INET6, icmpV6Proto
	}
	if raw {
		kind = unix.SOCK_RAW
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := &family{
		file: os.NewFile(uintptr(fd), "ping"), proto: proto, raw: raw, id: randomID(),
		probes: make(map[uint64]*probeWait), relayed: make(map[uint16]*relayWait),
	}
	if err = f.prepare(fd, mark); err == nil {
		f.conn, err = f.file.SyscallConn()
	}
	if err == nil {
		f.events, err = watch(fd)
	}
	if err == nil {
		f.paths, err = openPaths(domain, mark)
	}
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

func (f *family) close() error {
	var err error
	if f.events != nil { // first, so that its reader does not go on
		err = f.events.file.Close()
	}
	if f.paths != nil {
		err = errors.Join(err, f.paths.file.Close())
	}
	return errors.Join(err, f.file.Close())
}

// prepare sets the options of a new socket.
func (f *family) prepare(fd int, mark uint32) error {
	// A small buffer loses replies but does not break anything. Beyond
	// net.core.rmem_max it takes CAP_NET_ADMIN.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, readBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, readBuffer)
	}
	if err := setMark(fd, mark); err != nil {
		return err
	}
	if f.raw {
		if err := f.filter(fd); err != nil {
			return err
		}
	}
	if f.proto == icmpV6Proto {
		return os.NewSyscallError("setsockopt IPV6_RECVERR", unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVERR, 1))
	}
	if err := f.setWhole(fd, false); err != nil {
		return err
	}
	return os.NewSyscallError("setsockopt IP_RECVERR", unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVERR, 1))
}

// filter lets in nothing but echo replies: a raw socket would otherwise get a
// copy of every ICMP message the host receives. The error queue is not
// filtered.
func (f *family) filter(fd int) error {
	if f.proto == icmpV6Proto {
		var block unix.ICMPv6Filter // a set bit blocks (RFC 3542 section 3.2 leaves it open)
		for i := range block.Data {
			block.Data[i] = ^uint32(0)
		}
		block.Data[ipv6.ICMPTypeEchoReply>>5] &^= 1 << (ipv6.ICMPTypeEchoReply & 31)
		return os.NewSyscallError("setsockopt ICMPV6_FILTER", unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, icmpFilter, &block))
	}
	block := ^uint32(1 << ipv4.ICMPTypeEchoReply)
	return os.NewSyscallError("setsockopt ICMP_FILTER", unix.SetsockoptInt(fd, unix.SOL_RAW, icmpFilter, int(block)))
}

// errMark is a socket that could be opened but not used.
var errMark = errors.New("the kernel does not let us mark sockets (SO_MARK)")

func setMark(fd int, mark uint32) error {
	if mark == 0 {
		return nil
	}
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark))
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: %w", errMark, err)
	}
	return os.NewSyscallError("setsockopt SO_MARK", err)
}

// setWhole says whether what is sent must not be fragmented, by us or on the
// way. IPv6 says that for each message.
func (f *family) setWhole(fd int, whole bool) error {
	discover := unix.IP_PMTUDISC_DONT
	if whole {
		discover = unix.IP_PMTUDISC_DO
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, discover); err != nil {
		return os.NewSyscallError("setsockopt IP_MTU_DISCOVER", err)
	}
	f.whole = whole
	return nil
}

package ping

import (
	"errors"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// paths asks the kernel what it knows of the path to an address, by a connected
// UDP socket, which sends nothing. It is opened with the socket it stands by,
// so that it is of the same network namespace.
type paths struct {
	mu   sync.Mutex
	file *os.File
	conn syscall.RawConn // of file
}

func openPaths(domain int, mark uint32) (*paths, error) {
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	p := &paths{file: os.NewFile(uintptr(fd), "paths")}
	if err = setMark(fd, mark); err == nil {
		p.conn, err = p.file.SyscallConn()
	}
	if err != nil {
		return nil, errors.Join(err, p.file.Close())
	}
	return p, nil
}

// mtu returns the path MTU to a, in bytes.
func (p *paths) mtu(a netip.Addr) (mtu uint32, err error) {
	to, err := sockaddr(a, 9) // connect wants a port; discard's is as good as any
	if err != nil {
		return 0, err
	}
	level, option := unix.SOL_IP, unix.IP_MTU
	if a.Is6() {
		level, option = unix.SOL_IPV6, unix.IPV6_MTU
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	closed := p.conn.Control(func(fd uintptr) {
		if err = unix.Connect(int(fd), to); err != nil {
			err = os.NewSyscallError("connect", err)
			return
		}
		var value int
		value, err = unix.GetsockoptInt(int(fd), level, option)
		mtu, err = uint32(value), os.NewSyscallError("getsockopt MTU", err)
	})
	return mtu, errors.Join(closed, err)
}

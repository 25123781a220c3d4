package tun

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// Control returns a function for [net.Dialer] and [net.ListenConfig] that sets
// the mark which lets a socket bypass the TUN; 0 sets none. It needs
// CAP_NET_ADMIN, or CAP_NET_RAW from Linux 5.17.
func Control(mark uint32) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		if mark == 0 {
			return nil
		}
		var err error
		if outer := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
		}); outer != nil {
			return outer
		}
		if err != nil {
			return fmt.Errorf("tun: cannot mark a socket with %#x: %w", mark, err)
		}
		return nil
	}
}

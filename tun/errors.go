package tun

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrConfig is wrapped by every error that means the host is not as it must
// be; the others are its kinds. A missing permission is [os.ErrPermission].
var (
	ErrConfig     = errors.New("tun")
	ErrBusy       = fmt.Errorf("%w: in use by another aarptun", ErrConfig)
	ErrNameTaken  = fmt.Errorf("%w: the device name is taken", ErrConfig)
	ErrTableTaken = fmt.Errorf("%w: the routing table is in use", ErrConfig)
	ErrCarried    = fmt.Errorf("%w: another aarptun lets the kernel carry flows", ErrConfig)
	ErrNoTUN      = fmt.Errorf("%w: no TUN on this host", ErrConfig)
)

// checkPrivilege says what is missing before anything is touched.
func checkPrivilege() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("tun: capget: %w", err)
	}
	if data[unix.CAP_NET_ADMIN/32].Effective&(1<<(unix.CAP_NET_ADMIN%32)) == 0 {
		return fmt.Errorf("tun: CAP_NET_ADMIN is missing, so no device can be made: run aarptun as root: %w", os.ErrPermission)
	}
	return nil
}

package main

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtoolSetGRO is ETHTOOL_SGRO of linux/ethtool.h, which x/sys has not.
const ethtoolSetGRO = 0x2c

// threadWire has a kernel thread take in what arrives at a device. A packet on a
// wire between namespaces otherwise arrives, and is answered, inside the system
// call that sends it: an ICMP error then finds the socket locked and is only
// noted, which on a wire that takes time does not happen.
func threadWire(args []string) (int, error) {
	if len(args) != 1 {
		return 64, errors.New("usage: fidelity wire DEVICE")
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 1, err
	}
	defer func() { _ = unix.Close(fd) }() // nothing is sent on it
	// Only a device with GRO has a NAPI that can be a thread.
	value := struct{ command, data uint32 }{ethtoolSetGRO, 1}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], args[0])
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return 1, fmt.Errorf("GRO of %s: %w", args[0], errno)
	}
	return 0, os.WriteFile("/sys/class/net/"+args[0]+"/threaded", []byte("1"), 0)
}

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// What a router sends into the hold-up comes out of it later, and goes on by a
// table of its own.
const (
	holdUpDevice = "slow0"
	tableSlow    = "200"
)

// holdUp is a device that takes time.
type holdUp struct {
	fd    int
	delay atomic.Int64
}

// openHoldUp makes the device on the router. It works until the process ends.
func openHoldUp() (*holdUp, error) {
	fd, err := openTUNIn("router", holdUpDevice)
	if err != nil {
		return nil, fmt.Errorf("%s on the router: %w", holdUpDevice, err)
	}
	h := &holdUp{fd: fd}
	go h.carry() // for the life of the process
	return h, errors.Join(ip("link", "set", holdUpDevice, "up"),
		ip("-6", "rule", "add", "iif", holdUpDevice, "lookup", tableSlow, "pref", "100"))
}

func (h *holdUp) carry() {
	for {
		packet := make([]byte, 65536)
		n, err := unix.Read(h.fd, packet)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "soak: the hold-up has ended:", os.NewSyscallError("read", err))
			os.Exit(1) // a test that could not tell must not pass
		}
		// A packet that cannot be written is lost, as one on a bad link.
		time.AfterFunc(time.Duration(h.delay.Load()), func() { _, _ = unix.Write(h.fd, packet[:n]) })
	}
}

// openTUNIn makes a device in a namespace that has a name.
func openTUNIn(netns, device string) (fd int, err error) {
	ns, err := unix.Open("/run/netns/"+netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(ns) }() // only entered
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread ends in the namespace
		if err = unix.Setns(ns, unix.CLONE_NEWNET); err == nil {
			fd, err = openTUN(device)
		}
	}()
	<-done
	return fd, err
}

// openTUN makes a device of packets without a header of their own.
func openTUN(device string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("/dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(device)
	if err != nil {
		return -1, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	return fd, os.NewSyscallError("TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
}

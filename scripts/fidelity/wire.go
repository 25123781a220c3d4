package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// delay is what a packet takes over the slow wire: far longer than a program
// can be held up inside connect(2).
const delay = 5 * time.Millisecond

// slowWire joins two devices, each in a namespace, by a wire that takes time. On
// a wire between namespaces a packet arrives, and is answered, inside the system
// call that sends it: an ICMP error about a SYN then finds the socket locked and
// is only noted, which over a real wire does not happen. It runs until it is
// killed.
func slowWire(args []string) (int, error) {
	if len(args) != 4 {
		return 64, errors.New("usage: fidelity wire NETNS DEVICE NETNS DEVICE")
	}
	var ends [2]int
	for i := range ends {
		fd, err := openTUNIn(args[2*i], args[2*i+1])
		if err != nil {
			return 1, fmt.Errorf("%s in %s: %w", args[2*i+1], args[2*i], err)
		}
		ends[i] = fd
	}
	fmt.Println("wired")
	failed := make(chan error)
	go func() { failed <- carry(ends[0], ends[1]) }() // the process ends with either
	go func() { failed <- carry(ends[1], ends[0]) }()
	return 1, <-failed
}

// carry takes packets from one device to the other, one after another: there are
// few.
func carry(from, to int) error {
	buf := make([]byte, 65536)
	for {
		n, err := unix.Read(from, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("read", err)
		}
		time.Sleep(delay) // this is the wire
		// EIO is that the other end is not up yet, so the packet is lost.
		if _, err := unix.Write(to, buf[:n]); err != nil && !errors.Is(err, unix.EIO) {
			return os.NewSyscallError("write", err)
		}
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

package main

import (
	"bytes"
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
	go func() { failed <- carry(ends[0], ends[1], bytes.Clone) }() // the process ends with either
	go func() { failed <- carry(ends[1], ends[0], bytes.Clone) }()
	return 1, <-failed
}

// onTheWay is a packet that has been read and is not due yet.
type onTheWay struct {
	due    time.Time
	packet []byte
}

// carry takes packets from one device to the other, each after the delay and
// with what is done to it; a packet of which nothing is left goes no further.
func carry(from, to int, change func([]byte) []byte) error {
	packets, failed := make(chan onTheWay, 1024), make(chan error, 2)
	go func() { failed <- takeIn(from, packets, change) }() // the process ends with either
	go func() { failed <- putOut(to, packets) }()
	return <-failed
}

func takeIn(from int, packets chan<- onTheWay, change func([]byte) []byte) error {
	buf := make([]byte, 65536)
	for {
		n, err := unix.Read(from, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("read", err)
		}
		if packet := change(buf[:n]); packet != nil {
			packets <- onTheWay{time.Now().Add(delay), packet}
		}
	}
}

func putOut(to int, packets <-chan onTheWay) error {
	for p := range packets {
		time.Sleep(time.Until(p.due)) // this is the wire
		// EIO is that the other end is not up yet, so the packet is lost.
		if _, err := unix.Write(to, p.packet); err != nil && !errors.Is(err, unix.EIO) {
			return os.NewSyscallError("write", err)
		}
	}
	return nil
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

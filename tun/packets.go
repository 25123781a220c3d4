package tun

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"
)

// Device is the open TUN device. Packets are read and written as the kernel has
// them, each behind its virtio_net_hdr of 10 bytes (VIRTIO 1.2 section 5.1.6),
// so that one packet can stand for 64 KiB of segments; wireguard-go's own Read
// would cut it into pieces of the MTU. Read by one goroutine; write from any.
type Device struct {
	tun wgtun.Device
	raw syscall.RawConn

	// The call that reads, made once: Read would allocate it each time.
	read   func(fd uintptr) bool
	bufs   [][]byte
	n      int
	failed error
}

func newDevice(t wgtun.Device) (*Device, error) {
	raw, err := t.File().SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("tun: the device's descriptor: %w", err)
	}
	d := &Device{tun: t, raw: raw}
	d.read = func(fd uintptr) bool {
		d.n, d.failed = vector(unix.SYS_READV, fd, d.bufs)
		return !errors.Is(d.failed, unix.EAGAIN) && !errors.Is(d.failed, unix.EINTR)
	}
	return d, nil
}

// Read fills bufs in turn with one packet behind its header, and returns the
// length of both. It blocks until there is one, and returns [os.ErrClosed] when
// the device has been closed or is gone. What does not fit is lost.
func (d *Device) Read(bufs [][]byte) (int, error) {
	d.bufs = bufs
	if d.raw.Read(d.read) != nil {
		return 0, deviceError("read from", os.ErrClosed) // there is no other reason
	}
	if d.failed != nil {
		return 0, deviceError("read from", d.failed)
	}
	return d.n, nil
}

// Waiting reports whether there is a packet to read.
func (d *Device) Waiting() bool {
	waiting := false
	_ = d.raw.Control(func(fd uintptr) { // a closed one has none
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		waiting = err == nil && n == 1 && poll[0].Revents&unix.POLLIN != 0
	})
	return waiting
}

// Write sends one packet, which is bufs in turn, behind its header. It does not
// block; a packet that the kernel has no room for is lost, with an error.
func (d *Device) Write(bufs [][]byte) error {
	var failed error
	outer := d.raw.Control(func(fd uintptr) {
		for {
			if _, failed = vector(unix.SYS_WRITEV, fd, bufs); !errors.Is(failed, unix.EINTR) {
				return
			}
		}
	})
	if outer != nil {
		failed = os.ErrClosed // there is no other reason
	}
	if failed != nil {
		return deviceError("write to", failed)
	}
	return nil
}

// vector is readv(2) or writev(2) on the device, which does not wait. The scheduler
// is not told: it would take the processor away from a call that lasts 20
// microseconds, as one with 64 KiB does, only to give it back.
func vector(call, fd uintptr, bufs [][]byte) (int, error) {
	var room [16]unix.Iovec
	vectors := room[:0]
	for _, b := range bufs {
		if len(b) > 0 {
			v := unix.Iovec{Base: &b[0]}
			v.SetLen(len(b))
			vectors = append(vectors, v)
		}
	}
	n, _, errno := unix.RawSyscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(vectors))), uintptr(len(vectors)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// deviceError has [os.ErrClosed] for a device that is gone too: the kernel says
// EBADFD when it was deleted.
func deviceError(what string, err error) error {
	if errors.Is(err, unix.EBADFD) {
		err = os.ErrClosed
	}
	return fmt.Errorf("tun: %s the device: %w", what, err)
}

// Close makes the device go, and wakes who reads from it.
func (d *Device) Close() error {
	if err := d.tun.Close(); err != nil {
		return fmt.Errorf("tun: close the device: %w", err)
	}
	return nil
}

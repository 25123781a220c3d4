package tun

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Offload is what the device takes and hands over in one packet: several
// segments of a TCP flow, and several datagrams of a UDP flow.
type Offload struct {
	TCP, UDP bool
}

// OffloadMode says whether to use what the kernel offers.
type OffloadMode uint8

// The modes.
const (
	OffloadAuto OffloadMode = iota // what passes the test
	OffloadOn                      // all of it, or fail
	OffloadOff                     // nothing: packets of the MTU, each with its checksum
)

// Bits of TUNSETOFFLOAD (linux/if_tun.h).
const (
	offloadTCP = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	offloadUDP = unix.TUN_F_USO4 | unix.TUN_F_USO6 // from Linux 6.2
)

// offload asks the kernel for what the mode says, and tests that it is true. The
// device must be up, and not yet routed to.
func (d *Device) offload(mode OffloadMode) (Offload, error) {
	if mode == OffloadOff {
		return Offload{}, d.setOffload(0)
	}
	var o Offload
	tcp := errors.Join(d.setOffload(offloadTCP), d.Write([][]byte{testSegments}))
	udp := tcp
	if tcp == nil {
		o.TCP = true
		udp = errors.Join(d.setOffload(offloadTCP|offloadUDP), d.Write([][]byte{testDatagrams}))
		o.UDP = udp == nil
	}
	switch {
	case o.UDP:
		return o, nil
	case mode == OffloadOn:
		return o, fmt.Errorf("%w: this kernel does not carry several segments or datagrams in one packet: leave out --offload-gso on: %w", ErrConfig, udp)
	case o.TCP:
		return o, d.setOffload(offloadTCP)
	}
	return o, d.setOffload(0)
}

func (d *Device) setOffload(bits int) error {
	var failed error
	err := d.raw.Control(func(fd uintptr) { failed = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, bits) })
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("tun: set the offloads of the device: %w", err)
	}
	return nil
}

// The tests are packets of two segments and of two datagrams, one byte each. A
// kernel that does not know such packets refuses the write; one that does drops
// them, since nothing comes from ::1 over a device (RFC 4291 section 2.5.3).
var (
	// A checksum to be filled in at 40+16; TCP over IPv6, headers of 60 bytes.
	testSegments = append(virtioHeader(4, 60, 16), testPacket(unix.IPPROTO_TCP, 20, 12, 5<<4)...)
	// The same at 40+6; UDP, headers of 48 bytes.
	testDatagrams = append(virtioHeader(5, 48, 6), testPacket(unix.IPPROTO_UDP, 8, 5, 10)...)
)

// virtioHeader says that a packet over IPv6 has pieces of one byte, and wants
// its checksum.
func virtioHeader(kind byte, headers, checksumAt uint16) []byte {
	b := []byte{1, kind}
	for _, v := range []uint16{headers, 1, 40, checksumAt} {
		b = binary.NativeEndian.AppendUint16(b, v)
	}
	return b
}

// testPacket is an IPv6 packet from ::1 to ::1 with two bytes behind a transport
// header of so many bytes, all zero but one.
func testPacket(transport byte, size, at int, value byte) []byte {
	b := make([]byte, 40+size+2)
	b[0], b[5], b[6], b[7] = 6<<4, byte(size+2), transport, 1
	b[23], b[39] = 1, 1
	b[40+at] = value
	return b
}

package tun

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// markOf reads a socket's mark back.
func markOf(t *testing.T, conn syscall.Conn) uint32 {
	t.Helper()
	raw, err := conn.SyscallConn()
	must(t, err)
	var mark int
	must(t, raw.Control(func(fd uintptr) { mark, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK) }))
	must(t, err)
	return uint32(mark)
}

func TestControlSetsTheMark(t *testing.T) {
	isolate(t)
	for _, mark := range []uint32{0, 1, 0xaa, 0x80000001, 0xffffffff} {
		listen := net.ListenConfig{Control: Control(mark)}
		packets, err := listen.ListenPacket(context.Background(), "udp", "[::1]:0")
		must(t, err)
		if got := markOf(t, packets.(*net.UDPConn)); got != mark {
			t.Errorf("a listening socket has mark %#x, want %#x", got, mark)
		}
		dialer := net.Dialer{Control: Control(mark)}
		conn, err := dialer.Dial("udp", packets.LocalAddr().String())
		must(t, err)
		if got := markOf(t, conn.(*net.UDPConn)); got != mark {
			t.Errorf("a dialled socket has mark %#x, want %#x", got, mark)
		}
		must(t, errors.Join(conn.Close(), packets.Close()))
	}
}

func TestControlSaysThatItMayNot(t *testing.T) {
	isolate(t)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	must(t, unix.Capget(&header, &data[0]))
	data[0].Effective &^= 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW
	must(t, unix.Capset(&header, &data[0]))
	for mark, want := range map[uint32]error{0: nil, 0xaa: os.ErrPermission} {
		listen := net.ListenConfig{Control: Control(mark)}
		conn, err := listen.ListenPacket(context.Background(), "udp", "[::1]:0")
		if !errors.Is(err, want) {
			t.Errorf("mark %#x: %v, want %v", mark, err, want)
		}
		if err == nil {
			must(t, conn.Close())
		}
	}
}

// sendTo sends one datagram to AA.
func sendTo(t *testing.T, mark uint32, payload string) {
	t.Helper()
	dialer := net.Dialer{Control: Control(mark)}
	conn, err := dialer.Dial("udp", net.JoinHostPort(testAA.String(), "9"))
	must(t, err)
	_, err = conn.Write([]byte(payload))
	must(t, errors.Join(err, conn.Close()))
}

// firstOf reads packets until one has one of the payloads, and returns that.
// There must be one: a packet is in the device's queue when its sender's write
// returns.
func firstOf(t *testing.T, device *Device, payloads ...string) string {
	t.Helper()
	buf := make([]byte, 10+maximumMTU)
	for {
		n, err := device.Read([][]byte{buf})
		must(t, err)
		for _, payload := range payloads {
			if bytes.Contains(buf[:n], []byte(payload)) {
				return payload
			}
		}
	}
}

// A marked socket finds AA where the network has it, behind the uplink; all
// others find it in the device.
func TestMarkedSocketsBypassTheDevice(t *testing.T) {
	isolateTUN(t)
	// The uplink is a device of the same kind, so that its wire can be read.
	up, err := createDevice("u0")
	must(t, err)
	defer func() { must(t, up.Close()) }()
	ip(t, "addr", "add", "2001:db8:1::2/64", "dev", "u0", "nodad")
	ip(t, "link", "set", "u0", "up")
	ip(t, "-6", "route", "add", "default", "dev", "u0")
	for _, mark := range []uint32{defaultMark, 0x80000001} {
		c := testConfig(t.TempDir())
		c.Mark = mark
		h := mustOpen(t, c)
		const open, marked, plain, other, removed = "<before the rules>", "<marked>", "<plain>", "<another mark>", "<after the rules>"
		sendTo(t, 0, open)
		must(t, h.AddRoutes())
		sendTo(t, mark, marked)
		sendTo(t, 0, plain)
		sendTo(t, mark+1, other)
		must(t, h.RemoveRoutes())
		sendTo(t, 0, removed)
		all := []string{open, marked, plain, other, removed}
		for _, want := range []string{open, marked, removed} {
			if got := firstOf(t, up, all...); got != want {
				t.Fatalf("mark %#x: the uplink carries %s, want %s", mark, got, want)
			}
		}
		for _, want := range []string{plain, other} {
			if got := firstOf(t, h.Device(), all...); got != want {
				t.Fatalf("mark %#x: the device carries %s, want %s", mark, got, want)
			}
		}
		must(t, h.Close())
	}
}

package tun

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// openWith opens a Host in a namespace of the test's own.
func openWith(t *testing.T, mode OffloadMode) *Host {
	t.Helper()
	isolateTUN(t)
	c := testConfig(t.TempDir())
	c.Offload = mode
	return mustOpen(t, c)
}

func TestOffloadModes(t *testing.T) {
	var auto Offload
	t.Run("auto", func(t *testing.T) {
		h := openWith(t, OffloadAuto)
		auto = h.Offload()
		if auto.UDP && !auto.TCP {
			t.Errorf("several datagrams, but not several segments: %+v", auto)
		}
	})
	t.Run("on", func(t *testing.T) {
		isolateTUN(t)
		c := testConfig(t.TempDir())
		c.Offload = OffloadOn
		h, err := Open(c)
		if err != nil {
			if auto == (Offload{TCP: true, UDP: true}) || !errors.Is(err, ErrConfig) {
				t.Errorf("%v, and auto had %+v", err, auto)
			}
			return
		}
		if got := h.Offload(); got != (Offload{TCP: true, UDP: true}) || auto != got {
			t.Errorf("%+v, and auto had %+v", got, auto)
		}
		must(t, h.Close())
	})
	t.Run("off", func(t *testing.T) {
		if got := openWith(t, OffloadOff).Offload(); got != (Offload{}) {
			t.Errorf("%+v, want none", got)
		}
	})
}

// The packets of the self-test are taken by a kernel that knows what they are, and
// only because they are right.
func TestOffloadTestPackets(t *testing.T) {
	d := openWith(t, OffloadAuto).Device()
	for name, packet := range map[string][]byte{"segments": testSegments, "datagrams": testDatagrams} {
		if err := d.Write([][]byte{packet}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := d.Write([][]byte{packet[:10], packet[10:]}); err != nil {
			t.Errorf("%s in two parts: %v", name, err)
		}
		for at, value := range map[int]byte{1: 0x33, 8: 200} { // its kind, and a checksum beyond its end
			wrong := bytes.Clone(packet)
			wrong[at] = value
			if err := d.Write([][]byte{wrong}); !errors.Is(err, unix.EINVAL) {
				t.Errorf("%s with %d at %d: %v, want EINVAL", name, value, at, err)
			}
		}
	}
}

// arrived is a packet that the device has handed over.
type arrived struct {
	flags, gso             byte
	segment                uint16
	packet, message        []byte // the second from its transport header on
	checksumStart, network int
}

// host is a namespace with a device that a program sends through, and a member
// behind it made of packets.
type host struct {
	t      *testing.T
	d      *Device
	v4     bool
	client netip.Addr
	aa     netip.Addr
	has    Offload
	read   [10]byte
	data   [65535]byte
}

func newHostWith(t *testing.T, mode OffloadMode, v4 bool) *host {
	h := openWith(t, mode)
	for _, a := range []string{"203.0.113.9/32", "2001:db8:c::9/128"} {
		ip(t, "addr", "add", a, "dev", "lo", "nodad")
	}
	must(t, h.AddRoutes())
	all := &host{t: t, d: h.Device(), has: h.Offload(), v4: v4, client: netip.MustParseAddr("2001:db8:c::9"), aa: testAA}
	if v4 {
		all.client, all.aa = netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("198.51.100.1")
	}
	// So that a packet that does not come is not waited for for ever.
	timer := time.AfterFunc(20*time.Second, func() { _ = all.d.Close() })
	t.Cleanup(func() { timer.Stop() })
	return all
}

// socket connects a program's socket to port 7 of AA, without waiting.
func (h *host) socket(kind int) int {
	h.t.Helper()
	family := unix.AF_INET6
	var to unix.Sockaddr = &unix.SockaddrInet6{Port: 7, Addr: h.aa.As16()}
	if h.v4 {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: 7, Addr: h.aa.As4()}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	must(h.t, err)
	h.t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Connect(fd, to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		h.t.Fatal(err)
	}
	return fd
}

// next is the next packet of a protocol from the client to AA. It holds the
// packet to what its header says.
func (h *host) next(protocol tcpip.TransportProtocolNumber) arrived {
	h.t.Helper()
	for {
		n, err := h.d.Read([][]byte{h.read[:], h.data[:]})
		must(h.t, err)
		b := bytes.Clone(h.data[:n-10])
		a := arrived{
			flags: h.read[0], gso: h.read[1], segment: binary.NativeEndian.Uint16(h.read[4:]),
			checksumStart: int(binary.NativeEndian.Uint16(h.read[6:])), packet: b,
		}
		var src, dst tcpip.Address
		if header.IPVersion(b) == header.IPv4Version {
			head := header.IPv4(b)
			if head.TransportProtocol() != protocol {
				continue
			}
			a.network, src, dst = int(head.HeaderLength()), head.SourceAddress(), head.DestinationAddress()
		} else {
			head := header.IPv6(b)
			if head.NextHeader() != uint8(protocol) {
				continue
			}
			a.network, src, dst = header.IPv6MinimumSize, head.SourceAddress(), head.DestinationAddress()
		}
		a.message = b[a.network:]
		pseudo := header.PseudoHeaderChecksum(protocol, src, dst, uint16(len(a.message)))
		at := map[tcpip.TransportProtocolNumber]int{header.TCPProtocolNumber: 16, header.UDPProtocolNumber: 6}[protocol]
		switch {
		case a.flags&1 == 0 && checksum.Checksum(a.message, pseudo) != 0xffff:
			h.t.Errorf("a packet of %d bytes has a wrong checksum, and is said to have a right one", len(b))
		case a.flags&1 != 0 && (a.checksumStart != a.network || int(binary.NativeEndian.Uint16(h.read[8:])) != at || binary.BigEndian.Uint16(a.message[at:]) != pseudo):
			h.t.Errorf("a packet of %d bytes wants its checksum at %d+%d: % x", len(b), a.checksumStart, binary.NativeEndian.Uint16(h.read[8:]), h.read)
		}
		return a
	}
}

// answer sends a segment from AA, whose member is made of packets.
func (h *host) answer(to header.TCP, f header.TCPFields, options []byte) {
	h.t.Helper()
	f.SrcPort, f.DstPort, f.WindowSize = to.DestinationPort(), to.SourcePort(), 65535
	f.DataOffset = uint8(header.TCPMinimumSize + len(options))
	segment := header.TCP(append(make([]byte, header.TCPMinimumSize), options...))
	segment.Encode(&f)
	src, dst := tcpip.AddrFromSlice(h.aa.AsSlice()), tcpip.AddrFromSlice(h.client.AsSlice())
	segment.SetChecksum(^checksum.Checksum(segment, header.PseudoHeaderChecksum(header.TCPProtocolNumber, src, dst, uint16(len(segment)))))
	var head []byte
	if h.v4 {
		head = make([]byte, header.IPv4MinimumSize)
		header.IPv4(head).Encode(&header.IPv4Fields{TotalLength: uint16(len(head) + len(segment)), TTL: 64, Protocol: 6, SrcAddr: src, DstAddr: dst})
		header.IPv4(head).SetChecksum(^header.IPv4(head).CalculateChecksum())
	} else {
		head = make([]byte, header.IPv6MinimumSize)
		header.IPv6(head).Encode(&header.IPv6Fields{PayloadLength: uint16(len(segment)), TransportProtocol: 6, HopLimit: 64, SrcAddr: src, DstAddr: dst})
	}
	must(h.t, h.d.Write([][]byte{make([]byte, 10), head, segment}))
}

// TestOffloadOfWhatProgramsSend: what a program sends in one go is handed over in
// packets of many only to who has asked for it.
func TestOffloadOfWhatProgramsSend(t *testing.T) {
	for _, mode := range []OffloadMode{OffloadAuto, OffloadOff} {
		for _, v4 := range []bool{false, true} {
			name := fmt.Sprintf("%v IPv4 %v", map[OffloadMode]string{OffloadAuto: "auto", OffloadOff: "off"}[mode], v4)
			t.Run(name+" TCP", func(t *testing.T) {
				h := newHostWith(t, mode, v4)
				large := h.sendSegments(200 << 10)
				if (large > 0) != h.has.TCP {
					t.Errorf("%d packets were of several segments", large)
				}
			})
			t.Run(name+" UDP", func(t *testing.T) {
				h := newHostWith(t, mode, v4)
				large := h.sendDatagrams(10*1000+7, 1000)
				if want := map[bool]int{true: 1}[h.has.UDP]; large != want {
					t.Errorf("%d packets were of several datagrams, want %d", large, want)
				}
			})
		}
	}
}

// sendSegments has a program write so many bytes to a member that takes them, and
// returns how many packets were of several segments.
func (h *host) sendSegments(total int) (large int) {
	fd := h.socket(unix.SOCK_STREAM)
	syn := header.TCP(h.next(header.TCPProtocolNumber).message)
	seq, mss := uint32(7), uint16(1400)
	accept := func() {
		h.answer(syn, header.TCPFields{SeqNum: seq, AckNum: syn.SequenceNumber() + 1, Flags: header.TCPFlagSyn | header.TCPFlagAck},
			[]byte{header.TCPOptionMSS, header.TCPOptionMSSLength, byte(mss >> 8), byte(mss)})
	}
	accept()
	first := syn.SequenceNumber() + 1
	sent, data := 0, make([]byte, 64<<10)
	for got := uint32(0); int(got) < total; {
		if sent < total {
			if int(got) == sent { // nothing is under way, and the kernel may not have dealt with the last answer
				_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 1000)
				if err != nil && !errors.Is(err, unix.EINTR) {
					h.t.Fatal(err)
				}
			}
			if n, err := unix.Write(fd, data[:min(len(data), total-sent)]); err == nil {
				sent += n
			} else if !errors.Is(err, unix.EAGAIN) {
				h.t.Fatal(err)
			}
		}
		a := h.next(header.TCPProtocolNumber)
		segment := header.TCP(a.message)
		if segment.Flags().Contains(header.TCPFlagSyn) {
			accept() // once more
			continue
		}
		payload := len(segment.Payload())
		switch kind := map[bool]byte{true: 1, false: 4}[h.v4]; {
		case a.gso == 0 && (len(a.packet) > defaultMTU || payload > int(mss)):
			h.t.Errorf("one segment of %d bytes", payload)
		case a.gso != 0 && (a.gso != kind || int(a.segment) != int(mss) || payload <= int(mss)):
			h.t.Errorf("%d bytes are of the kind %d, by %d", payload, a.gso, a.segment)
		case a.gso != 0:
			large++
		}
		if segment.SequenceNumber() == first+got {
			got += uint32(payload)
		}
		h.answer(segment, header.TCPFields{SeqNum: seq + 1, AckNum: first + got, Flags: header.TCPFlagAck}, nil)
	}
	return large
}

// sendDatagrams has a program send so many bytes as datagrams of a size, in one
// call, and returns how many packets were of several.
func (h *host) sendDatagrams(total, size int) (large int) {
	fd := h.socket(unix.SOCK_DGRAM)
	must(h.t, unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, size))
	data := make([]byte, total)
	for i := range data {
		data[i] = byte(i * 7)
	}
	if _, err := unix.Write(fd, data); err != nil {
		h.t.Fatal(err)
	}
	for len(data) > 0 {
		a := h.next(header.UDPProtocolNumber)
		payload := header.UDP(a.message).Payload()
		if !bytes.HasPrefix(data, payload) || len(payload) == 0 {
			h.t.Fatalf("%d bytes, or others", len(payload))
		}
		switch {
		case a.gso == 0 && len(payload) != min(size, len(data)):
			h.t.Errorf("one datagram of %d bytes", len(payload))
		case a.gso != 0 && (a.gso != 5 || int(a.segment) != size):
			h.t.Errorf("%d bytes are of the kind %d, by %d", len(payload), a.gso, a.segment)
		case a.gso != 0:
			large++
		}
		data = data[len(payload):]
	}
	return large
}

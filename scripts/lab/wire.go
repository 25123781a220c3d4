package main

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"sort"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// wire listens on every interface of its namespace until SIGTERM and counts
// what is addressed to the anycast addresses, by kind. Only probes may be: ICMPv6
// echo requests and STUN Binding requests.
func wire(args []string) error {
	f := flag.NewFlagSet("wire", flag.ExitOnError)
	list := f.String("aa", "", "anycast addresses, with commas")
	_ = f.Parse(args) // exits on error
	watched := map[netip.Addr]bool{}
	for _, s := range strings.Split(*list, ",") {
		aa, err := netip.ParseAddr(s)
		if err != nil {
			return err
		}
		watched[aa] = true
	}
	// A packet socket wants its protocol in network byte order.
	proto := uint16(unix.ETH_P_ALL)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(proto>>8|proto<<8))
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	fmt.Println("listening")
	counts, err := countKinds(fd, watched, signals)
	if err != nil {
		return err
	}
	return judge(counts)
}

func countKinds(fd int, watched map[netip.Addr]bool, signals <-chan os.Signal) (map[string]int, error) {
	// The time-out lets a signal be seen on a silent wire.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}); err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
		return nil, fmt.Errorf("a small buffer could miss packets: %w", err)
	}
	counts := map[string]int{}
	buf := make([]byte, 65536)
	for {
		select {
		case <-signals:
			return counts, lost(fd)
		default:
		}
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if dst, kind := classify(buf[:n]); watched[dst] {
			counts[kind]++
		}
	}
}

// lost is an error if the kernel had to drop packets: what was not seen cannot
// be vouched for.
func lost(fd int) error {
	stats, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return err
	}
	if stats.Drops > 0 {
		return fmt.Errorf("%d packets were not seen", stats.Drops)
	}
	return nil
}

// classify returns the destination of an IP packet and what kind it is.
func classify(b []byte) (netip.Addr, string) {
	var dst netip.Addr
	var proto byte
	var payload []byte
	switch {
	case len(b) >= 40 && b[0]>>4 == 6:
		dst, proto, payload = netip.AddrFrom16([16]byte(b[24:40])), b[6], b[40:]
	case len(b) >= 20 && b[0]>>4 == 4 && len(b) >= int(b[0]&15)*4:
		dst, proto, payload = netip.AddrFrom4([4]byte(b[16:20])), b[9], b[int(b[0]&15)*4:]
	default:
		return dst, "no IP"
	}
	switch {
	case proto == 6:
		return dst, "tcp"
	case proto == 17 && isBindingRequest(payload):
		return dst, stunRequest
	case proto == 17:
		return dst, "udp"
	case proto == 58 && len(payload) > 0 && payload[0] == 128:
		return dst, echoRequest
	case proto == 58 && len(payload) > 0:
		return dst, fmt.Sprintf("icmpv6 type %d", payload[0])
	case proto == 1 && len(payload) > 0:
		return dst, fmt.Sprintf("icmpv4 type %d", payload[0])
	}
	return dst, fmt.Sprintf("protocol %d", proto)
}

const (
	echoRequest = "icmpv6 echo request"
	stunRequest = "stun binding request"
)

// isBindingRequest tells a UDP datagram to port 3478 with the type and the magic
// cookie of a STUN Binding request (RFC 8489 section 5).
func isBindingRequest(udp []byte) bool {
	return len(udp) >= 8+20 && udp[2] == 3478>>8 && udp[3] == 3478&0xff && string(udp[8:10]) == "\x00\x01" && string(udp[12:16]) == "\x21\x12\xa4\x42"
}

func judge(counts map[string]int) error {
	var kinds, wrong []string
	for kind, n := range counts {
		kinds = append(kinds, fmt.Sprintf("%s: %d", kind, n))
		if kind != echoRequest && kind != stunRequest {
			wrong = append(wrong, kind)
		}
	}
	sort.Strings(kinds)
	fmt.Println("to AA on the wire:", strings.Join(kinds, ", "))
	if len(wrong) > 0 {
		return fmt.Errorf("there was %s to AA on the wire", strings.Join(wrong, ", "))
	}
	if counts[echoRequest] == 0 {
		return errors.New("not one probe was seen: the wire was not heard")
	}
	return nil
}

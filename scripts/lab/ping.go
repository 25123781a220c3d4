package main

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"os"
	"time"
)

// ping sends one echo request over a raw socket and wants the same back: id,
// sequence number and data. Silence is a time-out.
func ping(args []string) error {
	f := flag.NewFlagSet("ping", flag.ExitOnError)
	size := f.Int("size", 56, "bytes of data")
	timeout := f.Duration("timeout", 2*time.Second, "how long to wait")
	_ = f.Parse(args) // exits on error
	to := net.ParseIP(f.Arg(0))
	network, request, reply := "ip6:ipv6-icmp", byte(128), byte(129)
	if to.To4() != nil {
		network, request, reply = "ip4:icmp", 8, 0
	}
	conn, err := net.ListenPacket(network, "")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is buffered in it
	message := make([]byte, 8+*size)
	_, _ = rand.Read(message[4:]) // never fails; id, sequence number and data
	message[0] = request
	if request == 8 {
		binary.BigEndian.PutUint16(message[2:], onesComplement(message))
	}
	if _, err := conn.WriteTo(message, &net.IPAddr{IP: to}); err != nil {
		return err
	}
	return awaitReply(conn, message[4:], reply, time.Now().Add(*timeout))
}

func awaitReply(conn net.PacketConn, want []byte, kind byte, until time.Time) error {
	buf := make([]byte, 65536)
	if err := conn.SetReadDeadline(until); err != nil {
		return err
	}
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			if os.IsTimeout(err) {
				return fmt.Errorf("silence: %w", err)
			}
			return err
		}
		// Type 1 and 3 say unreachable, but a raw socket hears of every
		// packet of the host, so only what quotes our own data counts.
		if n >= 8 && buf[0] == kind && bytes.Equal(buf[4:n], want) {
			fmt.Printf("from=%v bytes=%d\n", from, n-8)
			return nil
		}
	}
}

// onesComplement is the Internet checksum (RFC 1071).
func onesComplement(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

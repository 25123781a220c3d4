package main

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"syscall"
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
	network, request, reply := icmpOf(to)
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
	from, err := awaitReply(conn, message[4:], reply, time.Now().Add(*timeout))
	if err != nil {
		return err
	}
	fmt.Printf("from=%s bytes=%d\n", from, *size)
	return nil
}

// echoFlow is a run of echo requests with one identifier. A request may be lost,
// so it is sent again, and that is counted.
func echoFlow(to string, r *result, stop <-chan struct{}, started func()) error {
	defer started()
	host, _, err := net.SplitHostPort(to)
	if err != nil {
		return err
	}
	ip := net.ParseIP(host)
	network, request, reply := icmpOf(ip)
	conn, err := net.ListenPacket(network, "")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is buffered in it
	stream, message := newPattern(r.ID), make([]byte, 8+r.size)
	_, _ = rand.Read(message[4:6]) // never fails; the identifier
	r.Local = fmt.Sprint("id ", binary.BigEndian.Uint16(message[4:]))
	for seq := uint16(0); ; seq++ {
		binary.BigEndian.PutUint16(message[6:], seq)
		stream.next(message[8:])
		if err := echoRound(conn, ip, r, message, request, reply); err != nil {
			return err
		}
		started()
		r.Bytes += len(message) - 8
		select {
		case <-stop:
			return nil
		case <-time.After(pace):
		}
	}
}

func echoRound(conn net.PacketConn, to net.IP, r *result, message []byte, request, reply byte) error {
	message[0], message[2], message[3] = request, 0, 0
	if request == 8 {
		binary.BigEndian.PutUint16(message[2:], onesComplement(message))
	}
	for try := range 5 {
		if try > 0 {
			r.Resent++
		}
		if _, err := conn.WriteTo(message, &net.IPAddr{IP: to}); err != nil && !errors.Is(err, syscall.EMSGSIZE) { // the path is narrower than was known
			return err
		}
		from, err := awaitReply(conn, message[4:], reply, time.Now().Add(time.Second))
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case err != nil:
			return err
		case from != to.String():
			return fmt.Errorf("answered from %s", from)
		}
		return nil
	}
	return errors.New("no echo after 5 tries")
}

// icmpOf is how to ping an address: the socket, and the types of request and
// reply (RFC 792, RFC 4443 section 4).
func icmpOf(ip net.IP) (network string, request, reply byte) {
	if ip.To4() != nil {
		return "ip4:icmp", 8, 0
	}
	return "ip6:ipv6-icmp", 128, 129
}

func awaitReply(conn net.PacketConn, want []byte, kind byte, until time.Time) (string, error) {
	buf := make([]byte, 65536)
	if err := conn.SetReadDeadline(until); err != nil {
		return "", err
	}
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			if os.IsTimeout(err) {
				return "", fmt.Errorf("silence: %w", err)
			}
			return "", err
		}
		// Type 1 and 3 say unreachable, but a raw socket hears of every
		// packet of the host, so only what quotes our own data counts.
		if n >= 8 && buf[0] == kind && bytes.Equal(buf[4:n], want) {
			return from.String(), nil
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

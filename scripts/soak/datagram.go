package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tries is how often a datagram is sent before the flow counts as ended, at
// most one a second: longer than any outage.
const tries = 10

// exchange sends one datagram and returns what came back; ok is false for what
// is not an answer to it, or an old one.
type exchange struct {
	conn   net.Conn
	send   func(seq uint16) []byte
	accept func(got []byte, seq uint16) (ok bool, err error)
}

// round sends a datagram until it is answered: the network may lose one, and
// while a member or a link is down it says so, and no more than that. It returns
// how often it had to be sent again.
func (e *exchange) round(seq uint16) (again int, err error) {
	buf := make([]byte, 65536)
	datagram := e.send(seq)
	for ; again < tries; again++ {
		until := time.Now().Add(time.Second)
		if err = e.conn.SetDeadline(until); err != nil {
			return again, err
		}
		if _, err = e.conn.Write(datagram); err == nil {
			var done bool
			if done, err = e.await(buf, seq); done {
				return again, err
			}
		}
		if !passing(err) {
			return again, err
		}
		time.Sleep(time.Until(until)) // an error came early
	}
	return again, fmt.Errorf("no answer after %d tries: %w", tries, err)
}

// await reads until the answer to seq is there, or an error, or the deadline.
func (e *exchange) await(buf []byte, seq uint16) (done bool, err error) {
	for {
		n, err := e.conn.Read(buf)
		if err != nil {
			return false, err
		}
		if ok, err := e.accept(buf[:n], seq); ok || err != nil {
			return true, err
		}
	}
}

// passing reports whether an error is one that the network sends about a
// datagram, or silence.
func passing(err error) bool {
	for _, errno := range []error{os.ErrDeadlineExceeded, unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EACCES, unix.ENETDOWN} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// datagrams runs rounds until ctx ends, or as many as there are to be.
func (f *flow) datagrams(ctx context.Context, e *exchange, size, rounds int, pause time.Duration, again func(int)) (sum int64, err error) {
	for seq := uint16(0); rounds == 0 || int(seq) < rounds; seq++ {
		n, err := e.round(seq)
		again(n)
		if err != nil {
			return sum, err
		}
		f.last = time.Now()
		sum += int64(size)
		select {
		case <-ctx.Done():
			return sum, nil
		case <-time.After(pause):
		}
	}
	return sum, nil
}

// content is what the flow sends with a number.
func (f *flow) content(seq uint16, size int) []byte {
	data := make([]byte, size)
	newPattern(fmt.Sprintf("%s/%d", f.id, seq)).next(data)
	return data
}

// udp is a UDP flow to a port, for as many rounds, or without end for 0.
func (f *flow) udp(ctx context.Context, port uint16, size, rounds int, pause time.Duration, again func(int)) (int64, error) {
	conn, err := net.Dial("udp", netip.AddrPortFrom(f.service.aa, port).String())
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }() // nothing is buffered in it
	// The server wants the flow's id and a space first, and sends all of it
	// back behind its own name and a space.
	datagram := func(seq uint16) []byte {
		return append(binary.BigEndian.AppendUint16([]byte(f.id+" "), seq), f.content(seq, size)...)
	}
	e := &exchange{conn: conn, send: datagram, accept: func(got []byte, seq uint16) (bool, error) {
		name, echo, _ := bytes.Cut(got, []byte(" "))
		at := len(f.id) + 1
		if len(echo) < at+2 {
			return false, fmt.Errorf("%w: %d bytes", errCorrupt, len(got))
		}
		old := binary.BigEndian.Uint16(echo[at:])
		if !bytes.Equal(echo, datagram(old)) {
			return false, fmt.Errorf("%w in datagram %d: answer to %d: %s", errCorrupt, seq, old, difference(echo, datagram(old)))
		}
		if f.member == "" {
			f.member = strings.Clone(string(name))
		} else if f.member != string(name) {
			return false, fmt.Errorf("%w from %s to %s", errMoved, f.member, name)
		}
		return old == seq, nil
	}}
	return f.datagrams(ctx, e, size, rounds, pause, again)
}

const icmpHeader = 8

// echo is a ping run; the kernel gives the socket its id (icmp(7)).
func (f *flow) echo(ctx context.Context, size, rounds int, pause time.Duration, again func(int)) (int64, error) {
	conn, err := pingSocket(f.service.aa)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }() // nothing is buffered in it
	request, reply := byte(128), byte(129)
	if f.service.aa.Is4() {
		request, reply = 8, 0
	}
	e := &exchange{conn: conn, send: func(seq uint16) []byte {
		message := make([]byte, icmpHeader)
		message[0] = request
		binary.BigEndian.PutUint16(message[6:], seq)
		return append(message, f.content(seq, size)...)
	}, accept: func(got []byte, seq uint16) (bool, error) {
		if len(got) < icmpHeader || got[0] != reply {
			return false, fmt.Errorf("%w: no echo reply: %d bytes", errCorrupt, len(got))
		}
		old := binary.BigEndian.Uint16(got[6:])
		if want := f.content(old, size); !bytes.Equal(got[icmpHeader:], want) {
			return false, fmt.Errorf("%w in echo %d: answer to %d: %s", errCorrupt, seq, old, difference(got[icmpHeader:], want))
		}
		return old == seq, nil
	}}
	return f.datagrams(ctx, e, size, rounds, pause, again)
}

// difference tells where two messages differ.
func difference(got, want []byte) string {
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	return fmt.Sprintf("%d bytes of %d, from byte %d on % x instead of % x", len(got), len(want), at,
		got[at:min(at+16, len(got))], want[at:min(at+16, len(want))])
}

// pingConn hears one address. A connected ping socket hears all that answer its
// id, and the kernel gives it one that may also be that of a raw socket, such as
// aarptun's own.
type pingConn struct {
	*net.UDPConn
	from netip.Addr
}

// Read implements [net.Conn].
func (c pingConn) Read(b []byte) (int, error) {
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil || from.Addr().Unmap() == c.from {
			return n, err
		}
	}
}

// pingSocket is connected to AA.
func pingSocket(aa netip.Addr) (net.Conn, error) {
	family, proto := unix.AF_INET6, unix.IPPROTO_ICMPV6
	var to unix.Sockaddr = &unix.SockaddrInet6{Addr: aa.As16()}
	if aa.Is4() {
		family, proto, to = unix.AF_INET, unix.IPPROTO_ICMP, &unix.SockaddrInet4{Addr: aa.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "ping")
	defer func() { _ = file.Close() }() // FileConn has a descriptor of its own
	if err := unix.Connect(fd, to); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return pingConn{conn.(*net.UDPConn), aa}, nil // a datagram socket is one, whatever its protocol
}

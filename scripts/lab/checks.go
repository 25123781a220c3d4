package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// one reads the flags that the single checks share.
func one(name string, args []string) (to string, timeout time.Duration) {
	return oneWith(flag.NewFlagSet(name, flag.ExitOnError), args)
}

// oneWith is one with flags of the check's own.
func oneWith(f *flag.FlagSet, args []string) (to string, timeout time.Duration) {
	t := f.Duration("timeout", 3*time.Second, "how long to wait")
	_ = f.Parse(args) // exits on error
	return f.Arg(0), *t
}

// connect opens one TCP connection and says what the program sees of it.
func connect(args []string) error {
	to, timeout := one("connect", args)
	conn, err := net.DialTimeout("tcp", to, timeout)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // only looked at
	name, err := hello(conn, bufio.NewReader(conn), "connect")
	if err != nil {
		return err
	}
	fmt.Printf("peer=%v local=%v member=%s\n", conn.RemoteAddr(), hostOf(conn.LocalAddr()), name)
	return nil
}

func hostOf(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}

// halfClose sends everything, then FIN, and only then reads the answer.
func halfClose(args []string) error {
	to, timeout := one("halfclose", args)
	conn, err := net.DialTimeout("tcp", to, timeout)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // everything has been read by then
	want := make([]byte, 100_000)       // less than the sockets on the way hold
	newPattern("halfclose").next(want)
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := conn.Write(append([]byte("halfclose\n"), want...)); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	_, echo, _ := bytes.Cut(got, []byte("\n"))
	if !bytes.Equal(echo, want) {
		return fmt.Errorf("%d of %d bytes came back after FIN", len(echo), len(want))
	}
	fmt.Println("halfclose ok")
	return nil
}

// udp sends one datagram from a socket that is not connected, so that the
// answer's source can be seen, and one from a connected socket, which hears of
// ICMP errors. With --hops the connected one has that hop limit.
func udp(args []string) error {
	f := flag.NewFlagSet("udp", flag.ExitOnError)
	hops := f.Int("hops", 0, "hop limit; 0 is the host's own")
	to, timeout := oneWith(f, args)
	raddr, err := net.ResolveUDPAddr("udp", to)
	if err != nil {
		return err
	}
	connected, err := net.DialUDP("udp", nil, raddr)
	if err != nil {
		return err
	}
	defer func() { _ = connected.Close() }() // nothing is buffered in it
	buf := make([]byte, 65536)
	if *hops > 0 {
		if err := limitHops(connected, raddr.IP.To4() != nil, *hops); err != nil {
			return err
		}
	}
	if err := ask(connected, timeout); err != nil {
		return err
	}
	if _, err := connected.Read(buf); err != nil {
		return err
	}
	free, err := net.ListenUDP("udp", nil)
	if err != nil {
		return err
	}
	defer func() { _ = free.Close() }() // nothing is buffered in it
	if err := free.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := free.WriteToUDP([]byte("udp hello"), raddr); err != nil {
		return err
	}
	n, from, err := free.ReadFromUDPAddrPort(buf)
	if err != nil {
		return err
	}
	name, _, _ := strings.Cut(string(buf[:n]), " ")
	fmt.Printf("from=%v member=%s\n", netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), name)
	return nil
}

// limitHops sets the hop limit, and has errors reported that are not fatal, such as
// that it has ended (ip(7), IP_RECVERR).
func limitHops(conn *net.UDPConn, v4 bool, hops int) error {
	level, limit, report := unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, unix.IPV6_RECVERR
	if v4 {
		level, limit, report = unix.SOL_IP, unix.IP_TTL, unix.IP_RECVERR
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = errors.Join(unix.SetsockoptInt(int(fd), level, limit, hops), unix.SetsockoptInt(int(fd), level, report, 1))
	})
	return errors.Join(err, set)
}

func ask(conn *net.UDPConn, timeout time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	_, err := conn.Write([]byte("udp hello"))
	return err
}

// stream sends and checks bytes over one flow and says each half second which
// member it is with.
func stream(args []string) error {
	f := flag.NewFlagSet("stream", flag.ExitOnError)
	limit := f.Duration("for", 3*time.Second, "how long")
	_ = f.Parse(args) // exits on error
	r := &result{ID: "stream"}
	stop := make(chan struct{})
	ended := make(chan error, 1)
	started := make(chan struct{})
	go func() { ended <- tcpFlow(f.Arg(0), r, stop, sync.OnceFunc(func() { close(started) })) }()
	<-started
	begin := time.Now()
	fmt.Printf("  %4.1fs  connected to %s, served by %s\n", 0.0, f.Arg(0), r.Member)
	tick := time.NewTicker(*limit / 5)
	defer tick.Stop()
	for time.Since(begin) < *limit {
		select {
		case err := <-ended:
			return fmt.Errorf("the flow broke: %w", err)
		case <-tick.C:
			fmt.Printf("  %4.1fs  still with %s\n", time.Since(begin).Seconds(), r.Member)
		}
	}
	close(stop)
	if err := <-ended; err != nil {
		return err
	}
	fmt.Printf("  %d bytes sent and verified\n", r.Bytes)
	return nil
}

package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
)

// scatter sends the first datagram of many UDP flows, and waits for no answer: each
// goes to a port of its own, and few sockets send them all.
func scatter(args []string) error {
	f := flag.NewFlagSet("scatter", flag.ExitOnError)
	to := f.String("to", "", "`ADDRESS` that they go to")
	n := f.Int("flows", 100_000, "how `many`")
	_ = f.Parse(args) // it ends the program on an error
	address, err := netip.ParseAddr(*to)
	if err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	const first, each = 1024, 60_000
	for left := *n; left > 0; left -= each {
		if err := scatterFrom(address, first, min(left, each)); err != nil {
			return err
		}
	}
	return nil
}

// scatterFrom sends n datagrams from one socket, to ports from first on.
func scatterFrom(to netip.Addr, first, n int) (err error) {
	socket, err := net.ListenUDP("udp", nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, socket.Close()) }()
	for i := range n {
		if _, err := socket.WriteToUDPAddrPort([]byte{'x'}, netip.AddrPortFrom(to, uint16(first+i))); err != nil {
			return err
		}
	}
	return nil
}

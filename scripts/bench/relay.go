package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
)

// relayCommand is what a translator in user space that ends TCP flows cannot be
// faster than: it accepts them on the host of the client, by the kernel's TCP over
// loopback and not by one of its own over a TUN, and moves their bytes in the
// kernel, by splice(2), which package net uses between two sockets.
func relayCommand(args []string) (int, error) {
	f := flag.NewFlagSet("relay", flag.ContinueOnError)
	var ua, ua4 string
	f.StringVar(&ua, "ua", "", "address of the member")
	f.StringVar(&ua4, "ua4", "", "its IPv4 address")
	if err := f.Parse(args); err != nil {
		return 64, err
	}
	failed := make(chan error)
	for _, family := range []struct{ network, to string }{{"tcp6", ua}, {"tcp4", ua4}} {
		to, err := netip.ParseAddr(family.to)
		if err != nil {
			return 64, err
		}
		for port := portSink; port < portEcho+echoPorts; port++ {
			l, err := net.Listen(family.network, fmt.Sprintf(":%d", port))
			if err != nil {
				return 1, err
			}
			go func() { failed <- relayAll(l, netip.AddrPortFrom(to, uint16(port))) }()
		}
	}
	fmt.Println("relaying")
	return 1, <-failed
}

func relayAll(l net.Listener, to netip.AddrPort) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go relay(c.(*net.TCPConn), to)
	}
}

// relay carries one flow; that its end fails is the load's to tell.
func relay(inside *net.TCPConn, to netip.AddrPort) {
	defer func() { _ = inside.Close() }()
	c, err := net.Dial("tcp", to.String())
	if err != nil {
		_ = inside.SetLinger(0) // the client is told by RST
		return
	}
	outside := c.(*net.TCPConn)
	defer func() { _ = outside.Close() }()
	done := make(chan error)
	go func() {
		_, err := io.Copy(outside, inside)
		done <- errors.Join(err, outside.CloseWrite())
	}()
	if _, err := io.Copy(inside, outside); err == nil {
		_ = inside.CloseWrite()
	}
	<-done
}

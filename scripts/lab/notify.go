package main

import (
	"flag"
	"fmt"
	"net"
	"strings"
	"time"
)

// notify is the socket on which systemd listens: it prints what it is told, one
// line for each message, with the milliseconds since it began.
func notify(args []string) error {
	f := flag.NewFlagSet("notify", flag.ExitOnError)
	path := f.String("socket", "", "path of the socket")
	_ = f.Parse(args) // exits on error
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: *path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // what was said, was printed
	began, buf := time.Now(), make([]byte, 4096)
	fmt.Println("0 listening")
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return err
		}
		fmt.Println(time.Since(began).Milliseconds(), strings.ReplaceAll(string(buf[:n]), "\n", " "))
	}
}

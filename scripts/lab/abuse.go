package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// abuse does to a unix socket that speaks HTTP what its clients should not: many
// connections at once, each of which sends nothing, garbage, more than anybody
// reads, or a request a byte at a time, and reads nothing.
func abuse(args []string) error {
	f := flag.NewFlagSet("abuse", flag.ExitOnError)
	path := f.String("socket", "", "path of the socket")
	connections := f.Int("connections", 1000, "number of connections at once")
	limit := f.Duration("for", 3*time.Second, "how long")
	_ = f.Parse(args) // exits on error
	var connected, refused atomic.Int64
	var running sync.WaitGroup
	end := time.Now().Add(*limit)
	for i := range *connections {
		running.Go(func() {
			for time.Now().Before(end) {
				conn, err := net.DialTimeout("unix", *path, time.Until(end))
				if err != nil {
					refused.Add(1) // the queue is full: again
					time.Sleep(20 * time.Millisecond)
					continue
				}
				connected.Add(1)
				// How it ends is the other end's choice.
				_ = errors.Join(conn.SetDeadline(end), abuses[i%len(abuses)](conn, end), conn.Close())
			}
		})
	}
	running.Wait()
	fmt.Printf("connected=%d refused=%d\n", connected.Load(), refused.Load())
	if connected.Load() == 0 {
		return errors.New("nobody could connect")
	}
	return nil
}

var abuses = []func(conn net.Conn, end time.Time) error{
	func(conn net.Conn, end time.Time) error { // silence
		_, err := io.ReadAll(conn)
		return err
	},
	func(conn net.Conn, end time.Time) error { // garbage
		var seed [32]byte
		_, err := io.CopyN(conn, rand.NewChaCha8(seed), 64<<10)
		return err
	},
	func(conn net.Conn, end time.Time) error { // a header without end
		_, err := fmt.Fprintf(conn, "GET /v1/status HTTP/1.1\r\nHost: x\r\n")
		for err == nil {
			_, err = fmt.Fprintf(conn, "X-More: %s\r\n", bytes.Repeat([]byte{'a'}, 4096))
		}
		return err
	},
	func(conn net.Conn, end time.Time) error { // a body without end
		_, err := fmt.Fprintf(conn, "POST /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n")
		for err == nil {
			_, err = conn.Write(make([]byte, 64<<10))
		}
		return err
	},
	func(conn net.Conn, end time.Time) error { // a byte at a time
		for _, b := range []byte("GET /v1/flows HTTP/1.1\r\nHost: x\r\n\r\n") {
			if _, err := conn.Write([]byte{b}); err != nil {
				return err
			}
			time.Sleep(200 * time.Millisecond)
		}
		return nil
	},
	func(conn net.Conn, end time.Time) error { // questions without end, whose answers nobody reads
		var err error
		for err == nil {
			_, err = fmt.Fprintf(conn, "GET /v1/flows HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		return err
	},
}

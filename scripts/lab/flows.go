package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// result is what became of one flow.
type result struct {
	ID     string `json:"id"`
	Proto  string `json:"proto"`
	Local  string `json:"local"`
	Member string `json:"member"`
	Bytes  int    `json:"bytes"` // sent, and got back unchanged
	Resent int    `json:"resent,omitempty"`
	Error  string `json:"error,omitempty"`

	size  int           // of a datagram
	every time.Duration // rest between two chunks; 0 is pace
}

// flows runs many flows at once until a signal comes, or for a time, and says
// for each which member served it. Every byte is checked.
func flows(args []string) error {
	f := flag.NewFlagSet("flows", flag.ExitOnError)
	to := f.String("to", "", "address and port of the service")
	tcp := f.Int("tcp", 0, "number of TCP flows")
	udp := f.Int("udp", 0, "number of UDP flows")
	echo := f.Int("echo", 0, "number of runs of echo requests, to the address alone")
	limit := f.Duration("for", time.Minute, "how long, unless SIGTERM comes before")
	tag := f.String("tag", "f", "first part of the flows' ids")
	every := f.Duration("every", pace, "how long each flow rests between two of its chunks")
	size := f.Int("datagram", 1000, "bytes of data in each datagram and echo request")
	_ = f.Parse(args) // exits on error

	stop := make(chan struct{})
	go func() {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
		select {
		case <-signals:
		case <-time.After(*limit):
		}
		close(stop)
	}()
	results := make([]result, *tcp+*udp+*echo)
	var running, started sync.WaitGroup
	for i := range results {
		r := &results[i]
		r.ID, r.Proto, r.size, r.every = fmt.Sprintf("%s-%d", *tag, i), "tcp", *size, *every
		run := tcpFlow
		if i >= *tcp {
			r.Proto, run = "udp", udpFlow
		}
		if i >= *tcp+*udp {
			r.Proto, run = "echo", echoFlow
		}
		started.Add(1)
		running.Go(func() {
			if err := run(*to, r, stop, sync.OnceFunc(started.Done)); err != nil {
				r.Error = errnoName(err) + err.Error()
			}
		})
	}
	started.Wait()
	fmt.Println("started")
	running.Wait()
	return report(results)
}

func report(results []result) error {
	broken := 0
	for _, r := range results {
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		fmt.Println(string(line))
		if r.Error != "" {
			broken++
		}
	}
	if broken > 0 {
		return fmt.Errorf("%d of %d flows broke", broken, len(results))
	}
	return nil
}

// pattern is a flow's own stream of bytes, the same every time.
type pattern struct{ rng *rand.ChaCha8 }

func newPattern(id string) *pattern {
	var seed [32]byte
	copy(seed[:], id)
	return &pattern{rand.NewChaCha8(seed)}
}

func (p *pattern) next(b []byte) { _, _ = p.rng.Read(b) } // never fails

const (
	chunk    = 4 << 10
	pace     = 20 * time.Millisecond
	patience = 10 * time.Second // within which an echo must come back
)

func tcpFlow(to string, r *result, stop <-chan struct{}, started func()) error {
	defer started()
	conn, err := net.DialTimeout("tcp", to, patience)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // every byte has been checked by then
	r.Local = conn.LocalAddr().String()
	reader := bufio.NewReaderSize(conn, 2*chunk)
	if r.Member, err = hello(conn, reader, r.ID); err != nil {
		return err
	}
	started()
	sent, expected := newPattern(r.ID), newPattern(r.ID)
	out, want, got := make([]byte, chunk), make([]byte, chunk), make([]byte, chunk)
	for {
		sent.next(out)
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := conn.Write(out); err != nil {
			return err
		}
		if _, err := io.ReadFull(reader, got); err != nil {
			return err
		}
		if expected.next(want); !bytes.Equal(got, want) {
			return fmt.Errorf("corrupt after %d bytes", r.Bytes)
		}
		r.Bytes += chunk
		select {
		case <-stop:
			return finish(conn.(*net.TCPConn), reader)
		case <-time.After(cmp.Or(r.every, pace)):
		}
	}
}

// hello tells the server the flow's id and returns the server's name.
func hello(conn net.Conn, reader *bufio.Reader, id string) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(conn, id); err != nil {
		return "", err
	}
	name, err := reader.ReadString('\n')
	return strings.TrimSpace(name), err
}

// finish sends FIN and wants the server's FIN and nothing before it.
func finish(conn *net.TCPConn, reader io.Reader) error {
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	rest, err := io.ReadAll(reader)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes too many", len(rest))
	}
	return err
}

func udpFlow(to string, r *result, stop <-chan struct{}, started func()) error {
	defer started()
	conn, err := net.Dial("udp", to)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is buffered in it
	r.Local = conn.LocalAddr().String()
	stream := newPattern(r.ID)
	payload := make([]byte, r.size)
	var last []byte
	for {
		stream.next(payload)
		datagram := append([]byte(r.ID+" "), payload...)
		if err := udpRound(conn, r, datagram, last); err != nil {
			return err
		}
		last = datagram
		started()
		r.Bytes += len(payload)
		select {
		case <-stop:
			return nil
		case <-time.After(cmp.Or(r.every, pace)):
		}
	}
}

// udpRound sends one datagram and waits for its echo; UDP may lose either, so
// it is sent again, and that is counted. So the echo of the last one may come
// once more.
func udpRound(conn net.Conn, r *result, datagram, last []byte) error {
	buf := make([]byte, 65536)
	for try := range 5 {
		if _, err := conn.Write(datagram); err != nil && !errors.Is(err, syscall.EMSGSIZE) { // the path is narrower than was known
			return err
		}
		if try > 0 {
			r.Resent++
		}
		if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		name, echo, err := readEcho(conn, buf, last)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.EMSGSIZE) {
			continue
		}
		if err != nil {
			return err
		}
		switch {
		case !bytes.Equal(echo, datagram):
			return fmt.Errorf("corrupt after %d bytes", r.Bytes)
		case r.Member == "":
			r.Member = name
		case r.Member != name:
			return fmt.Errorf("moved from %s to %s", r.Member, name)
		}
		return nil
	}
	return errors.New("no echo after 5 tries")
}

// readEcho returns who sends the next echo that is not of the last datagram.
func readEcho(conn net.Conn, buf, last []byte) (name string, echo []byte, err error) {
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return "", nil, err
		}
		from, echo, _ := bytes.Cut(buf[:n], []byte(" "))
		if last == nil || !bytes.Equal(echo, last) {
			return string(from), echo, nil
		}
	}
}

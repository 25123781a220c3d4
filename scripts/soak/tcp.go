package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"
)

const (
	portTCP = 7000

	// patience is longer than TCP needs to recover from the longest outage:
	// its retransmissions come at twice the distance each time.
	patience = 20 * time.Second
)

// dialTCP opens the flow and learns who serves it.
func (f *flow) dialTCP() (*net.TCPConn, *bufio.Reader, error) {
	d := net.Dialer{Timeout: patience}
	conn, err := d.Dial("tcp", netip.AddrPortFrom(f.service.aa, portTCP).String())
	if err != nil {
		return nil, nil, err
	}
	reader := bufio.NewReaderSize(conn, 64<<10)
	name, err := hello(conn, reader, f.id)
	if err != nil {
		_ = conn.Close() // the error is told
		return nil, nil, fmt.Errorf("connected, then: %w", err)
	}
	f.member, f.last = name, time.Now()
	return conn.(*net.TCPConn), reader, nil
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

// longTCP sends a chunk, wants it back, and waits, again and again, until ctx
// ends; then it wants FIN for FIN and not a byte more.
func (f *flow) longTCP(ctx context.Context, chunk int, pause time.Duration) (sum int64, err error) {
	conn, reader, err := f.dialTCP()
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }() // every byte has been checked by then
	sent, expected := newPattern(f.id), newPattern(f.id)
	out, want, got := make([]byte, chunk), make([]byte, chunk), make([]byte, chunk)
	for {
		sent.next(out)
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return sum, err
		}
		if _, err := conn.Write(out); err != nil {
			return sum, err
		}
		if _, err := io.ReadFull(reader, got); err != nil {
			return sum, err
		}
		if expected.next(want); !bytes.Equal(got, want) {
			return sum, fmt.Errorf("%w after %d bytes", errCorrupt, sum)
		}
		sum += int64(chunk)
		f.last = time.Now()
		select {
		case <-ctx.Done():
			return sum, f.finish(conn, reader)
		case <-time.After(pause):
		}
	}
}

// finish sends FIN and wants the server's FIN and nothing before it.
func (f *flow) finish(conn *net.TCPConn, reader io.Reader) error {
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	rest, err := io.Copy(io.Discard, reader)
	if err == nil && rest > 0 {
		err = fmt.Errorf("%w: %d bytes too many", errCorrupt, rest)
	}
	return err
}

// shortTCP sends size bytes and FIN while it reads them back, and wants FIN
// behind the last of them. Or it ends with RST when it has them all.
func (f *flow) shortTCP(size int, abort bool) (int64, error) {
	conn, reader, err := f.dialTCP()
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }() // every byte has been checked by then
	data := make([]byte, size)
	newPattern(f.id).next(data)
	wrote := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		if err == nil && !abort {
			err = conn.CloseWrite()
		}
		wrote <- err
	}()
	got := make([]byte, size)
	n, err := io.ReadFull(reader, got)
	if err != nil {
		_ = conn.Close() // lets go of the writer
		<-wrote
		return 0, fmt.Errorf("%d of %d bytes, then: %w", n, size, err)
	}
	if err := <-wrote; err != nil {
		return 0, err
	}
	if !bytes.Equal(got, data) {
		return 0, fmt.Errorf("%w within %d bytes", errCorrupt, size)
	}
	f.last = time.Now()
	if abort {
		return int64(size), conn.SetLinger(0)
	}
	if rest, err := io.Copy(io.Discard, reader); err != nil || rest > 0 {
		if rest > 0 {
			return 0, fmt.Errorf("%w: %d bytes too many", errCorrupt, rest)
		}
		return 0, fmt.Errorf("behind the last byte: %w", err)
	}
	return int64(size), nil
}

// bulkTCP sends chunk after chunk while it reads them back, until ctx ends; told
// is called with each number of bytes that came back the same.
func (f *flow) bulkTCP(ctx context.Context, chunk int, told func(int)) error {
	conn, reader, err := f.dialTCP()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // every byte has been checked by then
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	wrote := make(chan error, 1)
	go func() {
		sent, out := newPattern(f.id), make([]byte, chunk)
		for ctx.Err() == nil {
			sent.next(out)
			if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
				wrote <- err
				return
			}
			if _, err := conn.Write(out); err != nil {
				wrote <- err
				return
			}
		}
		wrote <- conn.CloseWrite()
	}()
	err = f.expect(conn, reader, chunk, told)
	if err != nil {
		_ = conn.Close() // lets go of the writer
	}
	return errors.Join(err, <-wrote)
}

// expect reads the flow's bytes until FIN.
func (f *flow) expect(conn *net.TCPConn, reader io.Reader, chunk int, told func(int)) error {
	expected, want, got := newPattern(f.id), make([]byte, chunk), make([]byte, chunk)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		n, err := io.ReadFull(reader, got)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%d of %d bytes, then: %w", n, chunk, err)
		}
		if expected.next(want); !bytes.Equal(got, want) {
			return errCorrupt
		}
		told(n)
	}
}

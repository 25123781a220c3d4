package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// loadTCP sends, or receives, over some streams at once, all of them open before
// the clock starts.
func loadTCP(r request) (values, usage, error) {
	conns, err := openStreams(r)
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	if err != nil {
		return nil, usage{}, err
	}
	m, err := startMeter(r.PID)
	if err != nil {
		return nil, usage{}, err
	}
	total, err := transfer(r, conns)
	if err != nil {
		return nil, usage{}, err
	}
	u, err := m.stop()
	if err != nil {
		return nil, usage{}, err
	}
	u.GB = float64(total) / 1e9
	return values{"gbps": 8 * u.GB / u.Wall, "cpu_machine": u.Machine / u.GB, "cpu_translator": u.Translator / u.GB}, u, nil
}

func openStreams(r request) ([]*net.TCPConn, error) {
	port := uint16(portSource)
	if r.Up {
		port = portSink
	}
	var conns []*net.TCPConn
	for range r.Streams {
		c, err := dial(r.addr(port), netip.Addr{}, time.Now().Add(r.duration()+grace))
		if err != nil {
			return conns, err
		}
		conns = append(conns, c)
	}
	return conns, nil
}

// transfer returns how many bytes the receivers got.
func transfer(r request, conns []*net.TCPConn) (uint64, error) {
	type result struct {
		n   uint64
		err error
	}
	results := make(chan result)
	for _, c := range conns {
		go func() {
			var res result
			if r.Up {
				res.n, res.err = send(c, r.duration())
			} else {
				res.n, res.err = receive(c, r.duration())
			}
			results <- res
		}()
	}
	var total uint64
	var errs []error
	for range conns {
		res := <-results
		total += res.n
		errs = append(errs, res.err)
	}
	return total, errors.Join(errs...)
}

// send sends for so long and returns how much the member says it got.
func send(c *net.TCPConn, d time.Duration) (uint64, error) {
	sent, err := sendChunks(c, d)
	if err != nil {
		return 0, err
	}
	var got [8]byte
	if _, err := io.ReadFull(c, got[:]); err != nil {
		return 0, fmt.Errorf("how much arrived: %w", err)
	}
	if n := binary.BigEndian.Uint64(got[:]); n != sent {
		return 0, fmt.Errorf("%d bytes arrived of %d", n, sent)
	}
	return sent, nil
}

// receive has the member send for so long and returns how much arrived.
func receive(c *net.TCPConn, d time.Duration) (uint64, error) {
	if _, err := c.Write(binary.BigEndian.AppendUint64(nil, uint64(d))); err != nil {
		return 0, err
	}
	return takeChunks(c)
}

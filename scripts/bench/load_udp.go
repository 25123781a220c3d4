package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// loadUDP sends datagrams from one socket, as many as go or at a given pace, and
// asks the member how many came.
func loadUDP(r request) (values, usage, error) {
	c, err := net.Dial("udp", r.addr(portUDP))
	if err != nil {
		return nil, usage{}, err
	}
	defer func() { _ = c.Close() }()
	count, err := dial(r.addr(portCount), netip.Addr{}, time.Now().Add(r.duration()+grace))
	if err != nil {
		return nil, usage{}, err
	}
	defer func() { _ = count.Close() }()
	datagram := make([]byte, r.Size)
	if err := knock(c, datagram); err != nil {
		return nil, usage{}, err
	}
	session := rand.Uint64()
	binary.BigEndian.PutUint64(datagram[8:], session)
	m, err := startMeter(r.PID)
	if err != nil {
		return nil, usage{}, err
	}
	began := time.Now()
	sent := sendDatagrams(c, datagram, r)
	took := time.Since(began)
	u, err := m.stop()
	if err != nil {
		return nil, usage{}, err
	}
	got, span, err := settled(count, session)
	if err != nil {
		return nil, u, fmt.Errorf("how many arrived: %w", err)
	}
	if got == 0 {
		return nil, u, errors.New("not a datagram arrived")
	}
	rate := float64(got) / max(took, span).Seconds()
	return values{
		"kpps": rate / 1e3, "mbps": rate * float64(8*r.Size) / 1e6, "sent_kpps": float64(sent) / took.Seconds() / 1e3,
		"loss": 100 * max(0, 1-float64(got)/float64(sent)),
	}, u, nil
}

// knock has the flow set up, by a datagram that is answered: how long that takes
// is measured elsewhere.
func knock(c net.Conn, datagram []byte) error {
	datagram[0] = probe
	defer func() { datagram[0] = 0 }()
	buf := make([]byte, len(datagram))
	var err error
	for range 10 {
		if _, err = c.Write(datagram); err != nil {
			continue
		}
		_ = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err = c.Read(buf); err == nil && bytes.Equal(buf, datagram) {
			return nil
		}
	}
	return fmt.Errorf("no datagram was answered: %w", err)
}

// sendDatagrams returns how many the kernel took.
func sendDatagrams(c net.Conn, datagram []byte, r request) (sent int) {
	began, d := time.Now(), r.duration()
	perSecond := r.Mbit * 1e6 / float64(8*r.Size)
	for tries := 0; ; {
		passed := time.Since(began)
		if passed >= d {
			return sent
		}
		due := tries + 64 // before the clock is read again
		if r.Mbit > 0 {
			due = int(passed.Seconds() * perSecond)
		}
		for ; tries < due; tries++ {
			if _, err := c.Write(datagram); err == nil {
				sent++
			}
		}
		if r.Mbit > 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// settled asks until no more arrive, and returns how many did, and the time from
// the first to the last.
func settled(count net.Conn, session uint64) (uint64, time.Duration, error) {
	var before uint64
	for tries := 0; ; tries++ {
		time.Sleep(100 * time.Millisecond)
		var got [16]byte
		if _, err := count.Write(binary.BigEndian.AppendUint64(nil, session)); err != nil {
			return 0, 0, err
		}
		if _, err := io.ReadFull(count, got[:]); err != nil {
			return 0, 0, err
		}
		n := binary.BigEndian.Uint64(got[:])
		if tries > 0 && n == before || tries == 30 {
			return n, time.Duration(binary.BigEndian.Uint64(got[8:])), nil
		}
		before = n
	}
}

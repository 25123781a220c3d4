package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// connectWorkers open connections side by side.
const connectWorkers = 8

// pingPong sends one byte and waits for it.
func pingPong(c net.Conn) error {
	one := [1]byte{42}
	if _, err := c.Write(one[:]); err != nil {
		return err
	}
	_, err := io.ReadFull(c, one[:])
	return err
}

// loadPingPong has one byte go to and fro on one connection.
func loadPingPong(r request) (values, usage, error) {
	c, err := dial(r.addr(portEcho), netip.Addr{}, time.Now().Add(r.duration()+grace))
	if err != nil {
		return nil, usage{}, err
	}
	defer func() { _ = c.Close() }()
	if err := pingPong(c); err != nil {
		return nil, usage{}, err
	}
	m, err := startMeter(r.PID)
	if err != nil {
		return nil, usage{}, err
	}
	var took []float64
	for now, until := time.Now(), time.Now().Add(r.duration()); now.Before(until); {
		if err := pingPong(c); err != nil {
			return nil, usage{}, err
		}
		after := time.Now()
		took = append(took, float64(after.Sub(now).Nanoseconds())/1e3)
		now = after
	}
	u, err := m.stop()
	return values{"p50": percentile(took, 50), "p99": percentile(took, 99)}, u, err
}

// connection is one of a byte to and fro; it returns how long the connect took.
func connection(address string, until time.Time) (time.Duration, error) {
	began := time.Now()
	c, err := dial(address, netip.Addr{}, until)
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	err = pingPong(c)
	return took, errors.Join(err, c.Close())
}

// loadConnect opens and closes connections, some at once.
func loadConnect(r request) (values, usage, error) {
	m, err := startMeter(r.PID)
	if err != nil {
		return nil, usage{}, err
	}
	var (
		workers sync.WaitGroup
		mu      sync.Mutex
		took    []float64
		errs    []error
		address = r.addr(portEcho)
		until   = time.Now().Add(r.duration())
	)
	for range connectWorkers {
		workers.Go(func() {
			for time.Now().Before(until) {
				d, err := connection(address, until.Add(grace))
				mu.Lock()
				if err == nil {
					took = append(took, float64(d.Nanoseconds())/1e6)
				} else {
					errs = append(errs, err)
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	u, err := m.stop()
	if err != nil {
		return nil, u, err
	}
	if len(errs)*1000 > len(took) {
		return nil, u, fmt.Errorf("%d connections failed beside %d: %w", len(errs), len(took), errs[0])
	}
	return values{"rate": float64(len(took)) / u.Wall, "p50": percentile(took, 50), "p99": percentile(took, 99)}, u, nil
}

// loadFirst opens one connection to each of some anycast addresses which nobody
// has asked for before.
func loadFirst(r request) (values, usage, error) {
	m, err := startMeter(r.PID)
	if err != nil {
		return nil, usage{}, err
	}
	var took []float64
	for _, to := range r.To {
		d, err := connection(netip.AddrPortFrom(to, portEcho).String(), time.Now().Add(grace))
		if err != nil {
			return nil, usage{}, fmt.Errorf("after %d that went well: %w", len(took), err)
		}
		took = append(took, float64(d.Nanoseconds())/1e6)
	}
	u, err := m.stop()
	return values{"p50": percentile(took, 50), "p99": percentile(took, 99)}, u, err
}

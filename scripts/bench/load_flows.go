package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// activePart is which part of many flows is active.
const activePart = 20 // one in

// flows are open connections, each of which has carried a byte to and fro.
type flows struct {
	conns []*net.TCPConn
	last  error // of those that failed
}

// open adds connections until there are so many, some at once, and gives up when
// too many fail or it takes too long. Sources, addresses and ports are used in
// turn.
func (f *flows) open(r request, want int) {
	const workers, failuresMost = 32, 100
	var (
		wg       sync.WaitGroup
		mu       sync.Mutex
		failures int
		next     atomic.Int64
		until    = time.Now().Add(30*time.Second + time.Duration(want)*2*time.Millisecond)
	)
	next.Store(int64(len(f.conns)))
	for range workers {
		wg.Go(func() {
			for time.Now().Before(until) {
				i := int(next.Add(1)) - 1
				mu.Lock()
				over := i >= want || failures > failuresMost
				mu.Unlock()
				if over {
					return
				}
				c, err := openFlow(r, i)
				mu.Lock()
				if err == nil {
					f.conns = append(f.conns, c)
				} else {
					f.last = err
					failures++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func openFlow(r request, i int) (*net.TCPConn, error) {
	var source netip.Addr
	if n := len(r.Sources); n > 0 {
		source = r.Sources[i%n]
		i /= n
	}
	port := portEcho + i/len(r.To)%echoPorts
	address := netip.AddrPortFrom(r.To[i%len(r.To)], uint16(port)).String()
	c, err := dial(address, source, time.Now().Add(10*time.Minute))
	if err != nil {
		return nil, err
	}
	if err := pingPong(c); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// all returns an error unless so many are open.
func (f *flows) all(want int) error {
	if len(f.conns) >= want {
		return nil
	}
	err := f.last
	if err == nil {
		err = errors.New("the time for that was over")
	}
	return fmt.Errorf("%d flows of %d could be opened: %w", len(f.conns), want, err)
}

func (f *flows) close() {
	for _, c := range f.conns {
		_ = c.Close()
	}
	f.conns = nil
}

// loadIdle opens flows that do nothing, and closes them, twice, and looks at the
// translator's memory before, meanwhile and after.
func loadIdle(r request) (values, usage, error) {
	var f flows
	defer f.close()
	if f.open(r, 1); f.all(1) != nil {
		return nil, usage{}, f.all(1)
	}
	before, err := residentBytes(r.PID)
	if err != nil {
		return nil, usage{}, err
	}
	m, err := startMeter(r.PID)
	if err != nil {
		return nil, usage{}, err
	}
	f.open(r, r.Flows)
	u, err := m.stop()
	if err = errors.Join(err, f.all(r.Flows)); err != nil {
		return nil, u, err
	}
	time.Sleep(min(2*time.Second, r.settle())) // for what opening them has left lying about
	during, err := residentBytes(r.PID)
	if err != nil {
		return nil, u, err
	}
	f.close()
	after, took, err := givenBack(r, before)
	if err != nil {
		return nil, u, err
	}
	// Once more: what is kept from the first time is not kept twice.
	if f.open(r, r.Flows); f.all(r.Flows) != nil {
		return nil, u, f.all(r.Flows)
	}
	f.close()
	again, _, err := givenBack(r, after)
	if err != nil {
		return nil, u, err
	}
	return values{
		"again": again / after,
		"kb":    (during - before) / 1e3 / float64(r.Flows), "after": after / before, "settled": took.Seconds(),
		"before_mb": before / 1e6, "during_mb": during / 1e6, "after_mb": after / 1e6,
	}, u, nil
}

// givenBack waits until the memory is within a tenth of what it was, or the time
// for that is over.
func givenBack(r request, before float64) (after float64, took time.Duration, err error) {
	began := time.Now()
	for {
		if after, err = residentBytes(r.PID); err != nil {
			return 0, 0, err
		}
		took = time.Since(began)
		if after <= 1.1*before || took >= r.settle() {
			return after, took, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// loadGrowth compares one stream beside few idle flows with one beside many.
func loadGrowth(r request) (values, usage, error) {
	var f flows
	defer f.close()
	v := values{}
	var u usage
	for _, step := range []struct {
		suffix string
		flows  int
	}{{"_few", r.Few}, {"_many", r.Flows}} {
		if f.open(r, step.flows); f.all(step.flows) != nil {
			return nil, usage{}, f.all(step.flows)
		}
		for _, up := range []bool{true, false} {
			one := r
			one.Streams, one.Up = 1, up
			got, used, err := loadTCP(one)
			if err != nil {
				return nil, usage{}, fmt.Errorf("beside %d flows: %w", step.flows, err)
			}
			v[map[bool]string{true: "up", false: "down"}[up]+step.suffix] = got["gbps"]
			u = usage{Wall: u.Wall + used.Wall, Machine: u.Machine + used.Machine, Translator: u.Translator + used.Translator, GB: u.GB + used.GB}
		}
	}
	v["up"], v["down"] = v["up_many"]/v["up_few"], v["down_many"]/v["down_few"]
	return v, u, nil
}

// loadMany opens as many flows as it is asked for, or can, has one in twenty of
// them send and receive once a second, and looks at the translator's memory.
func loadMany(r request) (values, usage, error) {
	var f flows
	defer f.close()
	m, err := startMeter(r.PID)
	if err != nil {
		return nil, usage{}, err
	}
	f.open(r, r.Flows)
	if len(f.conns) == 0 {
		return nil, usage{}, f.all(r.Flows)
	}
	opened := time.Since(m.at)
	idle, err := residentBytes(r.PID)
	if err != nil {
		return nil, usage{}, err
	}
	exchanges, failed := f.exercise(r.duration())
	active, err := residentBytes(r.PID)
	if err != nil {
		return nil, usage{}, err
	}
	u, err := m.stop()
	if failed != nil {
		err = errors.Join(err, fmt.Errorf("an active flow: %w", failed))
	}
	if few := f.all(r.Flows); err == nil && few != nil {
		err = remark(few.Error())
	}
	held := float64(len(f.conns))
	return values{
		"flows": held, "active": float64(len(f.conns) / activePart), "exchanges_per_s": float64(exchanges) / r.Seconds,
		"rss_mb": max(idle, active) / 1e6, "rss_kb": max(idle, active) / 1e3 / held, "opened_per_s": held / opened.Seconds(),
	}, u, err
}

// exercise has a part of the flows exchange a byte once a second, and returns how
// often that was done.
func (f *flows) exercise(d time.Duration) (exchanges int64, err error) {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		done  atomic.Int64
		until = time.Now().Add(d)
	)
	for i := 0; i+activePart <= len(f.conns); i += activePart {
		c := f.conns[i]
		pause := time.Duration(i) * time.Second / time.Duration(len(f.conns)) // not all at once
		wg.Go(func() {
			for time.Sleep(pause); time.Now().Before(until); time.Sleep(time.Second) {
				if e := pingPong(c); e != nil {
					mu.Lock()
					err = e
					mu.Unlock()
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	return done.Load(), err
}

package nat

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
)

// poller tells TCP sockets that something has happened to them (epoll(7)). Go's
// own would need a goroutine that waits for each.
type poller struct {
	epoll int
	wake  [2]int // a pipe, to end

	mu     sync.Mutex
	slots  []*kernelTCP // by the lower half of the id
	ages   []uint32     // how often a slot was given; the upper half
	unused []uint32     // slots
}

const (
	pollerEvents = syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP | syscall.EPOLLPRI | 1<<31 // EPOLLET, which package syscall has as a negative number
	wakeID       = 1<<64 - 1                                                                          // no socket has it
)

func newPoller() (*poller, error) {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("nat: epoll: %w", err)
	}
	p := &poller{epoll: epoll}
	if err := syscall.Pipe2(p.wake[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return nil, errors.Join(fmt.Errorf("nat: pipe: %w", err), syscall.Close(epoll))
	}
	if err := p.control(p.wake[0], syscall.EPOLLIN, wakeID); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// control adds a descriptor.
func (p *poller) control(fd int, events uint32, id uint64) error {
	event := syscall.EpollEvent{Events: events, Fd: int32(uint32(id)), Pad: int32(uint32(id >> 32))}
	if err := syscall.EpollCtl(p.epoll, syscall.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("nat: epoll: %w", err)
	}
	return nil
}

// add watches a socket from now on.
func (p *poller) add(c *kernelTCP) error {
	p.mu.Lock()
	if len(p.unused) == 0 {
		p.unused = append(p.unused, uint32(len(p.slots)))
		p.slots, p.ages = append(p.slots, nil), append(p.ages, 0)
	}
	slot := p.unused[len(p.unused)-1]
	p.unused = p.unused[:len(p.unused)-1]
	p.slots[slot] = c
	p.ages[slot]++
	c.id = uint64(p.ages[slot]&(1<<31-1))<<32 | uint64(slot)
	p.mu.Unlock()
	err := p.control(c.fd, pollerEvents, c.id)
	if err != nil {
		p.remove(c)
	}
	return err
}

// remove forgets a socket that is about to be closed, which takes it out of the
// kernel's list.
func (p *poller) remove(c *kernelTCP) {
	p.mu.Lock()
	defer p.mu.Unlock()
	slot := uint32(c.id)
	if p.slots[slot] == c {
		p.slots[slot] = nil
		p.unused = append(p.unused, slot)
	}
}

// find fills in whose the events are; an event of a socket that was closed since
// is nobody's.
func (p *poller) find(events []syscall.EpollEvent, whose []*kernelTCP) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, event := range events {
		id := uint64(uint32(event.Fd)) | uint64(uint32(event.Pad))<<32
		whose[i] = nil
		if slot := uint32(id); int(slot) < len(p.slots) {
			if c := p.slots[slot]; c != nil && c.id == id {
				whose[i] = c
			}
		}
	}
}

// run tells sockets of their events until ctx ends.
func (p *poller) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, p.interrupt)()
	events, whose := make([]syscall.EpollEvent, 256), make([]*kernelTCP, 256)
	for ctx.Err() == nil {
		n, err := syscall.EpollWait(p.epoll, events, -1)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("nat: epoll: %w", err)
		}
		p.find(events[:n], whose)
		for i := range n {
			if whose[i] != nil {
				whose[i].happened(events[i].Events, i == n-1) // the others need not wait for that one
			}
		}
	}
	return nil
}

func (p *poller) interrupt() {
	_, _ = syscall.Write(p.wake[1], []byte{0}) // a pipe takes the first bytes
}

func (p *poller) close() error {
	return errors.Join(syscall.Close(p.wake[0]), syscall.Close(p.wake[1]), syscall.Close(p.epoll))
}

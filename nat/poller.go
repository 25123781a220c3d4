package nat

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// polled is a socket that the poller knows. The poller never touches its
// descriptor.
type polled struct {
	poller *poller
	fd     int
	v4     bool
	id     uint64 // given by the poller

	notify atomic.Pointer[func(free bool)]
	events atomic.Uint32 // all that were seen
	news   atomic.Bool   // there may be something to read: it has not been looked for since an event
}

// Watch implements [Leg] and [UDPConn].
func (c *polled) Watch(notify func(free bool)) { c.notify.Store(&notify) }

// happened is called by the poller.
func (c *polled) happened(events uint32, free bool) {
	c.events.Or(events)
	c.news.Store(true)
	if notify := c.notify.Load(); notify != nil {
		(*notify)(free)
	}
}

// Close implements [Leg] and [UDPConn]; what is queued is still sent.
func (c *polled) Close() error {
	if c.fd < 0 {
		return nil
	}
	c.poller.remove(c)
	err := syscall.Close(c.fd)
	c.fd = -1
	if err != nil {
		return fmt.Errorf("nat: close: %w", err)
	}
	return nil
}

// poller tells sockets that something has happened to them (epoll(7)). Go's
// own would need a goroutine that waits for each; so it waits for this one, and
// only one goroutine does. To wait in epoll_wait(2) itself would keep a processor
// from the scheduler for 20 microseconds each time.
type poller struct {
	epoll  int
	file   *os.File // of epoll
	raw    syscall.RawConn
	events [256]syscall.EpollEvent
	whose  [256]*polled

	mu     sync.Mutex
	slots  []*polled // by the lower half of the id
	ages   []uint32  // how often a slot was given; the upper half
	unused []uint32  // slots
}

const (
	edge = 1 << 31 // EPOLLET, which package syscall has as a negative number

	tcpEvents = syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP | syscall.EPOLLPRI | edge
	// A UDP socket has room again with each datagram that has gone, so this is
	// asked for only when it had none.
	udpEvents = syscall.EPOLLIN | edge
)

func newPoller() (*poller, error) {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err == nil {
		err = syscall.SetNonblock(epoll, true) // says to package os that it can be waited for
	}
	if err != nil {
		return nil, fmt.Errorf("nat: epoll: %w", err)
	}
	p := &poller{epoll: epoll, file: os.NewFile(uintptr(epoll), "epoll")}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("nat: epoll: %w", err), p.file.Close())
	}
	return p, nil
}

// control adds a socket, or changes what is asked about it. What is so already is
// an event then.
func (p *poller) control(operation int, c *polled, events uint32) error {
	event := syscall.EpollEvent{Events: events, Fd: int32(uint32(c.id)), Pad: int32(uint32(c.id >> 32))}
	if err := syscall.EpollCtl(p.epoll, operation, c.fd, &event); err != nil {
		return fmt.Errorf("nat: epoll: %w", err)
	}
	return nil
}

// add watches a socket from now on for the events.
func (p *poller) add(c *polled, events uint32) error {
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
	err := p.control(syscall.EPOLL_CTL_ADD, c, events)
	if err != nil {
		p.remove(c)
	}
	return err
}

// remove forgets a socket that is about to be closed, which takes it out of the
// kernel's list.
func (p *poller) remove(c *polled) {
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
func (p *poller) find(events []syscall.EpollEvent, whose []*polled) {
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
	// It fails only on a closed file.
	defer context.AfterFunc(ctx, func() { _ = p.file.SetReadDeadline(time.Unix(1, 0)) })()
	var failed error
	err := p.raw.Read(func(uintptr) bool {
		for ctx.Err() == nil {
			n, err := p.wait()
			if err != nil {
				failed = err
				return true
			}
			if n == 0 {
				return false
			}
			p.tell(n)
		}
		return true
	})
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("nat: epoll: %w", errors.Join(err, failed))
}

// wait does not wait: it fetches the events that there are.
func (p *poller) wait() (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(p.epoll), uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), 0, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}

func (p *poller) tell(n int) {
	p.find(p.events[:n], p.whose[:n])
	for i, c := range p.whose[:n] {
		if c != nil {
			c.happened(p.events[i].Events, i == n-1) // the others need not wait for that one
		}
	}
}

func (p *poller) close() error { return p.file.Close() }

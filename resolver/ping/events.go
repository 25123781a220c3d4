package ping

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// events waits until there is something to read from a socket: a message, or
// an error in its queue. Go's poller alone cannot do that. It takes an event
// that says "error" and nothing else, as comes when an ICMP error arrives while
// there is no room to send, for a broken file, and refuses to wait for it ever
// after. So an epoll instance of our own watches the socket, and Go's poller
// watches that: it becomes readable for any reason there is.
type events struct {
	file *os.File
	conn syscall.RawConn // of file
}

// watch returns the events of fd, until it is closed.
func watch(fd int) (*events, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(epoll, true); err != nil { // Go's poller takes no other files
		return nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(epoll))
	}
	e := &events{file: os.NewFile(uintptr(epoll), "events")}
	err = os.NewSyscallError("epoll_ctl", unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN}))
	if err == nil {
		e.conn, err = e.file.SyscallConn()
	}
	if err != nil {
		return nil, errors.Join(err, e.file.Close())
	}
	return e, nil
}

// wait calls read, and again after each event, until it returns true. It tells
// whether the events have been closed.
func (e *events) wait(read func() bool) (closed bool) {
	return e.conn.Read(func(uintptr) bool { return read() }) != nil
}

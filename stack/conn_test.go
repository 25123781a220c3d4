package stack

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"

	"aarptun/nat"
)

// conn is an endpoint as a stream that blocks. gonet has such a thing too, but it
// forgets which error the endpoint gave, and a RST must not look like a FIN.
type conn struct {
	endpoint tcpip.Endpoint
	queue    *waiter.Queue
	closed   chan struct{}
	once     sync.Once
}

// blocking is the client's half of a flow for a handler that waits.
func blocking(c nat.InsideTCP) *conn {
	in := c.(*tcpConn)
	return newConn(in.endpoint, in.queue)
}

func newConn(ep tcpip.Endpoint, queue *waiter.Queue) *conn {
	return &conn{endpoint: ep, queue: queue, closed: make(chan struct{})}
}

// Read implements [io.Reader].
func (c *conn) Read(b []byte) (int, error) {
	w := tcpip.SliceWriter(b)
	result, err := c.endpoint.Read(&w, tcpip.ReadOptions{})
	if _, block := err.(*tcpip.ErrWouldBlock); block {
		err = c.wait(waiter.ReadableEvents, func() tcpip.Error {
			result, err = c.endpoint.Read(&w, tcpip.ReadOptions{})
			return err
		})
	}
	if err != nil {
		return result.Count, c.wrap("read", err)
	}
	return result.Count, nil
}

// Write implements [io.Writer].
func (c *conn) Write(b []byte) (int, error) {
	reader := bytes.NewReader(b)
	total := 0
	for {
		n, err := c.endpoint.Write(reader, tcpip.WriteOptions{})
		if _, block := err.(*tcpip.ErrWouldBlock); block {
			err = c.wait(waiter.WritableEvents, func() tcpip.Error {
				n, err = c.endpoint.Write(reader, tcpip.WriteOptions{})
				return err
			})
		}
		total += int(n)
		if err != nil {
			return total, c.wrap("write", err)
		}
		if reader.Len() == 0 {
			return total, nil
		}
	}
}

// wait calls try again at each event until it does not block any more, or the
// connection is closed.
func (c *conn) wait(events waiter.EventMask, try func() tcpip.Error) tcpip.Error {
	entry, notify := waiter.NewChannelEntry(events | waiter.EventHUp | waiter.EventErr)
	c.queue.EventRegister(&entry)
	defer c.queue.EventUnregister(&entry)
	for {
		err := try()
		if _, block := err.(*tcpip.ErrWouldBlock); !block {
			return err
		}
		select {
		case <-notify:
		case <-c.closed:
			return &tcpip.ErrAborted{}
		}
	}
}

// Close frees the endpoint. What TCP has queued is still delivered.
func (c *conn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.endpoint.Close()
	})
	return nil
}

// Reset ends the connection with RST.
func (c *conn) Reset() error {
	c.once.Do(func() {
		close(c.closed)
		c.endpoint.Abort()
	})
	return nil
}

// CloseWrite sends FIN.
func (c *conn) CloseWrite() error {
	if err := c.endpoint.Shutdown(tcpip.ShutdownWrite); err != nil {
		return c.wrap("shutdown", err)
	}
	return nil
}

func (c *conn) wrap(op string, err tcpip.Error) error {
	select {
	case <-c.closed:
		return fmt.Errorf("stack: %s: %w", op, net.ErrClosed)
	default:
	}
	if _, fin := err.(*tcpip.ErrClosedForReceive); fin {
		return io.EOF
	}
	return fmt.Errorf("stack: %s: %w", op, errnoOf(err))
}

package stack

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// What a flow may hold is bounded: TCP by tcpBufferMax each way, UDP by
// udpQueue. That bound times the number of flows is far more than is ever used,
// since only a flow whose reader stalls fills its buffers, and far more than a
// host has. So the sum is bounded too: when it is reached, no new flow is let
// in until readers have taken some. Flows that exist go on.

// measureEvery is how old a measurement may be; in between the sum can grow by
// what flows take in that time.
const measureEvery = time.Second

// buffers knows how many bytes wait in the stack for their readers.
type buffers struct {
	limit int

	mu       sync.Mutex
	measured time.Time
	bytes    int
}

// buffersFull reports whether new flows must wait.
func (s *Stack) buffersFull() bool {
	s.buffers.mu.Lock()
	defer s.buffers.mu.Unlock()
	if now := time.Now(); now.Sub(s.buffers.measured) >= measureEvery {
		s.buffers.bytes, s.buffers.measured = s.measure(), now
	}
	return s.buffers.bytes >= s.buffers.limit
}

// measure adds up what waits for clients and for members, in bytes. A send
// buffer counts when it is full, and then whole.
func (s *Stack) measure() int {
	sum := 0
	for _, e := range s.net.RegisteredEndpoints() {
		endpoint, ok := e.(*tcp.Endpoint)
		if !ok {
			continue
		}
		// An endpoint that is not connected any more has no queue.
		if n, err := endpoint.GetSockOptInt(tcpip.ReceiveQueueSizeOption); err == nil {
			sum += n
		}
		// What waits to be sent is not to be had, but whether more fits is.
		if endpoint.EndpointState() == tcp.StateEstablished && endpoint.Readiness(waiter.WritableEvents) == 0 {
			sum += int(endpoint.SocketOptions().GetSendBufferSize())
		}
	}
	s.udp.mu.Lock()
	defer s.udp.mu.Unlock()
	for _, u := range s.udp.flows {
		u.mu.Lock()
		sum += u.bytes
		u.mu.Unlock()
	}
	return sum
}

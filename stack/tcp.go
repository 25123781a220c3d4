package stack

import (
	"context"
	"fmt"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"aarptun/nat"
)

// The keepalive of the inside is that of the outside (tcp(7)): no idle flow is
// cut before the 2 h 4 min of RFC 5382 REQ-5, and a client that has gone is
// noticed.
const (
	keepaliveIdle     = 2 * time.Hour
	keepaliveInterval = 75 * time.Second
	keepaliveCount    = 9
)

// pendingSYN is a SYN that has not been answered.
type pendingSYN struct {
	head   []byte // of the packet, for an ICMP error
	seq    uint32 // its sequence number
	meta   nat.Meta
	ctx    context.Context
	cancel context.CancelFunc // when the client sends RST, or has vanished

	// A client that still wants its connection sends the SYN again, ever more
	// slowly (RFC 6298 section 5.5). One that has not for long enough is gone.
	vanished *time.Timer
	last     time.Time     // guarded by the lock of pendingSYNs
	gap      time.Duration // the longest between two SYNs; guarded likewise
}

// defaultSYNPatience is how long a client may be silent before it counts as
// gone, at least: on Linux the second SYN comes after 1 s, and if it is lost
// the third after 2 or 3 s (ip-sysctl, tcp_syn_linear_timeouts).
const defaultSYNPatience = 8 * time.Second

// pendingSYNs are at most limit. An entry is taken away only after the
// forwarder has forgotten the SYN: so as long as it is there a retransmission
// is known for what it is, and the forwarder never has more than we.
type pendingSYNs struct {
	limit    int
	patience time.Duration

	mu   sync.Mutex
	syns map[gstack.TransportEndpointID]*pendingSYN
}

// add reports whether the SYN is new, and whether there was room for it.
func (p *pendingSYNs) add(life context.Context, id gstack.TransportEndpointID, pkt *gstack.PacketBuffer) (isNew, room bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if syn := p.syns[id]; syn != nil {
		// The next may take twice as long, and one may be lost.
		syn.gap, syn.last = max(syn.gap, now.Sub(syn.last)), now
		syn.vanished.Reset(max(p.patience, 3*syn.gap))
		return false, true
	}
	if len(p.syns) >= p.limit {
		return true, false
	}
	ctx, cancel := context.WithCancel(life)
	p.syns[id] = &pendingSYN{
		head: head(pkt), seq: header.TCP(pkt.TransportHeader().Slice()).SequenceNumber(), meta: metaOf(pkt), ctx: ctx, cancel: cancel,
		vanished: time.AfterFunc(p.patience, cancel), last: now,
	}
	return true, true
}

func (p *pendingSYNs) get(id gstack.TransportEndpointID) *pendingSYN {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.syns[id]
}

func (p *pendingSYNs) remove(id gstack.TransportEndpointID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if syn := p.syns[id]; syn != nil {
		syn.vanished.Stop()
		delete(p.syns, id)
	}
}

func (p *pendingSYNs) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.syns)
}

// handleTCP sees every segment that belongs to no endpoint.
func (s *Stack) handleTCP(id gstack.TransportEndpointID, pkt *gstack.PacketBuffer) bool {
	segment := header.TCP(pkt.TransportHeader().Slice())
	flags := segment.Flags()
	if flags.Contains(header.TCPFlagRst) {
		// A client that answers a late segment of an earlier connection on the
		// same port sends RST too, with that one's number, and still wants this.
		if syn := s.pending.get(id); syn != nil && segment.SequenceNumber() == syn.seq+1 {
			syn.cancel()
		}
		return true // nobody answers RST (RFC 9293 section 3.5.2)
	}
	if !flags.Contains(header.TCPFlagSyn) || flags.Contains(header.TCPFlagAck) {
		return s.forward.HandlePacket(id, pkt) // not taken: netstack answers RST
	}
	switch isNew, room := s.pending.add(s.life, id, pkt); {
	case !room:
		s.stats.synsDropped.Add(1)
		return true
	case !isNew:
		return true // a retransmission
	}
	if !s.forward.HandlePacket(id, pkt) {
		s.pending.remove(id) // its checksum is wrong
		s.stats.malformed.Add(1)
	}
	return true
}

// serveTCP is called by the forwarder in a goroutine of its own for each SYN.
func (s *Stack) serveTCP(r *tcp.ForwarderRequest) {
	id := r.ID()
	in := &tcpInside{s: s, request: r, id: id, syn: s.pending.get(id)}
	if in.syn == nil || !s.begin() {
		in.complete(false)
		return
	}
	defer func() {
		if !in.detached {
			s.link.zero.forget(id)
			s.serves.Done()
		}
	}()
	defer in.syn.cancel()
	if s.buffersFull() {
		s.stats.refusedBuffers.Add(1)
		in.Reject(nat.Refusal{Reason: nat.Busy})
		return
	}
	s.handler.ServeTCP(in.syn.ctx, tupleOf(nat.TCP, id), in)
}

// tcpInside is a SYN before its answer.
type tcpInside struct {
	s       *Stack
	request *tcp.ForwarderRequest
	id      gstack.TransportEndpointID
	syn     *pendingSYN

	detached bool // the flow outlives ServeTCP
}

// Detach implements [nat.Detacher].
func (in *tcpInside) Detach() (ended func()) {
	in.detached = true
	s, id := in.s, in.id
	return func() {
		s.link.zero.forget(id)
		s.serves.Done()
	}
}

// complete gives the SYN back to the forwarder, which must be done once.
func (in *tcpInside) complete(sendReset bool) {
	in.request.Complete(sendReset)
	in.s.pending.remove(in.id)
}

// Accept implements [nat.TCPInside].
func (in *tcpInside) Accept(ctx context.Context) (nat.InsideTCP, error) {
	queue := new(waiter.Queue)
	stop := in.abortWith(ctx)
	endpoint, err := in.request.CreateEndpoint(queue)
	stop()
	in.complete(false)
	if err != nil {
		return nil, fmt.Errorf("stack: handshake: %w", errnoOf(err))
	}
	options := endpoint.SocketOptions()
	options.SetDelayOption(false) // what a member sends goes on at once
	options.SetKeepAlive(true)
	idle, interval := tcpip.KeepaliveIdleOption(keepaliveIdle), tcpip.KeepaliveIntervalOption(keepaliveInterval)
	for _, option := range []tcpip.SettableSocketOption{&idle, &interval} {
		if err := endpoint.SetSockOpt(option); err != nil {
			endpoint.Abort()
			return nil, fmt.Errorf("stack: keepalive: %w", errnoOf(err))
		}
	}
	if err := endpoint.SetSockOptInt(tcpip.KeepaliveCountOption, keepaliveCount); err != nil {
		endpoint.Abort()
		return nil, fmt.Errorf("stack: keepalive: %w", errnoOf(err))
	}
	return &tcpConn{endpoint: endpoint, queue: queue}, nil
}

// abortWith ends the handshake with ctx, until stop has been called and has
// returned. The endpoint is netstack's own while it waits for the client, but it
// is known by its id, sooner or later.
func (in *tcpInside) abortWith(ctx context.Context) (stop func()) {
	over, ended := make(chan struct{}), make(chan struct{})
	unregister := context.AfterFunc(ctx, func() {
		defer close(ended)
		for {
			if endpoint := in.s.endpoint(in.id); endpoint != nil {
				endpoint.Abort()
			}
			select {
			case <-over:
				return
			case <-time.After(abortAgain):
			}
		}
	})
	return func() {
		close(over)
		if !unregister() {
			<-ended
		}
	}
}

// abortAgain is how long after an attempt to end a handshake, which may have
// been too early, the next is made.
const abortAgain = 10 * time.Millisecond

// Meta implements [nat.TCPInside].
func (in *tcpInside) Meta() nat.Meta { return in.syn.meta }

// Reject implements [nat.TCPInside].
func (in *tcpInside) Reject(r nat.Refusal) {
	switch r.Reason {
	case nat.Refused, nat.Busy:
		in.complete(true)
		return
	default:
		in.complete(false)
	}
	tuple := tupleOf(nat.TCP, in.id)
	if icmp, ok := errorFor(r, tuple.Anycast.Addr().Is4()); ok {
		in.s.sendError(tuple, icmp, in.syn.head)
	}
}

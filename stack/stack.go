package stack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"aarptun/nat"
)

// Device is where packets come from and go to, each behind a virtio_net_hdr of
// 10 bytes in the host's byte order (VIRTIO 1.2 section 5.1.6). One goroutine
// reads; Write and Close may be called from any.
type Device interface {
	// Read fills bufs in turn with one packet behind its header, and returns
	// the length of both. It blocks until there is one.
	Read(bufs [][]byte) (int, error)
	// Write sends one packet, which is bufs in turn, behind its header, and
	// keeps nothing of it.
	Write(bufs [][]byte) error
	// Close makes Read return [os.ErrClosed].
	Close() error
}

// Handler carries flows. Each method blocks until its flow has ended. The
// context ends when the client gives up before it was answered, or when the
// Stack is being stopped.
type Handler interface {
	ServeTCP(context.Context, nat.Tuple, nat.TCPInside)
	ServeUDP(context.Context, nat.Tuple, nat.UDPInside)
	ServeEcho(context.Context, nat.Tuple, nat.EchoInside)

	// Refuses reports whether ServeTCP or ServeUDP would reject a new flow at
	// once. It must not block.
	Refuses(nat.Tuple) bool
}

// Config is what a Stack is told. Zero limits stand for the defaults.
type Config struct {
	MTU      int            // of the device, bytes
	Prefixes []netip.Prefix // the anycast prefixes: only packets to them are let in

	// Everything lets in packets to any unicast address, and Prefixes do not
	// count: the device is the only way out of a namespace.
	Everything bool

	// TCPOffload is whether the device takes TCP packets of up to 64 KiB, which
	// it cuts into segments of the MTU, and fills in checksums; UDPOffload is
	// whether it does so with several datagrams of one size.
	TCPOffload, UDPOffload bool

	// Handshakes is how many SYNs may wait for their answer; over it a SYN is
	// dropped and counted, and the client sends it again. Default 8,192.
	Handshakes int
	// Echoes is how many echo requests may wait for their reply; over it one
	// is dropped and counted. Default 1,024.
	Echoes int

	// Buffers is how many bytes may wait for their readers in all flows
	// together; over it new TCP and UDP flows are refused and counted. Default
	// 1 GiB.
	Buffers int

	Log *slog.Logger // nil discards

	clock       tcpip.Clock   // of the netstack; nil is the real one
	synPatience time.Duration // default defaultSYNPatience
}

const (
	nicID       = 1 // the interface of checked packets, and of what we send
	uncheckedID = 2 // that of all others

	defaultHandshakes = 8192
	defaultEchoes     = 1024
	defaultBuffers    = 1 << 30

	// ICMP errors are limited as Linux does by default (RFC 4443 section
	// 2.4 f, icmp_msgs_per_sec).
	icmpErrorsPerSecond = 1000
	icmpErrorsBurst     = 1000

	// Each refusal of a flow costs a goroutine, and a packet to who may never
	// have asked. In a flood there is neither time nor use for more than these.
	refusalsPerSecond = 1000
)

// Stack is a running netstack on a device.
type Stack struct {
	device   Device
	handler  Handler
	prefixes atomic.Pointer[[]netip.Prefix]
	all      bool // packets to any unicast address are let in
	log      *slog.Logger
	net      *gstack.Stack
	link     *link
	forward  *tcp.Forwarder
	pending  pendingSYNs
	held     atomic.Int32 // SYNs that wait for the end of an endpoint
	udp      udpFlows
	mtus     pathMTUs
	ids      atomic.Uint32 // of IPv4 packets (RFC 6864)
	buffers  buffers
	echoes   chan struct{} // one slot for each request being served
	errors   *rate.Limiter
	refusals *rate.Limiter
	stats    counters

	life context.Context // of every flow
	end  context.CancelFunc

	mu     sync.Mutex
	ending bool
	serves sync.WaitGroup
}

// New returns a Stack that is ready to Run.
func New(d Device, h Handler, c Config) (*Stack, error) {
	if d == nil || h == nil {
		return nil, errors.New("stack: Device and Handler are required")
	}
	if c.MTU < header.IPv6MinimumMTU || c.MTU > maxPacket {
		return nil, fmt.Errorf("stack: MTU %d: it must be %d to %d", c.MTU, header.IPv6MinimumMTU, maxPacket)
	}
	if c.Handshakes < 0 || c.Echoes < 0 || c.Buffers < 0 {
		return nil, fmt.Errorf("stack: limits %d, %d and %d must not be negative", c.Handshakes, c.Echoes, c.Buffers)
	}
	c.Handshakes = cmp.Or(c.Handshakes, defaultHandshakes)
	c.Echoes = cmp.Or(c.Echoes, defaultEchoes)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Stack{
		device: d, handler: h, all: c.Everything, log: c.Log,
		pending:  pendingSYNs{limit: c.Handshakes, patience: cmp.Or(c.synPatience, defaultSYNPatience), syns: make(map[gstack.TransportEndpointID]*pendingSYN)},
		udp:      udpFlows{flows: make(map[nat.Tuple]*udpInside)},
		echoes:   make(chan struct{}, c.Echoes),
		buffers:  buffers{limit: cmp.Or(c.Buffers, defaultBuffers)},
		errors:   rate.NewLimiter(icmpErrorsPerSecond, icmpErrorsBurst),
		refusals: rate.NewLimiter(refusalsPerSecond, refusalsPerSecond),
	}
	s.SetPrefixes(c.Prefixes)
	s.life, s.end = context.WithCancel(context.Background())
	s.link = newLink(d, c, &s.stats)
	if err := s.buildNet(c.clock); err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

// SetPrefixes replaces the anycast prefixes: from now on only packets to these are
// let in, those of flows that exist too.
func (s *Stack) SetPrefixes(prefixes []netip.Prefix) {
	prefixes = slices.Clone(prefixes)
	s.prefixes.Store(&prefixes)
}

// buildNet makes the netstack. The handlers are installed before there is a
// NIC that could deliver to them.
func (s *Stack) buildNet(clock tcpip.Clock) error {
	s.net = gstack.New(gstack.Options{
		Clock: clock,
		NetworkProtocols: []gstack.NetworkProtocolFactory{
			ipv4.NewProtocolWithOptions(ipv4.Options{IGMP: ipv4.IGMPOptions{Enabled: false}}),
			ipv6.NewProtocolWithOptions(quietIPv6),
		},
		TransportProtocols: []gstack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := s.tuneTCP(); err != nil {
		return err
	}
	// The forwarder's own limit is never reached: ours comes first, and is
	// counted.
	s.forward = tcp.NewForwarder(s.net, 0, s.pending.limit+1, s.serveTCP)
	s.net.SetTransportProtocolHandler(tcp.ProtocolNumber, s.handleTCP)
	s.net.SetTransportProtocolHandler(udp.ProtocolNumber, s.handleUDP)
	s.net.SetTransportProtocolHandler(icmp.ProtocolNumber4, s.handleICMP)
	s.net.SetTransportProtocolHandler(icmp.ProtocolNumber6, s.handleICMP)
	var routes []tcpip.Route
	for id, port := range map[tcpip.NICID]*port{nicID: &s.link.checked, uncheckedID: &s.link.unchecked} {
		if err := s.net.CreateNIC(id, port); err != nil {
			return fmt.Errorf("stack: create the interface: %v", err)
		}
		if err := s.net.SetPromiscuousMode(id, true); err != nil {
			return fmt.Errorf("stack: promiscuous mode: %v", err)
		}
		if err := s.net.SetSpoofing(id, true); err != nil {
			return fmt.Errorf("stack: spoofing: %v", err)
		}
		routes = append(routes, tcpip.Route{Destination: header.IPv4EmptySubnet, NIC: id}, tcpip.Route{Destination: header.IPv6EmptySubnet, NIC: id})
	}
	s.net.SetRouteTable(routes)
	return nil
}

// quietIPv6 keeps the stack from sending anything by itself.
var quietIPv6 = ipv6.Options{
	AutoGenLinkLocal: false,
	MLD:              ipv6.MLDOptions{Enabled: false},
	NDPConfigs:       ipv6.NDPConfigurations{MaxRtrSolicitations: 0, HandleRAs: ipv6.HandlingRAsDisabled},
}

const (
	tcpBufferMin     = 4 << 10
	tcpBufferDefault = 1 << 20 // bytes each way; a flow uses what it has in flight
	tcpBufferMax     = 4 << 20
)

func (s *Stack) tuneTCP() error {
	sack := tcpip.TCPSACKEnabled(true)
	// RACK takes the reordering inside a batch for loss: nearly all of its
	// recoveries on a TUN are spurious. SACK recovery stays.
	recovery := tcpip.TCPRecovery(0)
	// A client may use its port again at once, as Linux lets it, and on a TUN
	// there are no old segments that could still be on their way.
	timeWait := tcpip.TCPTimeWaitTimeoutOption(0)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcpBufferMin, Default: tcpBufferDefault, Max: tcpBufferMax}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcpBufferMin, Default: tcpBufferDefault, Max: tcpBufferMax}
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &recovery, &timeWait, &moderate, &receive, &send} {
		if err := s.net.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("stack: TCP option %T: %v", option, err)
		}
	}
	return nil
}

// begin counts a Serve call that Run is to wait for, unless it is too late.
func (s *Stack) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ending {
		s.serves.Add(1)
	}
	return !s.ending
}

// Run carries packets until ctx ends or the device fails; then it ends every
// flow with RST, waits for every Serve call, and closes the device.
func (s *Stack) Run(ctx context.Context) error {
	reader := make(chan error, 1)
	go func() { reader <- s.readPackets() }()
	var answers sync.WaitGroup
	answers.Go(func() { s.link.writeAnswers(s.life) })
	defer answers.Wait()
	var err error
	select {
	case <-ctx.Done():
		err = errors.Join(s.Close(), <-reader)
	case err = <-reader:
		if err == nil && s.life.Err() == nil { // Close has not closed it: the device was removed
			err = fmt.Errorf("stack: read from the device: %w", os.ErrClosed)
		}
		err = errors.Join(err, s.Close())
	}
	return err
}

// Close ends everything, as the end of Run does; it is for a Stack that was
// never run.
func (s *Stack) Close() error {
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.end()
	// A handshake that is under way ends only when its endpoint does.
	for _, endpoint := range s.net.RegisteredEndpoints() {
		endpoint.Abort()
	}
	s.serves.Wait()
	s.net.Close()
	s.net.Wait()
	if err := s.device.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("stack: close the device: %w", err)
	}
	return nil
}

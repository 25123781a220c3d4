package stack

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"aarptun/nat"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testMTU = 1500

var (
	client6 = netip.MustParseAddr("2001:db8:c::1")
	client4 = netip.MustParseAddr("198.51.100.9")
	any6    = netip.MustParseAddr("2001:db8:aa::1")
	any4    = netip.MustParseAddr("192.0.2.1")

	testPrefixes = []netip.Prefix{netip.MustParsePrefix("2001:db8:aa::/64"), netip.MustParsePrefix("192.0.2.0/24")}

	families = []struct {
		name         string
		client, dest netip.Addr
	}{{"IPv6", client6, any6}, {"IPv4", client4, any4}}
)

// handler is a Handler made of functions; one that is nil must not be called.
type handler struct {
	t    testing.TB
	tcp  func(context.Context, nat.Tuple, nat.TCPInside)
	udp  func(context.Context, nat.Tuple, waitingUDP)
	echo func(context.Context, nat.Tuple, nat.EchoInside)
	full *atomic.Bool // every new flow would be refused
}

func (h handler) Refuses(nat.Tuple) bool { return h.full != nil && h.full.Load() }

func (h handler) ServeTCP(ctx context.Context, t nat.Tuple, in nat.TCPInside) {
	if h.tcp == nil {
		h.t.Errorf("unexpected TCP flow %v", t)
		in.Reject(nat.Refusal{Reason: nat.Refused})
		return
	}
	h.tcp(ctx, t, in)
}

func (h handler) ServeUDP(ctx context.Context, t nat.Tuple, in nat.UDPInside) {
	if h.udp == nil {
		h.t.Errorf("unexpected UDP flow %v", t)
		return
	}
	h.udp(ctx, t, waiting(in))
}

// waitingUDP is a UDPInside that waits.
type waitingUDP struct {
	nat.UDPInside
	happened chan struct{}
}

func waiting(c nat.UDPInside) waitingUDP {
	w := waitingUDP{c, make(chan struct{}, 1)}
	w.Watch(func(bool) {
		select {
		case w.happened <- struct{}{}:
		default:
		}
	})
	return w
}

// Receive waits for what TryReceive returns.
func (w waitingUDP) Receive() (nat.Datagram, error) {
	for {
		d, err := w.TryReceive()
		if !errors.Is(err, nat.ErrNotYet) {
			return d, err
		}
		<-w.happened
	}
}

func (h handler) ServeEcho(ctx context.Context, t nat.Tuple, in nat.EchoInside) {
	if h.echo == nil {
		h.t.Errorf("unexpected echo %v", t)
		return
	}
	h.echo(ctx, t, in)
}

// wire is a Device whose other end is a netstack of its own, the client; raw
// packets may be sent over it too, and everything the Stack sends is seen. It
// has the offloads that the Stack is told of.
type wire struct {
	t      testing.TB
	ep     *channel.Endpoint // of the client
	client *gstack.Stack
	life   context.Context
	cut    context.CancelFunc
	config Config

	joiner joiner
	read   int    // packets
	ahead  []byte // was read, and does not go with the one before

	joined, split atomic.Int64 // packets of many that were read, and written

	out chan []byte
}

func newWire(t testing.TB, c Config) *wire {
	w := &wire{t: t, config: c, ep: channel.New(4096, testMTU, ""), out: make(chan []byte, 1<<16)}
	w.life, w.cut = context.WithCancel(context.Background())
	w.client = gstack.New(gstack.Options{
		NetworkProtocols:         []gstack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols:       []gstack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		AllowPacketEndpointWrite: true, RawFactory: nil,
	})
	sack := tcpip.TCPSACKEnabled(true)
	w.client.SetTransportProtocolOption(tcp.ProtocolNumber, &sack)
	if err := w.client.CreateNIC(1, w.ep); err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		proto := header.IPv6ProtocolNumber
		if f.client.Is4() {
			proto = header.IPv4ProtocolNumber
		}
		own := tcpip.ProtocolAddress{Protocol: proto, AddressWithPrefix: address(f.client).WithPrefix()}
		if err := w.client.AddProtocolAddress(1, own, gstack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
	}
	w.client.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}, {Destination: header.IPv6EmptySubnet, NIC: 1}})
	t.Cleanup(func() {
		w.client.Close()
		w.client.Wait()
		w.ep.Close()
	})
	return w
}

// Read implements Device.
func (w *wire) Read(bufs [][]byte) (int, error) {
	packet := w.ahead
	if w.ahead = nil; packet == nil {
		p := w.ep.ReadContext(w.life)
		if p == nil {
			return 0, os.ErrClosed
		}
		packet = bytes.Clone(p.ToView().AsSlice())
		p.DecRef()
	}
	j := &w.joiner
	w.read++
	if w.config.TCPOffload && w.read%4 != 0 && j.begin(packet) { // some come from a link, as they are
		for w.ahead == nil {
			p := w.ep.Read()
			if p == nil {
				break
			}
			next := bytes.Clone(p.ToView().AsSlice())
			p.DecRef()
			if !w.config.UDPOffload && j.p.transport == uint8(header.UDPProtocolNumber) || !j.add(next) {
				w.ahead = next
			}
		}
		j.end()
		if j.vnet.gso != 0 {
			w.joined.Add(1)
		}
		packet = j.b
	} else {
		j.vnet = vnetHeader{}
	}
	j.vnet.encode(bufs[0])
	return vnetSize + copy(bufs[1], packet), nil
}

// Write implements Device.
func (w *wire) Write(bufs [][]byte) error {
	if w.life.Err() != nil {
		return os.ErrClosed
	}
	var h vnetHeader
	h.decode(bufs[0])
	packets, err := cut(h, bytes.Join(bufs[1:], nil), w.config)
	if err != nil {
		w.t.Errorf("written with %+v: %v", h, err)
		return err
	}
	if len(packets) > 1 {
		w.split.Add(1)
	}
	for _, packet := range packets {
		w.deliver(packet)
	}
	return nil
}

// deliver brings a packet to the client.
func (w *wire) deliver(packet []byte) {
	select {
	case w.out <- packet:
	default: // nobody looks
	}
	proto := header.IPv6ProtocolNumber
	if header.IPVersion(packet) == header.IPv4Version {
		proto = header.IPv4ProtocolNumber
	}
	p := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	w.ep.InjectInbound(proto, p)
	p.DecRef()
}

// Close implements Device.
func (w *wire) Close() error {
	w.cut()
	return nil
}

// start runs a Stack on a wire until the test ends.
func start(t testing.TB, h handler, c Config) (*Stack, *wire) {
	t.Helper()
	h.t = t
	return startWith(t, h, c)
}

// startWith is start with any Handler.
func startWith(t testing.TB, h Handler, c Config) (*Stack, *wire) {
	t.Helper()
	w := newWire(t, c)
	if c.MTU == 0 {
		c.MTU = testMTU
	}
	c.Prefixes = testPrefixes
	s, err := New(w, h, c)
	if err != nil {
		t.Fatal(err)
	}
	run(t, s.Run)
	return s, w
}

// protoOf is netstack's number of a's family.
func protoOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

// dial opens a TCP connection or a connected UDP socket in the client. The
// connection is ours, not gonet's, so that it can end with RST too.
func (w *wire) dial(t testing.TB, transport tcpip.TransportProtocolNumber, to netip.Addr, port uint16) (*conn, tcpip.Error) {
	t.Helper()
	return w.dialFrom(t, 0, transport, to, port)
}

// dialFrom is dial from a port of the client's.
func (w *wire) dialFrom(t testing.TB, from uint16, transport tcpip.TransportProtocolNumber, to netip.Addr, port uint16) (*conn, tcpip.Error) {
	t.Helper()
	queue := new(waiter.Queue)
	ep, err := w.client.NewEndpoint(transport, protoOf(to), queue)
	if err != nil {
		t.Fatal(err)
	}
	entry, notify := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	if from != 0 {
		if err = ep.Bind(tcpip.FullAddress{Port: from}); err != nil {
			ep.Close()
			return nil, err
		}
	}
	err = ep.Connect(tcpip.FullAddress{NIC: 1, Addr: address(to), Port: port})
	if _, started := err.(*tcpip.ErrConnectStarted); started {
		<-notify
		err = ep.LastError()
	}
	if err != nil {
		ep.Close()
		return nil, err
	}
	return newConn(ep, queue), nil
}

// mustDial is dial where it must succeed.
func (w *wire) mustDial(t testing.TB, transport tcpip.TransportProtocolNumber, to netip.Addr, port uint16) *conn {
	t.Helper()
	c, err := w.dial(t, transport, to, port)
	if err != nil {
		t.Fatalf("dial %v port %d: %v", to, port, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// injectPacket lets in a packet of which nothing is known.
func (s *Stack) injectPacket(b []byte) { s.injectWith(vnetHeader{}, b) }

// injectWith lets in a packet that is what h says.
func (s *Stack) injectWith(h vnetHeader, b []byte) {
	room := buffer.NewViewSize(maxPacket)
	f := frame{room: room, vnet: h}
	f.b = room.AsSlice()[:copy(room.AsSlice(), b)]
	s.inject(&f)
	if f.room != nil {
		f.room.Release()
	}
}

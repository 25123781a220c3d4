package ping

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Errors of a request. Each also wraps what the kernel said, if it spoke.
var (
	ErrNoFamily = errors.New("ping: no socket of the address's family")
	ErrBusy     = errors.New("ping: too many requests are outstanding")
)

const (
	maxMessage  = 65535
	readBuffer  = 1 << 20 // bytes; replies to thousands of probes come in bursts
	errorPause  = 10 * time.Millisecond
	maxProbes   = 16384 // outstanding transmissions of probes, per family
	maxRelayed  = 16384 // outstanding relayed echoes, per family; the sequence number allows 65,536
	icmpV4Proto = 1
	icmpV6Proto = 58
)

// Config says how the sockets are opened.
type Config struct {
	// Mark is the SO_MARK of the sockets, so that they bypass the TUN; 0
	// sets none. It needs CAP_NET_ADMIN, or CAP_NET_RAW from Linux 5.17.
	Mark uint32
}

// Stats counts what has gone over the sockets since they were opened.
type Stats struct {
	Probes    uint64 `json:"probes"`    // transmissions of probes
	Relayed   uint64 `json:"relayed"`   // clients' echo requests sent on
	Replies   uint64 `json:"replies"`   // replies that somebody waited for
	Unmatched uint64 `json:"unmatched"` // replies nobody waited for, forged ones among them
	Malformed uint64 `json:"malformed"` // messages that are no echo reply
	Busy      uint64 `json:"busy"`      // requests refused at the limit
	Errors    uint64 `json:"errors"`    // failed sends and receives
}

type counters struct {
	probes, relayed, replies, unmatched, malformed, busy, errors atomic.Uint64
}

// Socket sends echo requests. Its methods may be called from many goroutines;
// replies arrive only while [Socket.Run] runs.
type Socket struct {
	v4, v6 *family // nil where the family is not to be had
	stats  counters
}

// family is one socket and who waits for its replies.
type family struct {
	conn  net.PacketConn
	proto int
	raw   bool
	id    uint16 // of our requests; the kernel writes its own on a ping socket

	mu      sync.Mutex
	probes  map[uint64]*probeWait // by the first half of the nonce
	relayed map[uint16]*relayWait // by sequence number
	nextSeq uint16
}

// Open opens a socket for each family. It needs CAP_NET_RAW, or a group inside
// net.ipv4.ping_group_range. One family may be missing, for a host without
// IPv6, say; if both are, the error says why and wraps [os.ErrPermission]
// where that is the reason.
func Open(c Config) (*Socket, error) {
	v6, err6 := openFamily(true, c.Mark)
	v4, err4 := openFamily(false, c.Mark)
	if v4 == nil && v6 == nil {
		cause := errors.Join(err6, err4)
		if errors.Is(err6, os.ErrPermission) && errors.Is(err4, os.ErrPermission) {
			cause = os.ErrPermission // the kernel has said so four times
		}
		return nil, fmt.Errorf("ping: neither a raw nor a ping socket could be opened: run as root or with CAP_NET_RAW, or allow ping sockets: sysctl -w net.ipv4.ping_group_range='0 2147483647': %w", cause)
	}
	return &Socket{v4: v4, v6: v6}, nil
}

// openFamily tries a raw socket first, which leaves identifiers alone, then a
// ping socket, which needs no privilege.
func openFamily(v6 bool, mark uint32) (*family, error) {
	f := &family{
		proto: icmpV4Proto, probes: make(map[uint64]*probeWait), relayed: make(map[uint16]*relayWait),
		id: randomID(),
	}
	if v6 {
		f.proto = icmpV6Proto
	}
	var err, errPing error
	if f.conn, err = openRaw(v6, mark); err == nil {
		f.raw = true
		return f, nil
	}
	if f.conn, errPing = openPing(v6, mark); errPing == nil {
		return f, nil
	}
	return nil, errors.Join(err, errPing)
}

func openRaw(v6 bool, mark uint32) (net.PacketConn, error) {
	network, address := "ip4:icmp", "0.0.0.0"
	if v6 {
		network, address = "ip6:ipv6-icmp", "::"
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if outer := c.Control(func(fd uintptr) { err = setMark(int(fd), mark) }); outer != nil {
			return outer
		}
		return err
	}}
	conn, err := config.ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	if err := prepareRaw(conn, v6); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// prepareRaw lets in nothing but echo replies: a raw socket would otherwise
// get a copy of every ICMP message the host receives.
func prepareRaw(conn net.PacketConn, v6 bool) error {
	if ip, ok := conn.(*net.IPConn); ok {
		// A small buffer loses replies but does not break anything.
		_ = ip.SetReadBuffer(readBuffer)
	}
	if v6 {
		var filter ipv6.ICMPFilter
		filter.SetAll(true)
		filter.Accept(ipv6.ICMPTypeEchoReply)
		return ipv6.NewPacketConn(conn).SetICMPFilter(&filter)
	}
	var filter ipv4.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv4.ICMPTypeEchoReply)
	return ipv4.NewPacketConn(conn).SetICMPFilter(&filter)
}

func openPing(v6 bool, mark uint32) (net.PacketConn, error) {
	domain, proto := unix.AF_INET, unix.IPPROTO_ICMP
	var bind unix.Sockaddr = &unix.SockaddrInet4{}
	if v6 {
		domain, proto, bind = unix.AF_INET6, unix.IPPROTO_ICMPV6, &unix.SockaddrInet6{}
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "ping")
	defer func() { _ = file.Close() }() // FilePacketConn has its own duplicate
	if err := setMark(fd, mark); err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, bind); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	return net.FilePacketConn(file)
}

func setMark(fd int, mark uint32) error {
	if mark == 0 {
		return nil
	}
	return os.NewSyscallError("setsockopt SO_MARK", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)))
}

// Run hands replies to those who wait for them until ctx ends; then it closes
// the sockets, and whoever still waits is let go by their own contexts.
func (s *Socket) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.Close() }) // the readers see it
	defer stop()
	var wg sync.WaitGroup
	for _, f := range []*family{s.v4, s.v6} {
		if f != nil {
			wg.Go(func() { s.receive(f) })
		}
	}
	wg.Wait()
	return nil
}

// Close closes the sockets. It may be called more than once.
func (s *Socket) Close() error {
	var errs []error
	for _, f := range []*family{s.v4, s.v6} {
		if f == nil {
			continue
		}
		if err := f.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, fmt.Errorf("ping: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Stats returns the counters as they stand now.
func (s *Socket) Stats() Stats {
	c := &s.stats
	return Stats{
		Probes: c.probes.Load(), Relayed: c.relayed.Load(), Replies: c.replies.Load(), Unmatched: c.unmatched.Load(),
		Malformed: c.malformed.Load(), Busy: c.busy.Load(), Errors: c.errors.Load(),
	}
}

func (s *Socket) familyOf(a netip.Addr) (*family, error) {
	f := s.v6
	if a.Is4() {
		f = s.v4
	}
	if f == nil || !a.IsValid() || a.Is4In6() {
		return nil, fmt.Errorf("%w: %v: %w", ErrNoFamily, a, syscall.EAFNOSUPPORT)
	}
	return f, nil
}

// send transmits one message; a ping socket takes its address as UDP's.
func (s *Socket) send(f *family, message []byte, to netip.Addr) error {
	var addr net.Addr = &net.IPAddr{IP: to.AsSlice(), Zone: to.Zone()}
	if !f.raw {
		addr = &net.UDPAddr{IP: to.AsSlice(), Zone: to.Zone()}
	}
	if _, err := f.conn.WriteTo(message, addr); err != nil {
		s.stats.errors.Add(1)
		return fmt.Errorf("ping: %w", err)
	}
	return nil
}

func (s *Socket) receive(f *family) {
	buf := make([]byte, maxMessage)
	for {
		n, from, err := f.conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// What the kernel reports here is about some earlier packet; the
			// pause keeps a lasting fault from taking a core.
			s.stats.errors.Add(1)
			time.Sleep(errorPause)
			continue
		}
		s.deliver(f, buf[:n], sourceOf(from), time.Now())
	}
}

func sourceOf(from net.Addr) netip.Addr {
	var ip net.IP
	switch from := from.(type) {
	case *net.IPAddr:
		ip = from.IP
	case *net.UDPAddr:
		ip = from.IP
	}
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

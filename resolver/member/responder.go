package member

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

const (
	// DefaultLifetime is how long an answer may be used.
	DefaultLifetime = 30 * time.Second
	// DefaultRate is how many answers a second each asker gets.
	DefaultRate = 100

	maxLifetime = 24 * time.Hour
)

// ResponderConfig says what is served here and who is told. Zero values stand
// for the defaults.
type ResponderConfig struct {
	// Anycast are the addresses that are served, at least one.
	Anycast []netip.Addr
	// Unicast are the addresses that clients are sent to, at most one of each
	// family; without any it is the one on the route back to the asker.
	Unicast []netip.Addr
	// Port is the UDP port to answer on; default DefaultPort.
	Port uint16

	// PSKs, if any, are the keys of which an asker must show one.
	PSKs []PSK
	// Keyless answers askers without a key even so.
	Keyless bool
	// Signer, if there is one, signs each answer.
	Signer ed25519.PrivateKey
	// Lifetime is how long an answer may be used; 1 s to 24 h, default 30 s.
	Lifetime time.Duration
	// Rate is how many answers a second each asker gets, and how many at
	// once; default 100. An IPv6 asker is its /64.
	Rate int

	// Check, if there is one, is run each Interval (default 2 s) for up to
	// Timeout (default 1 s). After two failures in a row the member sends
	// askers elsewhere, after one success no longer; at first it does.
	Check             Check
	Interval, Timeout time.Duration
	// DrainFile, if it is a path, has the member drain while a file is there.
	DrainFile string

	Log *slog.Logger // nil discards
}

// Responder answers askers. Its methods may be called from many goroutines.
type Responder struct {
	answerer answerer
	conns    []*net.UDPConn
	log      *slog.Logger
	loud     *rate.Limiter
	stats    responderCounters

	check             Check
	interval, timeout time.Duration
	drainFile         string

	draining atomic.Bool // or unhealthy
	mu       sync.Mutex
	health   health
}

// Listen opens a socket for each family that is served, on all addresses: AA
// may come and go, as it does where a routing daemon puts it on lo, and UA
// answers too. It needs no privilege. An error says what is wrong and what to
// do.
func Listen(c ResponderConfig) (*Responder, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	limits, uas := newSources(cmp.Or(c.Rate, DefaultRate)), newUnicasts(c.Anycast, c.Unicast)
	r := &Responder{
		log: c.Log, loud: rate.NewLimiter(1, 10),
		check: c.Check, interval: cmp.Or(c.Interval, DefaultInterval), timeout: cmp.Or(c.Timeout, DefaultTimeout),
		drainFile: c.DrainFile, health: health{unhealthy: c.Check != nil},
	}
	r.draining.Store(r.health.draining())
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.answerer = answerer{
		anycast: slices.Clone(c.Anycast), port: cmp.Or(c.Port, DefaultPort), psks: make(map[string]integrity),
		keyless: c.Keyless, signer: c.Signer, lifetime: seconds(cmp.Or(c.Lifetime, DefaultLifetime) / time.Second),
		drains: r.draining.Load, limit: limits.allow, unicast: uas.to,
	}
	for _, k := range c.PSKs {
		r.answerer.psks[k.ID] = integrity(k.Secret)
	}
	for _, network := range []string{"udp6", "udp4"} {
		if !slices.ContainsFunc(c.Anycast, func(aa netip.Addr) bool { return aa.Is4() == (network == "udp4") }) {
			continue
		}
		conn, err := listen(network, r.answerer.port)
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		r.conns = append(r.conns, conn)
	}
	return r, nil
}

// ErrInvalid is what every error about a wrong value of a [ResponderConfig] is,
// by [errors.Is].
var ErrInvalid = errors.New("member: invalid configuration")

type invalidError string

func (e invalidError) Error() string      { return string(e) }
func (invalidError) Is(target error) bool { return target == ErrInvalid }

func invalid(format string, args ...any) error {
	return invalidError(fmt.Sprintf("member: "+format, args...))
}

func (c ResponderConfig) validate() error {
	if len(c.Anycast) == 0 {
		return invalid("no anycast address to answer for")
	}
	for i, aa := range c.Anycast {
		if !aa.IsGlobalUnicast() || aa.Is4In6() || aa.Zone() != "" {
			return invalid("%v can be no anycast address: name a global one", aa)
		}
		if slices.Contains(c.Anycast[:i], aa) {
			return invalid("anycast address %v is given twice", aa)
		}
	}
	for i, ua := range c.Unicast {
		if !ua.IsGlobalUnicast() || ua.Is4In6() || ua.Zone() != "" || slices.Contains(c.Anycast, ua) {
			return invalid("%v can be no unicast address of a member: name a global one that is not anycast", ua)
		}
		if slices.ContainsFunc(c.Unicast[:i], func(other netip.Addr) bool { return other.Is4() == ua.Is4() }) {
			return invalid("unicast address %v is the second one of its family", ua)
		}
	}
	for _, k := range c.PSKs {
		if err := k.check(); err != nil {
			return keyError("%w", err)
		}
	}
	switch {
	case c.Signer != nil && len(c.Signer) != ed25519.PrivateKeySize:
		return keyError("a private key has %d bytes, not %d", ed25519.PrivateKeySize, len(c.Signer))
	case c.Lifetime != 0 && (c.Lifetime < time.Second || c.Lifetime > maxLifetime):
		return invalid("lifetime %v: it must be 1s to 24h", c.Lifetime)
	case c.Rate < 0 || c.Interval < 0 || c.Timeout < 0:
		return invalid("rate %d, check interval %v and check timeout %v must not be negative", c.Rate, c.Interval, c.Timeout)
	}
	return nil
}

// listen opens a socket that tells to which address a datagram came.
func listen(network string, port uint16) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		level, option := unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
		if network == "udp4" {
			level, option = unix.IPPROTO_IP, unix.IP_PKTINFO
		}
		var err error
		outer := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
		return cmp.Or(outer, os.NewSyscallError("setsockopt PKTINFO", err))
	}}
	conn, err := config.ListenPacket(context.Background(), network, fmt.Sprintf(":%d", port))
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("member: another program, perhaps a STUN server, has UDP port %d: choose another with --port, and with --stun-port on the clients: %w", port, err)
	case err != nil:
		return nil, fmt.Errorf("member: %w", err)
	}
	udp := conn.(*net.UDPConn) // what a udp network gives
	// A small buffer loses questions, which are then repeated.
	_ = udp.SetReadBuffer(readBuffer)
	return udp, nil
}

// Run answers until ctx ends, then closes the sockets.
func (r *Responder) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = r.Close() }) // the readers see it
	defer stop()
	var wg sync.WaitGroup
	if r.drainFile != "" {
		r.lookForDrainFile() // before the first answer
		wg.Go(func() { r.watchDrainFile(ctx) })
	}
	if r.check != nil {
		wg.Go(func() { r.watch(ctx) })
	}
	for _, conn := range r.conns {
		for range runtime.GOMAXPROCS(0) {
			wg.Go(func() { r.serve(conn) })
		}
	}
	wg.Wait()
	return nil
}

// Close closes the sockets. It may be called more than once.
func (r *Responder) Close() error {
	var errs []error
	for _, conn := range r.conns {
		if err := conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, fmt.Errorf("member: %w", err))
		}
	}
	return errors.Join(errs...)
}

// serve answers the datagrams of a socket, one after the other.
func (r *Responder) serve(conn *net.UDPConn) {
	in, out := newMessage(), newMessage()
	buf, oob := make([]byte, maxDatagram), make([]byte, oobSize)
	for {
		n, oobn, _, from, err := conn.ReadMsgUDPAddrPort(buf, oob)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			r.stats.verdicts[failed].Add(1)
			time.Sleep(errorPause)
			continue
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		to, back := destination(oob[:oobn])
		v := r.answerer.answer(in, out, buf[:n], from, to, time.Now())
		r.stats.verdicts[v].Add(1)
		if v == answered || v == confirmed || v == declined {
			if _, _, err := conn.WriteMsgUDPAddrPort(out.Raw, back, from); err != nil {
				r.stats.verdicts[failed].Add(1)
				r.log.Debug("answer not sent", "to", from, "from", to, "err", err)
			}
		}
		r.tell(v, from, to)
	}
}

// tell logs what an operator has to know of, but not often.
func (r *Responder) tell(v verdict, from netip.AddrPort, to netip.Addr) {
	var text string
	switch v {
	case noUnicast:
		text = "no answer: none of this host's addresses can be named as its unicast address: give one with --unicast"
	case badKey:
		text = "no answer: the asker's key is unknown or does not fit"
	case limited:
		text = "no answer: the asker asks more often than --rate allows"
	default:
		return
	}
	if r.loud.Allow() {
		r.log.Warn(text, "from", from.Addr(), "anycast", to)
	}
}

// destination returns the address that a datagram came to, and the control
// message by which the answer leaves from that address (ipv6(7), ip(7)). The
// interface is left to the routes: it need not be the one it came in by.
func destination(oob []byte) (to netip.Addr, back []byte) {
	for len(oob) > 0 {
		header, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		switch {
		case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			info := unix.Inet6Pktinfo{Addr: [16]byte(data)}
			return netip.AddrFrom16(info.Addr), unix.PktInfo6(&info)
		case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			// ifindex, the local address, the header's destination
			local := [4]byte(data[4:])
			return netip.AddrFrom4(local), unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: local})
		}
		oob = rest
	}
	return netip.Addr{}, nil
}

// ResponderStats counts what became of the datagrams since the start.
type ResponderStats struct {
	Answered     uint64 `json:"answered"`      // askers of AA that were told UA
	Confirmed    uint64 `json:"confirmed"`     // askers of UA that were told yes
	Malformed    uint64 `json:"malformed"`     // no STUN messages, or broken ones
	Unsupported  uint64 `json:"unsupported"`   // STUN, but not what is answered here
	Foreign      uint64 `json:"foreign"`       // about addresses that are not served
	NoKey        uint64 `json:"no_key"`        // without a key where one is needed
	BadKey       uint64 `json:"bad_key"`       // with an unknown or wrong key
	Limited      uint64 `json:"limited"`       // beyond the asker's rate
	Declined     uint64 `json:"declined"`      // askers that were told, while unhealthy or draining, to go elsewhere
	NoUnicast    uint64 `json:"no_unicast"`    // no UA could be named
	Larger       uint64 `json:"larger"`        // the answer would have been larger
	Errors       uint64 `json:"errors"`        // failed sends and receives
	ChecksFailed uint64 `json:"checks_failed"` // health checks
}

type responderCounters struct {
	verdicts     [verdictsCount]atomic.Uint64
	checksFailed atomic.Uint64
}

// Stats returns the counters as they stand now.
func (r *Responder) Stats() ResponderStats {
	n := func(v verdict) uint64 { return r.stats.verdicts[v].Load() }
	return ResponderStats{
		Answered: n(answered), Confirmed: n(confirmed), Malformed: n(malformed), Unsupported: n(unsupported),
		Foreign: n(foreign), NoKey: n(noKey), BadKey: n(badKey), Limited: n(limited), Declined: n(declined),
		NoUnicast: n(noUnicast), Larger: n(larger), Errors: n(failed), ChecksFailed: r.stats.checksFailed.Load(),
	}
}

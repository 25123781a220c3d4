package main

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long an operation waits for what must come, silence how long
// for what must not; noWait takes what is there.
const (
	noWait   = time.Nanosecond
	patience = 6 * time.Second
	silence  = 1200 * time.Millisecond
)

// Call is one operation on a socket of a host. Which fields count depends on Op.
type Call struct {
	Op     string
	Socket int
	Kind   string // of a new socket: tcp, udp, icmp, or a protocol's number
	V6     bool
	Addr   netip.AddrPort
	N      int    // bytes, a count, or an option's value
	Seed   string // of the bytes to send
	Data   []byte // to send instead
	Wait   time.Duration
	Level  int
	Option int
	Class  int // traffic class of a datagram; 0 is the socket's
	Flags  int
	Slow   time.Duration // pause after each read
}

// Result is what came of a Call.
type Result struct {
	Errno  syscall.Errno
	EOF    bool
	Late   bool // it did not happen within Wait
	N      int
	Sum    string // hash of the bytes moved
	Data   []byte
	Addr   netip.AddrPort // of the peer, or of a datagram's sender
	Local  netip.AddrPort
	Class  int // traffic class of a datagram received, -1 if not told
	Hops   int // its hop limit, -1 if not told
	Events int16
	Socket int
	Took   time.Duration
	Queue  []QueuedError
}

// QueuedError is an entry of a socket's error queue (ip(7), IP_RECVERR).
type QueuedError struct {
	Errno      syscall.Errno
	Origin     string
	Type, Code uint8
	Info       uint32
	Offender   netip.Addr
	To         netip.AddrPort // where the datagram in question was sent
	Quote      []byte
}

// host is where sockets live: this process, or an agent.
type host interface{ do(Call) Result }

// end is a socket of one of the two hosts.
type end struct {
	who  string
	host host
	id   int
	v6   bool
}

func (e *end) do(c Call) Result {
	c.Socket, c.V6 = e.id, e.v6
	if c.Wait == 0 {
		c.Wait = patience
	}
	return e.host.do(c)
}

// options for the two families, by what they do.
type option struct{ level6, name6, level4, name4 int }

var (
	optRecvErr   = option{unix.SOL_IPV6, unix.IPV6_RECVERR, unix.SOL_IP, unix.IP_RECVERR}
	optMTU       = option{unix.SOL_IPV6, unix.IPV6_MTU, unix.SOL_IP, unix.IP_MTU}
	optDiscover  = option{unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.SOL_IP, unix.IP_MTU_DISCOVER}
	optHops      = option{unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, unix.SOL_IP, unix.IP_TTL}
	optClass     = option{unix.SOL_IPV6, unix.IPV6_TCLASS, unix.SOL_IP, unix.IP_TOS}
	optRecvClass = option{unix.SOL_IPV6, unix.IPV6_RECVTCLASS, unix.SOL_IP, unix.IP_RECVTOS}
	optRecvHops  = option{unix.SOL_IPV6, unix.IPV6_RECVHOPLIMIT, unix.SOL_IP, unix.IP_RECVTTL}
	optFreeBind  = option{unix.SOL_IPV6, unix.IPV6_FREEBIND, unix.SOL_IP, unix.IP_FREEBIND}
)

func (o option) of(v6 bool) (level, name int) {
	if v6 {
		return o.level6, o.name6
	}
	return o.level4, o.name4
}

func (e *end) set(o option, value int) Result {
	level, name := o.of(e.v6)
	return e.do(Call{Op: "setopt", Level: level, Option: name, N: value})
}

func (e *end) get(o option) Result {
	level, name := o.of(e.v6)
	return e.do(Call{Op: "getopt", Level: level, Option: name})
}

func (e *end) setTCP(name, value int) Result {
	return e.do(Call{Op: "setopt", Level: unix.SOL_TCP, Option: name, N: value})
}

func (e *end) setSocket(name, value int) Result {
	return e.do(Call{Op: "setopt", Level: unix.SOL_SOCKET, Option: name, N: value})
}

func (e *end) bind(a netip.AddrPort) Result    { return e.do(Call{Op: "bind", Addr: a}) }
func (e *end) listen(backlog int) Result       { return e.do(Call{Op: "listen", N: backlog}) }
func (e *end) connect(a netip.AddrPort) Result { return e.do(Call{Op: "connect", Addr: a}) }
func (e *end) names() Result                   { return e.do(Call{Op: "names"}) }

// send sends n bytes of a stream of its own and returns when the kernel has
// taken them all.
func (e *end) send(n int) Result { return e.do(Call{Op: "send", N: n, Seed: e.who}) }

// fill sends until the kernel takes nothing more for a while.
func (e *end) fill() Result {
	return e.do(Call{Op: "send", N: 1 << 30, Seed: e.who, Wait: time.Second})
}

// recv reads n bytes, or fewer if the stream ends before.
func (e *end) recv(n int) Result { return e.do(Call{Op: "recv", N: n}) }

// drain reads until the stream ends.
func (e *end) drain() Result { return e.do(Call{Op: "recv", N: 1 << 30}) }

// queued waits until n bytes are there to be read.
func (e *end) queued(n int) Result { return e.do(Call{Op: "queued", N: n}) }

func (e *end) fin() Result   { return e.do(Call{Op: "shutdown"}) }
func (e *end) close() Result { return e.do(Call{Op: "close"}) }

// reset closes with SO_LINGER 0, which sends RST.
func (e *end) reset() Result { return e.do(Call{Op: "reset"}) }

// poll waits for any of the events, or for an error, which always counts.
func (e *end) poll(events int16, wait time.Duration) Result {
	return e.do(Call{Op: "poll", N: int(events), Wait: wait})
}

// datagram sends one, to whom the socket is connected or to a.
func (e *end) datagram(n int, a netip.AddrPort) Result {
	return e.do(Call{Op: "sendmsg", N: n, Seed: fmt.Sprint(e.who, n), Addr: a})
}

// receive reads one datagram.
func (e *end) receive(wait time.Duration) Result { return e.do(Call{Op: "recvmsg", Wait: wait}) }

// errors empties the error queue, having waited for a first entry.
func (e *end) errors(wait time.Duration) Result { return e.do(Call{Op: "errors", Wait: wait}) }

// errnoName is the name of the C library's header, or ok.
func errnoName(e syscall.Errno) string {
	if e == 0 {
		return "ok"
	}
	if name := unix.ErrnoName(e); name != "" {
		return name
	}
	return fmt.Sprintf("errno %d", int(e))
}

// how says how an operation ended.
func (r Result) how() string {
	switch {
	case r.Errno != 0:
		return errnoName(r.Errno)
	case r.EOF:
		return "EOF"
	case r.Late:
		return "nothing"
	}
	return "ok"
}

// bytes says what was read or written, and how it ended.
func (r Result) bytes() string {
	text := "0 bytes"
	if r.N > 0 {
		text = fmt.Sprintf("%d bytes %s", r.N, r.Sum)
	}
	if r.how() != "ok" {
		text += " then " + r.how()
	}
	return text
}

// datagram says what one datagram was.
func (r Result) datagram() string {
	if how := r.how(); how != "ok" {
		return how
	}
	return fmt.Sprintf("datagram of %d %s", r.N, r.Sum)
}

// when puts the time it took into a class. Nothing that is told by a packet
// takes as long as the first retransmission of a SYN, 1 s (RFC 6298).
func (r Result) when() string {
	if r.Took < 900*time.Millisecond {
		return "at once"
	}
	return "after a while"
}

// events names what poll(2) returned.
func (r Result) events() string {
	if r.Late {
		return "nothing"
	}
	var names []string
	for _, e := range []struct {
		bit  int16
		name string
	}{{unix.POLLIN, "IN"}, {unix.POLLOUT, "OUT"}, {unix.POLLPRI, "PRI"}, {unix.POLLRDHUP, "RDHUP"}, {unix.POLLERR, "ERR"}, {unix.POLLHUP, "HUP"}} {
		if r.Events&e.bit != 0 {
			names = append(names, e.name)
		}
	}
	return strings.Join(names, "+")
}

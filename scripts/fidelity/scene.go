package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
)

// scene is a situation on its way through one of the runs.
type scene struct {
	*situation
	mode    mode
	target  netip.Addr   // UA or AA
	self    []netip.Addr // the client's own addresses, the usual one first
	local   *table
	tmp     string
	members *agentProcess // in m1, for all
	remote  host          // the member's, when it is there
	own     *agentProcess // the situation's own agent, if it has one
	cleanup []func()

	mu  sync.Mutex
	saw []string
}

// note writes down what was seen.
func (s *scene) note(text string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saw = append(s.saw, fmt.Sprintf(text, args...))
}

// stop ends a situation whose next step would make no sense.
type stop struct{}

// give ends the situation with a last note.
func (s *scene) give(text string, args ...any) {
	s.note(text, args...)
	panic(stop{})
}

// play runs the situation and returns what was seen.
func (s *scene) play() string {
	defer func() {
		s.local.closeAll()
		for _, f := range slices.Backward(s.cleanup) {
			f()
		}
	}()
	func() {
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(stop); !ok {
					panic(r)
				}
			}
		}()
		s.run(s)
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.saw, "; ")
}

// broken ends the whole run: the lab is not as it must be.
func broken(text string, args ...any) {
	fmt.Fprintf(os.Stderr, "fidelity client: "+text+"\n", args...)
	os.Exit(1)
}

// ip runs ip(8); its namespaces are reached by -n.
func (s *scene) ip(args ...string) {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		broken("%s: ip %s: %v: %s", s.name, strings.Join(args, " "), err, out)
	}
}

// reroute changes the router's route to UA, to "unreachable" and the like, or
// back to what it was with "". See [roads] for IPv4.
func (s *scene) reroute(kind string) {
	args := []string{"-n", "router", "route"}
	if s.v6 {
		args = []string{"-n", "router", "-6", "route"}
	}
	ua := netip.PrefixFrom(s.ua(s.mode), s.ua(s.mode).BitLen()).String()
	if kind == "" {
		s.ip(append(args, "del", ua)...)
		return
	}
	if !s.v6 && kind != "blackhole" {
		s.ip(append(args, "add", ua, "dev", device)...)
		return
	}
	s.ip(append(args, "add", kind, ua)...)
}

// member is the host of the member's sockets.
func (s *scene) member() host {
	if s.remote != nil {
		return s.remote
	}
	agent := s.members
	if s.path.kind == dying {
		agent = s.ownAgent()
	}
	s.remote = s.dialAgent(agent)
	return s.remote
}

// ownAgent starts an agent for this situation alone, which may be killed.
func (s *scene) ownAgent() *agentProcess {
	if s.own == nil {
		own, err := startAgent(s.netns(s.mode), fmt.Sprintf("%s/agent-%s-%s", s.tmp, s.mode.letter(), s.name))
		if err != nil {
			broken("%s: %v", s.name, err)
		}
		s.own = own
		s.cleanup = append(s.cleanup, own.stop)
	}
	return s.own
}

func (s *scene) dialAgent(p *agentProcess) host {
	r, err := p.connect()
	if err != nil {
		broken("%s: %v", s.name, err)
	}
	s.cleanup = append(s.cleanup, func() { _ = r.client.Close() }) // nothing is pending
	return r
}

// client makes a socket of the client's.
func (s *scene) client(kind string) *end { return s.socket("client", s.local, kind) }

func (s *scene) socket(who string, h host, kind string) *end {
	e := &end{who: who, host: h, v6: s.v6}
	r := e.do(Call{Op: "socket", Kind: kind})
	if r.Errno != 0 {
		broken("%s: %s socket of the %s: %v", s.name, kind, who, r.Errno)
	}
	e.id = r.Socket
	return e
}

// serve makes a socket of the member's, bound to UA; port 0 is any.
func (s *scene) serve(kind string, port uint16) (*end, netip.AddrPort) {
	e := s.socket("member", s.member(), kind)
	s.demand(e.setSocket(unixReuseAddr, 1), "reuse address")
	s.demand(e.set(optFreeBind, 1), "free bind") // UA is local, but on no device
	s.demand(e.bind(netip.AddrPortFrom(s.ua(s.mode), port)), "bind")
	names := e.names()
	return e, netip.AddrPortFrom(s.target, names.Local.Port())
}

// listen makes a listening socket of the member's and returns where the client
// finds it.
func (s *scene) listen(port uint16, backlog int) (*end, netip.AddrPort) {
	e, at := s.serve("tcp", port)
	s.demand(e.listen(backlog), "listen")
	return e, at
}

// demand wants a step that has nothing to do with the network to succeed.
func (s *scene) demand(r Result, what string) {
	if r.Errno != 0 {
		broken("%s: %s: %s", s.name, what, errnoName(r.Errno))
	}
}

// accept takes the next connection at the member.
func (s *scene) accept(listener *end) *end {
	r := listener.do(Call{Op: "accept"})
	if r.how() != "ok" {
		s.give("member has no connection (%s)", r.how())
	}
	return &end{who: "member", host: listener.host, id: r.Socket, v6: s.v6}
}

// dial connects a client socket; what is not a success ends the situation.
func (s *scene) dial(c *end, to netip.AddrPort) {
	if r := c.connect(to); r.how() != "ok" {
		s.give("connect %s", r.how())
	}
}

// pair is an established connection.
func (s *scene) pair() (client, member *end) {
	listener, at := s.listen(0, 16)
	client = s.client("tcp")
	s.dial(client, at)
	return client, s.accept(listener)
}

// routers are the addresses with which the router speaks to the clients.
var routers = []netip.Addr{
	source6, source4, must("2001:db8:1::1"), must("2001:db8:2::1"), must("203.0.113.1"), must("203.0.113.129"),
}

// whose writes an address of either run in the words of both.
func (s *scene) whose(a netip.Addr) string {
	switch {
	case a == s.target || a == s.ua(s.mode):
		return "TARGET"
	case a == s.self[0]:
		return "SELF"
	case slices.Contains(s.self, a):
		return "SELF2"
	case slices.Contains(routers, a):
		return "ROUTER"
	case a.IsUnspecified() || !a.IsValid():
		return "none"
	}
	return a.String()
}

// queue says what the error queue held.
func (s *scene) queue(r Result) string {
	if len(r.Queue) == 0 {
		return r.how()
	}
	var all []string
	for _, q := range r.Queue {
		text := fmt.Sprintf("%s %s", q.Origin, errnoName(q.Errno))
		if q.Origin == "icmp" {
			text = fmt.Sprintf("icmp %d/%d %s", q.Type, q.Code, errnoName(q.Errno))
		}
		if q.Errno == errTooBig {
			text += fmt.Sprintf(" mtu %d", q.Info)
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// together runs the functions at once and returns when all have.
func together(functions ...func()) {
	var wg sync.WaitGroup
	for _, f := range functions {
		wg.Go(f)
	}
	wg.Wait()
}

package nat

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
)

// State is where a flow stands in its life.
type State uint32

// The states of a flow, in the order in which they come. A UDP or Echo flow
// goes from Dialling straight to Established and ends from there.
const (
	Resolving    State = iota + 1 // asking the resolver for a member
	Dialling                      // the outside socket is being connected
	Accepting                     // the client's TCP handshake is being completed
	Established                   // bytes move both ways
	ClientClosed                  // TCP: the client has sent FIN, the member has not
	MemberClosed                  // TCP: the member has sent FIN, the client has not
)

var stateNames = [...]string{
	Resolving: "resolving", Dialling: "dialling", Accepting: "accepting",
	Established: "established", ClientClosed: "client-closed", MemberClosed: "member-closed",
}

// String returns the state's name as it stands in logs and JSON.
func (s State) String() string {
	if s > 0 && int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint32(s))
}

// MarshalText implements [encoding.TextMarshaler].
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; it accepts what
// [State.String] returns.
func (s *State) UnmarshalText(text []byte) error {
	for known := Resolving; int(known) < len(stateNames); known++ {
		if string(text) == known.String() {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("nat: unknown flow state %q", text)
}

// PathTUN is the way of every flow of a [Translator].
const PathTUN = "tun"

// FlowInfo is a flow as it stood at one moment. It is a copy.
type FlowInfo struct {
	ID      uint64         `json:"id"` // unique for the life of the process, from 1
	Proto   Proto          `json:"proto"`
	Client  netip.AddrPort `json:"client"`  // Echo: the port is the ICMP identifier
	Anycast netip.AddrPort `json:"anycast"` // what the client dialled
	Member  netip.Addr     `json:"member"`  // UA; the zero Addr while Resolving
	State   State          `json:"state"`
	Path    string         `json:"path"` // PathTUN, or another that whoever lists other flows too has a name for
	Started time.Time      `json:"started"`
	Active  time.Time      `json:"active"`    // when a byte last moved, either way
	Sent    uint64         `json:"bytes_out"` // payload bytes, client to member
	Got     uint64         `json:"bytes_in"`  // payload bytes, member to client
}

// flow is one entry of the table. The tuple, id and start never change; the
// member is set once and never rebound, which is the promise of the package.
type flow struct {
	tuple   Tuple
	id      uint64
	started time.Time
	cut     context.CancelFunc // ends the flow at once

	opening bool // guarded by Table.mu: still counted against the opening limits

	state  atomic.Uint32
	member atomic.Pointer[netip.Addr]
	method atomic.Pointer[string] // how the member was found; nil unless flows are logged
	active atomic.Int64           // nanoseconds since started
	sent   atomic.Uint64
	got    atomic.Uint64

	life context.Context // Echo only: ends with cut
	idle *time.Timer     // Echo only, guarded by Table.mu: ends the flow
	uses int             // Echo only, guarded by Table.mu: requests being served
}

func (f *flow) setState(s State) { f.state.Store(uint32(s)) }

// touch notes that n payload bytes moved; counter is f.sent or f.got.
func (f *flow) touch(counter *atomic.Uint64, n int) {
	counter.Add(uint64(n))
	f.active.Store(int64(time.Since(f.started)))
}

// idleFor returns how long nothing has moved.
func (f *flow) idleFor() time.Duration {
	return time.Since(f.started) - time.Duration(f.active.Load())
}

// bind sets the member unless one is set, and returns the flow's member, and
// whether it is the first. Only TCP before its handshake is answered may replace
// a member, with rebind.
func (f *flow) bind(ua netip.Addr) (member netip.Addr, first bool) {
	if f.member.CompareAndSwap(nil, &ua) {
		return ua, true
	}
	return *f.member.Load(), false
}

// rebind names the member that is being dialled. It is called only before the
// client has been answered, when no byte has yet gone to any member.
func (f *flow) rebind(ua netip.Addr) { f.member.Store(&ua) }

func (f *flow) memberOrZero() netip.Addr {
	if ua := f.member.Load(); ua != nil {
		return *ua
	}
	return netip.Addr{}
}

func (f *flow) info() FlowInfo {
	return FlowInfo{
		ID: f.id, Proto: f.tuple.Proto, Client: f.tuple.Client, Anycast: f.tuple.Anycast,
		Member: f.memberOrZero(), State: State(f.state.Load()), Path: PathTUN,
		Started: f.started, Active: f.started.Add(time.Duration(f.active.Load())),
		Sent: f.sent.Load(), Got: f.got.Load(),
	}
}

package admin

import (
	"net/netip"
	"time"

	"aarptun/nat"
	"aarptun/resolver"
)

// Status is the answer to /v1/status.
type Status struct {
	Version  string         `json:"version"`
	PID      int            `json:"pid"`
	Started  time.Time      `json:"started"`
	Device   string         `json:"device"`
	MTU      int            `json:"mtu"`
	Prefixes []netip.Prefix `json:"prefixes"`
	// PreserveSource is whether members see the clients' own addresses.
	PreserveSource bool         `json:"preserve_source"`
	Config         ConfigStatus `json:"config"`
	// What the process itself holds; -1 where it cannot be told.
	Goroutines    int   `json:"goroutines"`
	OpenFiles     int   `json:"open_files"`     // file descriptors, the one of this request among them
	ResidentBytes int64 `json:"resident_bytes"` // memory in RAM (proc(5), statm: resident)
	// Rooms holds each room's own Stats under its name: nat, ping, resolver,
	// stack.
	NAT      nat.Stats      `json:"nat"`
	Resolver resolver.Stats `json:"resolver"`
	Rooms    map[string]any `json:"rooms"`
}

// ConfigStatus says which configuration counts.
type ConfigStatus struct {
	File     string         `json:"file,omitempty"`    // that it stands in
	Loaded   time.Time      `json:"loaded"`            // when it was read
	Reloaded time.Time      `json:"reloaded,omitzero"` // when the last reload was asked for
	Error    string         `json:"error,omitempty"`   // why that changed nothing
	Passing  []netip.Prefix `json:"passing,omitempty"` // not carried any more, and led here while they have flows
}

// Flows is the answer to /v1/flows, oldest flow first unless another order was
// asked for.
type Flows struct {
	// How many flows there are, and of those how many match, where not all were
	// asked for.
	Total   int `json:"total,omitempty"`
	Matched int `json:"matched,omitempty"`

	Flows []nat.FlowInfo `json:"flows"`
}

// Pin is one line of the answer to /v1/pins.
type Pin struct {
	Anycast    netip.Addr `json:"anycast"`
	Member     netip.Addr `json:"member"`
	Method     string     `json:"method"` // which prober found it, or "static"
	Trust      string     `json:"trust"`
	SelfAnswer bool       `json:"self_answer,omitempty"` // AA answered from itself: carried on unpinned
	Client     netip.Addr `json:"client,omitzero"`       // whose pin it is, with --sticky source
	Stale      bool       `json:"stale,omitempty"`       // past its time, and used while nobody answers
	RTT        int64      `json:"rtt_us"`                // microseconds, 0 if it was not measured
	TTL        int64      `json:"ttl_ms"`                // milliseconds left; negative once expired
}

// Flushed is the answer to /v1/flush.
type Flushed struct {
	Pins int `json:"pins"` // were forgotten
	Cut  int `json:"cut"`  // flows that the kernel carried were ended
}

// Pins is the answer to /v1/pins.
type Pins struct {
	Pins []Pin `json:"pins"`
}

// Member is one line of the answer to /v1/members.
type Member struct {
	Member     netip.Addr `json:"member"`
	Flows      int        `json:"flows"`            // that are with it now
	Pins       int        `json:"pins"`             // that name it
	Method     string     `json:"method,omitempty"` // of the pin with the smallest RTT; "" without a pin
	SelfAnswer bool       `json:"self_answer,omitempty"`
	RTT        int64      `json:"rtt_us"`    // microseconds, 0 if it was not measured
	Sent       uint64     `json:"bytes_out"` // payload of the flows that are with it now
	Got        uint64     `json:"bytes_in"`
}

// Members is the answer to /v1/members: all that have a flow or a pin.
type Members struct {
	Members []Member `json:"members"`
}

package nat

import (
	"fmt"
	"net/netip"
)

// Proto is the transport a flow speaks.
type Proto uint8

// The transports that are translated; every other protocol is refused by the
// room that reads packets.
const (
	TCP Proto = iota + 1
	UDP
	Echo // ICMP and ICMPv6 echo
)

// String returns the transport's name as it stands in logs and JSON.
func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case Echo:
		return "echo"
	}
	return fmt.Sprintf("proto(%d)", uint8(p))
}

// MarshalText implements [encoding.TextMarshaler].
func (p Proto) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; it accepts what
// [Proto.String] returns.
func (p *Proto) UnmarshalText(text []byte) error {
	for _, known := range []Proto{TCP, UDP, Echo} {
		if string(text) == known.String() {
			*p = known
			return nil
		}
	}
	return fmt.Errorf("nat: unknown protocol %q", text)
}

// Tuple names a flow as the client sees it. It is comparable and is the key of
// the flow table.
//
// For Echo the client's port is the ICMP identifier (RFC 5508 section 3.1) and
// the anycast port is 0.
type Tuple struct {
	Proto   Proto
	Client  netip.AddrPort
	Anycast netip.AddrPort
}

// String returns the tuple as "tcp [client]:port > [aa]:port".
func (t Tuple) String() string {
	return fmt.Sprintf("%v %v > %v", t.Proto, t.Client, t.Anycast)
}

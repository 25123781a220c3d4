package resolver

import (
	"context"
	"net/netip"

	"aarptun/resolver/ping"
)

// ICMP asks by echo request (draft-ata-ipv6-anycast-resolving-02 A.2): a host
// that joined an anycast address must not answer from it (RFC 4291 section
// 2.6), so it answers from its unicast address.
type ICMP struct{ socket *ping.Socket }

// NewICMP returns a prober that asks over socket, which must be running.
func NewICMP(socket *ping.Socket) *ICMP { return &ICMP{socket} }

// Name implements [Prober].
func (*ICMP) Name() string { return "icmp" }

// Serves implements [Prober]. IPv4 knows no anycast addresses, so a member
// answers from AA itself; asking still tells whether anybody is there.
func (*ICMP) Serves(netip.Addr) bool { return true }

// Proves implements [Prober]: nobody vouches for an echo.
func (*ICMP) Proves() Trust { return Nonce }

// Probe implements [Prober].
func (p *ICMP) Probe(ctx context.Context, aa netip.Addr, believe func(Answer) bool) (Answer, error) {
	return p.ProbePath(ctx, aa, 0, believe)
}

// ProbePath implements [PathProber] by the flow label and the identifier.
func (p *ICMP) ProbePath(ctx context.Context, aa netip.Addr, path int, believe func(Answer) bool) (Answer, error) {
	answer := func(r ping.Reply) Answer { return Answer{UA: r.From, RTT: r.RTT} }
	reply, err := p.socket.ProbePath(ctx, aa, path, func(r ping.Reply) bool { return believe(answer(r)) })
	if err != nil {
		return Answer{}, err
	}
	return answer(reply), nil
}

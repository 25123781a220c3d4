package stack

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"aarptun/nat"
)

// handleICMP takes echo requests, reassembled, before netstack would answer
// them. It says that it has taken each of them, also those it drops.
func (s *Stack) handleICMP(id gstack.TransportEndpointID, p *gstack.PacketBuffer) bool {
	e := &echoInside{s: s, meta: metaOf(p), request: head(p)}
	message := append(p.TransportHeader().View().AsSlice(), p.Data().AsRange().ToSlice()...)
	if !e.parse(id, message) {
		return true
	}
	select {
	case s.echoes <- struct{}{}:
	default:
		s.stats.echoesDropped.Add(1)
		return true
	}
	if !s.begin() {
		<-s.echoes
		return true
	}
	go func() {
		defer s.serves.Done()
		defer func() { <-s.echoes }()
		s.handler.ServeEcho(s.life, e.tuple, e)
	}()
	return true
}

// echoInside is one echo request.
type echoInside struct {
	s       *Stack
	tuple   nat.Tuple
	meta    nat.Meta
	message []byte // header and data
	request []byte // the packet's head, for an ICMP error
}

// parse reads an echo request; other messages are not for us.
func (e *echoInside) parse(id gstack.TransportEndpointID, message []byte) bool {
	if len(message) < icmpHeader {
		return false
	}
	aa := addrOf(id.LocalAddress)
	if aa.Is4() && header.ICMPv4Type(message[0]) != header.ICMPv4Echo || aa.Is6() && header.ICMPv6Type(message[0]) != header.ICMPv6EchoRequest {
		return false
	}
	e.message = message
	e.tuple = nat.Tuple{
		Proto:   nat.Echo,
		Client:  netip.AddrPortFrom(addrOf(id.RemoteAddress), binary.BigEndian.Uint16(message[4:])),
		Anycast: netip.AddrPortFrom(aa, 0),
	}
	return true
}

// Data implements [nat.EchoInside].
func (e *echoInside) Data() []byte { return e.message[icmpHeader:] }

// Meta implements [nat.EchoInside].
func (e *echoInside) Meta() nat.Meta { return e.meta }

// Reply implements [nat.EchoInside].
func (e *echoInside) Reply(data []byte) error {
	reply := make([]byte, 0, icmpHeader+len(data))
	reply = append(reply, e.message[:icmpHeader]...)
	reply = append(reply, data...)
	reply[0], reply[1] = uint8(header.ICMPv6EchoReply), 0
	if e.tuple.Anycast.Addr().Is4() {
		reply[0] = uint8(header.ICMPv4EchoReply)
	}
	if err := e.s.sendICMP(e.tuple.Anycast.Addr(), e.tuple.Client.Addr(), reply); err != nil {
		return fmt.Errorf("stack: echo reply: %w", errnoOf(err))
	}
	return nil
}

// Reject implements [nat.EchoInside].
func (e *echoInside) Reject(r nat.Refusal) {
	if icmp, ok := errorFor(r, e.tuple.Anycast.Addr().Is4()); ok {
		e.s.sendError(e.tuple, icmp, e.request)
	}
}

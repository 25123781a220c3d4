package main

import (
	"bytes"
	"crypto/ed25519"
	"net/netip"
	"slices"
	"time"
)

// question is a STUN request as the liar saw it.
type question struct {
	from, to netip.AddrPort
	id       [12]byte
	message  []byte
	packet   packet
}

// see tells the lies that go with a packet. The client hears a lie before the
// packet, or what comes of it, passes.
func (l *liar) see(p packet, inward bool) (fate, error) {
	from, to, data, ok := p.ports()
	kind := stunKind(data)
	switch {
	case ok && !inward && kind == bindRequest && to == netip.AddrPortFrom(l.aa, stunPort):
		return l.asked(question{from, to, stunID(data), data, p})
	case ok && !inward && kind == bindRequest && l.confirm && to == netip.AddrPortFrom(l.name, stunPort):
		l.told["confirmed"]++
		return drop, l.inject(udpPacket(to, from, confirmation(stunID(data), from).end()), true)
	case ok && inward && kind == bindError && from == netip.AddrPortFrom(l.aa, stunPort):
		return let, l.answered(from, to, data)
	case ok && inward && kind == bindError && from == netip.AddrPortFrom(l.other, stunPort) && l.turned[stunID(data)]:
		return l.turnedAnswer(to, data)
	case !inward && p.is(echoAsk) && p.dst == l.aa:
		return l.pinged(p)
	case inward && p.is(echoAnswer):
		l.reply = packet{p.src, p.dst, p.proto, bytes.Clone(p.payload)}
		if l.tells("echo-other") {
			l.told["echo-other"]++
			defer l.releaseAll()
		}
	}
	return let, nil
}

func (l *liar) tells(lie string) bool { return slices.Contains(l.lies, lie) }

// say sends an answer of AA's to the client.
func (l *liar) say(lie string, to netip.AddrPort, message []byte) error {
	l.told[lie]++
	return l.inject(udpPacket(netip.AddrPortFrom(l.aa, stunPort), to, message), true)
}

// asked tells the lies that need no more than the question.
func (l *liar) asked(q question) (fate, error) {
	what := let
	for _, lie := range l.lies {
		var message []byte
		switch lie {
		case "name":
			message = answerNaming(q.id, l.name).end()
		case "draining":
			message = drainingAnswer(q.id, l.name).end()
		case "bad-mac":
			message = answerNaming(q.id, l.name).mac([]byte("a secret that the liar has guessed")).end()
		case "bad-key":
			message = l.signed(q.id, l.keys.private.Public().(ed25519.PublicKey), time.Now())
		case "bad-sign":
			message = l.signed(q.id, l.keys.number, time.Now())
		case "expired":
			message = l.signed(q.id, l.keys.private.Public().(ed25519.PublicKey), time.Now().Add(-time.Hour))
		case "replay":
			message = l.answer
		case "replay-id":
			if message = bytes.Clone(l.answer); message != nil {
				copy(message[8:], q.id[:])
				message = mend(message)
			}
		case "other", "turn":
			if lie == "other" {
				what = hold // for the answer; the members are silent about the other
			}
			if err := l.turn(q, lie == "other"); err != nil {
				return drop, err
			}
		case "unreachable":
			l.told[lie]++
			if err := l.inject(icmpPacket(l.aa, q.from.Addr(), portUnreachable, make([]byte, 4), q.packet.bytes()), true); err != nil {
				return drop, err
			}
		case "unasked":
			l.told[lie]++
			if err := l.inject(icmpPacket(l.name, q.from.Addr(), echoAnswer, make([]byte, 4), q.id[:], make([]byte, 4)), true); err != nil {
				return drop, err
			}
		}
		if message != nil {
			if err := l.say(lie, q.from, message); err != nil {
				return drop, err
			}
		}
	}
	return what, nil
}

// signed is an answer that names whom the liar likes, signed by its key.
func (l *liar) signed(id [12]byte, number ed25519.PublicKey, from time.Time) []byte {
	return answerNaming(id, l.name).add(attrProof, proof(l.keys.private, number, id, l.aa, l.name, from)).end()
}

// turn carries a question to another AA, as it is, or asking about that one.
func (l *liar) turn(q question, about bool) error {
	message := bytes.Clone(q.message)
	if v := attribute(message, attrAnycast); about && v != nil {
		copy(v, plainAddress(netip.AddrPortFrom(l.other, 0)))
		message = mend(message)
	}
	l.turned[q.id] = true
	l.told["turned"]++
	return l.inject(udpPacket(q.from, netip.AddrPortFrom(l.other, stunPort), message), false)
}

// turnedAnswer passes another AA's answer on as this one's, and only then lets
// the question go where it was meant to.
func (l *liar) turnedAnswer(to netip.AddrPort, message []byte) (fate, error) {
	err := l.say("other", to, message)
	l.releaseAll()
	return drop, err
}

// answered tells the lies that are made of the member's own answer.
func (l *liar) answered(from, to netip.AddrPort, message []byte) error {
	l.answer = bytes.Clone(message)
	for _, lie := range l.lies {
		var changed []byte
		switch lie {
		case "flip":
			changed = bytes.Clone(message)
			for _, kind := range []uint16{attrProof, attrMAC} {
				if v := attribute(changed, kind); v != nil {
					v[len(v)-1] ^= 1
				}
			}
			changed = mend(changed)
		case "rename":
			changed = bytes.Clone(message)
			copy(attribute(changed, attrAlternate), plainAddress(netip.AddrPortFrom(l.name, stunPort)))
			changed = mend(changed)
		case "recode":
			changed = bytes.Clone(message)
			copy(attribute(changed, attrErrorCode), []byte{0, 0, 5, 0})
			changed = mend(changed)
		case "strip":
			w := newSTUN(bindError, stunID(message))
			for _, kind := range []uint16{attrErrorCode, attrAlternate, attrLifetime} {
				w.add(kind, attribute(message, kind))
			}
			changed = w.end()
		default:
			continue
		}
		if err := l.say(lie, to, changed); err != nil {
			return err
		}
	}
	return nil
}

// pinged tells the lies about an echo request.
func (l *liar) pinged(p packet) (fate, error) {
	switch {
	case l.tells("echo-name"):
		l.told["echo-name"]++
		return let, l.inject(icmpPacket(l.name, p.src, echoAnswer, p.payload[4:]), true)
	case l.tells("echo-self"):
		l.told["echo-self"]++
		return let, l.inject(icmpPacket(l.aa, p.src, echoAnswer, p.payload[4:]), true)
	case l.tells("echo-replay") && l.reply.payload != nil:
		l.told["echo-replay"]++
		return let, l.inject(l.reply, true)
	case l.tells("echo-other"):
		return hold, l.inject(icmpPacket(p.src, l.other, echoAsk, p.payload[4:]), false)
	}
	return let, nil
}

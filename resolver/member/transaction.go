package member

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/pion/stun/v3"
	"golang.org/x/sys/unix"
)

// errorPause keeps a lasting fault of a socket from taking a core.
const errorPause = 10 * time.Millisecond

// sendTries is how often the kernel may fail a send, with what ICMP errors have
// left or for a reason of its own, before it is believed.
const sendTries = 100

// oobSize has room for every control message that we ask the kernel for.
const oobSize = 512

// waiting is a question whose answer is waited for. Answers are checked by the
// goroutine that asked: whoever floods one question with false ones keeps no
// other from being heard.
type waiting struct {
	answers chan *arrival
	refused chan error // an ICMP error; has room for one
}

// arrival is a datagram with the transaction id of a question.
type arrival struct {
	datagram []byte
	from     netip.AddrPort
	at       time.Time
}

// ask asks q, again and again, until an answer is believed, a host says that
// there is nobody, or ctx ends. Without n the first answer that passes the
// check is it.
func (p *Prober) ask(ctx context.Context, q question, first int, n *naming) (Found, error) {
	for {
		found, err := p.transact(ctx, q, first, n)
		if err == nil || ctx.Err() != nil || !errors.Is(err, ErrNoAnswer) {
			return found, err
		}
		p.rtos.drop(q.to.Addr()) // what was known of the path is not so any more
		first += maxTransmissions
	}
}

// transact sends q and repeats it (RFC 8489 section 6.2.1) until an answer
// passes the check and is believed. One that does not is counted and
// forgotten, as if it had not come (section 9.1.4), so whoever answers first
// has won nothing. A member that takes no new flows is passed by at once, as
// one that is silent is after a while: the next transmission leaves from
// another port.
func (p *Prober) transact(ctx context.Context, q question, first int, n *naming) (Found, error) {
	lanes := p.lanesFor(q.to.Addr())
	if len(lanes) == 0 {
		return Found{}, fmt.Errorf("%w: %v: %w", ErrNoFamily, q.to.Addr(), syscall.EAFNOSUPPORT)
	}
	q.id = stun.NewTransactionID()
	request, scratch := takeMessage(), takeMessage()
	defer giveBack(request, scratch)
	if err := q.build(request); err != nil {
		return Found{}, fmt.Errorf("member: %w", err)
	}
	w, err := p.expect(q.id)
	if err != nil {
		return Found{}, err
	}
	defer p.forget(q.id)
	t := transaction{prober: p, question: q, naming: n, waiting: w, began: time.Now(), scratch: scratch}
	rto := p.rtos.rto(q.to.Addr(), t.began)
	for repeats, sent := 0, 0; repeats < maxTransmissions; sent++ {
		if err := p.send(lanes[(first+sent)%len(lanes)], request.Raw, q.to); err != nil {
			return Found{}, err
		}
		wait := rto << repeats
		if repeats == maxTransmissions-1 {
			wait = rto * lastWait
		}
		found, next, err := t.listen(ctx, wait)
		switch {
		case err != nil:
			return Found{}, err
		case next == done:
			if sent == 0 {
				p.rtos.learn(q.to.Addr(), found.RTT, time.Now())
			}
			return found, nil
		case next == otherLane && t.draining >= len(lanes):
			return Found{}, t.failed(ErrDraining) // wherever the ports lead
		case next == otherLane:
			t.began = time.Now()
		default:
			repeats++
		}
	}
	return Found{}, t.failed(ErrNoAnswer)
}

// transaction is one question while it is asked.
type transaction struct {
	prober   *Prober
	question question
	naming   *naming // nil for a confirmation
	waiting  *waiting
	began    time.Time
	scratch  *stun.Message
	last     Refusal // of the last answer that was refused
	draining int     // answers of members that take no new flows
	gone     error   // where it was asked there is no responder
}

// listen waits for an answer that ends this wait.
func (t *transaction) listen(ctx context.Context, wait time.Duration) (Found, step, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		var confirmed <-chan confirmation
		if t.naming != nil {
			confirmed = t.naming.confirmed
		}
		var found Found
		next := waitOn
		select {
		case a := <-t.waiting.answers:
			found, next = t.answered(a)
		case c := <-confirmed:
			if c.err != nil {
				t.last = RefusedUnconfirmed
			}
			found, next = t.naming.settle(c)
		case err := <-t.waiting.refused:
			// Anybody on the path can send such an error. Where proof is asked
			// for it must not silence the member.
			if len(t.question.ring.PSKs)+len(t.question.ring.Public) == 0 {
				t.gone = err
			}
		case <-ctx.Done():
			return Found{}, done, t.over(ctx.Err())
		case <-timer.C:
			return Found{}, timeOut, nil
		}
		if next == otherLane {
			t.draining++
		}
		if next != waitOn {
			return found, next, nil
		}
		if t.gone != nil && (t.naming == nil || t.naming.waiting == 0) {
			return Found{}, done, fmt.Errorf("%w: %w", t.failed(ErrNoResponder), t.gone)
		}
	}
}

// answered checks an answer, and says what it makes of the wait.
func (t *transaction) answered(a *arrival) (Found, step) {
	found, refusal := t.question.check(t.scratch, a.datagram, a.from, time.Now())
	if refusal != "" {
		t.last = refusal
		t.prober.refuse(t.question.aa, a.from.Addr(), refusal)
		return Found{}, waitOn
	}
	t.prober.stats.answers.Add(1)
	found.RTT = a.at.Sub(t.began)
	if t.naming == nil {
		return found, done
	}
	return found, t.naming.take(found)
}

// over is the error at the end of the question's time.
func (t *transaction) over(cause error) error {
	if t.naming != nil {
		if t.naming.waiting > 0 {
			t.last = RefusedUnconfirmed
		}
		t.naming.over(cause)
	}
	return fmt.Errorf("%w: %w", t.failed(ErrNoAnswer), cause)
}

// failed adds to an error what answers there were.
func (t *transaction) failed(err error) error {
	switch {
	case t.draining > 0:
		return fmt.Errorf("%w at %v", ErrDraining, t.question.to)
	case t.last != "":
		return fmt.Errorf("%w at %v that could be believed, the last one for: %s", err, t.question.to, t.last)
	}
	return fmt.Errorf("%w at %v", err, t.question.to)
}

func (p *Prober) expect(id transactionID) (*waiting, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.questions) >= maxQuestions {
		p.stats.busy.Add(1)
		return nil, ErrBusy
	}
	w := &waiting{answers: make(chan *arrival, maxAnswers), refused: make(chan error, 1)}
	p.questions[id] = w
	return w, nil
}

func (p *Prober) forget(id transactionID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.questions, id)
}

// waiter returns who waits for an answer with the transaction id that stands
// in a message; nil if there is nobody.
func (p *Prober) waiter(message []byte) *waiting {
	if len(message) < headerSize {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.questions[transactionID(message[8:])]
}

func (p *Prober) send(l *lane, message []byte, to netip.AddrPort) error {
	_, err := l.conn.WriteToUDPAddrPort(message, to)
	for tries := 1; err != nil && tries < sendTries && !errors.Is(err, net.ErrClosed); tries++ {
		// What the kernel reported may be about an earlier datagram, or about
		// none: anybody can make such errors up. The receiver reads them too,
		// so there being none says nothing.
		p.unreachable(l, make([]byte, requestSize), make([]byte, oobSize))
		_, err = l.conn.WriteToUDPAddrPort(message, to)
	}
	if err != nil {
		p.stats.errors.Add(1)
		return fmt.Errorf("member: %w", err)
	}
	p.stats.transmissions.Add(1)
	return nil
}

func (p *Prober) receive(l *lane) {
	buf, oob := make([]byte, maxDatagram), make([]byte, oobSize)
	for {
		n, from, err := l.conn.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			if !p.unreachable(l, buf, oob) {
				p.stats.errors.Add(1)
				time.Sleep(errorPause)
			}
			continue
		}
		p.deliver(buf[:n], from, time.Now())
	}
}

// deliver gives a datagram to whoever waits for it. buf is only valid during
// the call.
func (p *Prober) deliver(buf []byte, from netip.AddrPort, at time.Time) {
	w := p.waiter(buf)
	if w == nil {
		p.stats.unmatched.Add(1)
		return
	}
	select {
	case w.answers <- &arrival{bytes.Clone(buf), from, at}:
	default:
		p.stats.busy.Add(1) // a flood; the question will be repeated
	}
}

// unreachable reads what the kernel has kept of ICMP errors, with the messages
// they are about, and reports whether there was any (ip(7), IP_RECVERR).
func (p *Prober) unreachable(l *lane, buf, oob []byte) (any bool) {
	raw, err := l.conn.SyscallConn()
	if err != nil {
		return false
	}
	// The descriptor is only lent; the error is that of a closed socket, which
	// the reader sees next.
	_ = raw.Control(func(fd uintptr) {
		for {
			n, oobn, _, _, err := unix.Recvmsg(int(fd), buf, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			if err != nil {
				return
			}
			any = true
			p.stats.unreachable.Add(1)
			if w := p.waiter(buf[:n]); w != nil && errnoOf(oob[:oobn]) == unix.ECONNREFUSED {
				select {
				case w.refused <- syscall.ECONNREFUSED:
				default: // it knows
				}
			}
		}
	})
	return any
}

// errnoOf returns the error of a message from the error queue: the first field
// of struct sock_extended_err (linux/errqueue.h).
func errnoOf(oob []byte) unix.Errno {
	for len(oob) > 0 {
		header, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return 0
		}
		v4 := header.Level == unix.IPPROTO_IP && header.Type == unix.IP_RECVERR
		v6 := header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_RECVERR
		if (v4 || v6) && len(data) >= 4 {
			return unix.Errno(binary.NativeEndian.Uint32(data))
		}
		oob = rest
	}
	return 0
}

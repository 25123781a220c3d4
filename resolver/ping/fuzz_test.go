package ping

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// FuzzReply holds our reading of replies and quoted requests against another
// codec's.
func FuzzReply(f *testing.F) {
	f.Fuzz(func(t *testing.T, v6 bool, message []byte) {
		proto, reply, request := icmpV4Proto, icmp.Type(ipv4.ICMPTypeEchoReply), icmp.Type(ipv4.ICMPTypeEcho)
		if v6 {
			proto, reply, request = icmpV6Proto, ipv6.ICMPTypeEchoReply, ipv6.ICMPTypeEchoRequest
		}
		other, err := icmp.ParseMessage(proto, message)
		for _, tc := range []struct {
			kind  icmp.Type
			parse func(int, []byte) (echo, bool)
		}{{reply, parseReply}, {request, parseQuoted}} {
			got, ok := tc.parse(proto, message)
			if want := err == nil && other.Type == tc.kind && other.Code == 0; ok != want {
				t.Fatalf("%v: %v, want %v (%v)", tc.kind, ok, want, err)
			}
			if !ok {
				continue
			}
			body, isEcho := other.Body.(*icmp.Echo)
			if !isEcho || int(got.id) != body.ID || int(got.seq) != body.Seq || !bytes.Equal(got.data, body.Data) {
				t.Fatalf("%+v, want %+v", got, other.Body)
			}
		}
	})
}

// FuzzDeliver gives any message from anywhere to a socket on which a probe and
// an echo wait, and says byte by byte what may be taken for their answers.
func FuzzDeliver(f *testing.F) {
	f.Fuzz(func(t *testing.T, kind uint8, from, message []byte) {
		k := kinds[int(kind)%len(kinds)]
		w := newWaiting(k.proto, k.raw)
		source, _ := netip.AddrFromSlice(from)
		before := slices.Clone(message)
		w.s.deliver(w.f, message, source, time.Now())
		if !bytes.Equal(message, before) {
			t.Error("the message has been written to")
		}
		m := message
		if k.raw && k.proto == icmpV4Proto && len(m) >= 20 {
			m = m[min(int(m[0]&0xf)*4, len(m)):]
		}
		_, reply, _ := w.types()
		header := func(id, seq int, data []byte) bool {
			want := w.message(reply, 0, id, seq, data)
			return len(m) == len(want) && bytes.Equal(m[:2], want[:2]) && bytes.Equal(m[4:], want[4:])
		}
		id, seq := 0, 0
		if len(m) >= echoHeader {
			id, seq = int(m[4])<<8|int(m[5]), int(m[6])<<8|int(m[7])
		}
		mayProbe := header(id, seq, waitingNonce)
		mayEcho := source == w.peer && (header(waitingID, waitingSeq, waitingData) || !k.raw && header(id, waitingSeq, waitingData))
		if got := len(w.probe.replies) == 1; got && !mayProbe {
			t.Errorf("%x from %v is taken for the probe's answer", message, source)
		}
		if got := len(w.answers) == 1; got && !mayEcho {
			t.Errorf("%x from %v is taken for the echo's answer", message, source)
		}
		if got := len(w.probe.replies) + len(w.answers); got == 0 && (mayProbe || mayEcho) && w.s.Stats().Malformed == 0 {
			t.Errorf("%x from %v is not taken for an answer", message, source)
		}
		if st := w.s.Stats(); st.Replies+st.Unmatched+st.Malformed != 1 {
			t.Errorf("one message, and %+v", st)
		}
	})
}

// FuzzQuoted gives anything to what reads the error queue.
func FuzzQuoted(f *testing.F) {
	f.Fuzz(func(t *testing.T, kind uint8, about, quoted, control []byte) {
		k := kinds[int(kind)%len(kinds)]
		w := newWaiting(k.proto, k.raw)
		to, _ := netip.AddrFromSlice(about)
		e := parseExtended(control)
		if e == nil {
			e = &PathError{}
		} else if len(control) < unix.CmsgSpace(extendedSize) {
			t.Errorf("%+v comes of %x", e, control)
		} else if _, _, _, info := e.ICMP(); info != 0 && !hasInfo(true, e.Kind, e.Code) && !hasInfo(false, e.Kind, e.Code) {
			t.Errorf("%+v has an MTU or pointer", e)
		}
		_ = e.Error()
		w.s.deliverError(w.f, quoted, to, e)
		st := w.s.Stats()
		if st.ICMPErrors+st.Unmatched+st.Malformed != 1 || len(w.probe.replies) != 0 {
			t.Errorf("one error, and %+v", st)
		}
		if taken := st.ICMPErrors == 1; taken != (len(w.answers) == 1 || w.probe.evidence.Load() != nil) {
			t.Errorf("%+v, but %d answers", st, len(w.answers))
		}
		if st.ICMPErrors == 0 {
			return
		}
		request, _, _ := w.types()
		probe := w.message(request, 0, 0, 0, waitingNonce)
		echo := w.message(request, 0, waitingID, waitingSeq, waitingData)
		switch {
		case to != w.peer:
			t.Errorf("an error about %v is taken for one about %v", to, w.peer)
		case len(quoted) < echoHeader || quoted[0] != echo[0] || quoted[1] != 0:
			t.Errorf("%x is no request", quoted)
		case len(w.answers) == 1 && (!bytes.HasPrefix(echo[6:], quoted[6:]) || k.raw && !bytes.Equal(quoted[4:6], echo[4:6])):
			t.Errorf("%x quotes another echo", quoted)
		case len(w.answers) == 0 && !bytes.HasPrefix(quoted[echoHeader:], probe[echoHeader:]):
			t.Errorf("%x quotes another probe", quoted)
		}
	})
}

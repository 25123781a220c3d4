package ping

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// kinds are the kinds of socket, as far as messages differ.
var kinds = []struct {
	name  string
	proto int
	raw   bool
}{
	{"IPv6 raw", icmpV6Proto, true},
	{"IPv6 ping socket", icmpV6Proto, false},
	{"IPv4 raw", icmpV4Proto, true},
	{"IPv4 ping socket", icmpV4Proto, false},
}

const (
	waitingID  = 0x1234
	waitingSeq = 0x0102
)

var (
	waitingNonce = []byte("0123456789abcdef")
	waitingData  = []byte("what the client has sent")
)

// waiting is a socket without a socket: one probe and one relayed echo wait for
// what is delivered to it.
type waiting struct {
	s       *Socket
	f       *family
	peer    netip.Addr // of both
	probe   *probe
	answers chan relayed
}

func newWaiting(proto int, raw bool) *waiting {
	w := &waiting{s: newSocket(nil, nil), peer: memberV6, answers: make(chan relayed, 1)}
	if proto == icmpV4Proto {
		w.peer = memberV4
	}
	w.probe = &probe{to: w.peer, replies: make(chan Reply, 1)}
	w.f = &family{
		proto: proto, raw: raw, id: waitingID,
		probes: map[uint64]*probeWait{
			binary.BigEndian.Uint64(waitingNonce): {probe: w.probe, secret: [8]byte(waitingNonce[8:])},
		},
		relayed: map[uint16]*relayWait{waitingSeq: {to: w.peer, data: waitingData, answers: w.answers}},
	}
	return w
}

// types returns the types of request, reply and an error, in the family.
func (w *waiting) types() (request, reply, exceeded icmp.Type) {
	if w.f.proto == icmpV6Proto {
		return ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, ipv6.ICMPTypeTimeExceeded
	}
	return ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply, ipv4.ICMPTypeTimeExceeded
}

// message is an ICMP message with a right checksum.
func (w *waiting) message(kind icmp.Type, code, id, seq int, data []byte) []byte {
	m := icmp.Message{Type: kind, Code: code, Body: &icmp.Echo{ID: id, Seq: seq, Data: data}}
	b, err := m.Marshal(nil)
	if err != nil {
		panic(err) // it cannot fail on an echo
	}
	return b
}

// packet puts the header before a message that a raw IPv4 socket delivers, with
// options bytes of options.
func (w *waiting) packet(message []byte, options int) []byte {
	if w.f.proto != icmpV4Proto || !w.f.raw {
		return message
	}
	header := make([]byte, 20+options)
	header[0] = 0x40 | byte(len(header)/4)
	return append(header, message...)
}

func TestDeliver(t *testing.T) {
	const id, seq = waitingID, waitingSeq
	nonce, data := waitingNonce, waitingData
	flipped := func(b []byte, at int) []byte {
		b = slices.Clone(b)
		b[at] ^= 1
		return b
	}
	type outcome struct {
		probe, relayed                bool
		replies, unmatched, malformed uint64
	}
	answersProbe, answersEcho := outcome{probe: true, replies: 1}, outcome{relayed: true, replies: 1}
	nobodys, malformed := outcome{unmatched: 1}, outcome{malformed: 1}
	for _, kind := range kinds {
		ownID := nobodys // another program's on a raw socket; the kernel's own id on a ping socket
		if !kind.raw {
			ownID = answersEcho
		}
		w := newWaiting(kind.proto, kind.raw)
		request, reply, exceeded := w.types()
		other := netip.MustParseAddr("2001:db8::bad")
		if kind.proto == icmpV4Proto {
			other = netip.MustParseAddr("203.0.113.66")
		}
		right := w.message(reply, 0, id, seq, data)
		cases := []struct {
			name     string
			from     netip.Addr
			messages [][]byte
			want     outcome
		}{
			{"probe", w.peer, [][]byte{w.message(reply, 0, id, 7, nonce)}, answersProbe},
			{"probe, from anywhere", other, [][]byte{w.message(reply, 0, id, 7, nonce)}, answersProbe},
			{"probe, any id", w.peer, [][]byte{w.message(reply, 0, id+1, 7, nonce)}, answersProbe},
			{"probe, twice", w.peer, [][]byte{w.message(reply, 0, id, 7, nonce), w.message(reply, 0, id, 7, nonce)}, outcome{probe: true, replies: 1, unmatched: 1}},
			{"nonce with a wrong first half", w.peer, [][]byte{w.message(reply, 0, id, 7, flipped(nonce, 0))}, nobodys},
			{"nonce with a wrong second half", w.peer, [][]byte{w.message(reply, 0, id, 7, flipped(nonce, 15))}, nobodys},
			{"nonce cut short", w.peer, [][]byte{w.message(reply, 0, id, 7, nonce[:15])}, nobodys},
			{"half a nonce", w.peer, [][]byte{w.message(reply, 0, id, 7, nonce[:8])}, nobodys},
			{"nonce and more", w.peer, [][]byte{w.message(reply, 0, id, 7, append(slices.Clone(nonce), 0))}, nobodys},
			{"no data", w.peer, [][]byte{w.message(reply, 0, id, 7, nil)}, nobodys},
			{"echo", w.peer, [][]byte{right}, answersEcho},
			{"echo, twice", w.peer, [][]byte{right, right}, outcome{relayed: true, replies: 1, unmatched: 1}},
			{"echo, wrong then right", w.peer, [][]byte{w.message(reply, 0, id, seq, flipped(data, 3)), right}, outcome{relayed: true, replies: 1, unmatched: 1}},
			{"echo, from elsewhere", other, [][]byte{right}, nobodys},
			{"echo, other id", w.peer, [][]byte{w.message(reply, 0, id+1, seq, data)}, ownID},
			{"echo, other sequence number", w.peer, [][]byte{w.message(reply, 0, id, seq+1, data)}, nobodys},
			{"echo, other data", w.peer, [][]byte{w.message(reply, 0, id, seq, flipped(data, len(data)-1))}, nobodys},
			{"echo, cut short", w.peer, [][]byte{w.message(reply, 0, id, seq, data[:len(data)-1])}, nobodys},
			{"echo, no data", w.peer, [][]byte{w.message(reply, 0, id, seq, nil)}, nobodys},
			{"a code", w.peer, [][]byte{w.message(reply, 1, id, seq, data)}, malformed},
			{"a request", w.peer, [][]byte{w.message(request, 0, id, seq, data)}, malformed},
			{"an error", w.peer, [][]byte{w.message(exceeded, 0, id, seq, data)}, malformed},
			{"no header", w.peer, [][]byte{right[:7]}, malformed},
			{"nothing", w.peer, [][]byte{nil}, malformed},
		}
		if kind.proto == icmpV4Proto && kind.raw {
			cases = append(cases, struct {
				name     string
				from     netip.Addr
				messages [][]byte
				want     outcome
			}{"a wrong checksum", w.peer, [][]byte{flipped(right, 2)}, malformed})
		}
		for _, tc := range cases {
			t.Run(kind.name+"/"+tc.name, func(t *testing.T) {
				w := newWaiting(kind.proto, kind.raw)
				for _, m := range tc.messages {
					w.s.deliver(w.f, w.packet(m, 0), tc.from, time.Now())
				}
				st := w.s.Stats()
				got := outcome{probe: len(w.probe.replies) == 1, relayed: len(w.answers) == 1, replies: st.Replies, unmatched: st.Unmatched, malformed: st.Malformed}
				if got != tc.want {
					t.Errorf("%+v, want %+v", got, tc.want)
				}
				if got.probe && (<-w.probe.replies).From != tc.from {
					t.Error("the reply has another source")
				}
				if got.relayed && !bytes.Equal((<-w.answers).data, data) {
					t.Error("the reply has other data")
				}
			})
		}
	}
}

func TestHeaderOfRawIPv4(t *testing.T) {
	w := newWaiting(icmpV4Proto, true)
	right := w.message(ipv4.ICMPTypeEchoReply, 0, waitingID, waitingSeq, waitingData)
	for options, malformed := range map[int]bool{0: false, 4: false, 40: false} {
		w := newWaiting(icmpV4Proto, true)
		w.s.deliver(w.f, w.packet(right, options), w.peer, time.Now())
		if got := w.s.Stats(); (got.Malformed == 1) != malformed || len(w.answers) != 1 {
			t.Errorf("%d bytes of options: %+v", options, got)
		}
	}
	packet := w.packet(right, 0)
	for name, first := range map[string]byte{"another version": 0x65, "no header at all": 0x40, "a header of 16 bytes": 0x44, "a header of 60 bytes, which are not there": 0x4f} {
		w := newWaiting(icmpV4Proto, true)
		packet[0] = first
		w.s.deliver(w.f, packet[:28], w.peer, time.Now())
		if w.s.Stats().Malformed != 1 {
			t.Errorf("%s: %+v", name, w.s.Stats())
		}
	}
}

func TestDeliverError(t *testing.T) {
	const id, seq = waitingID, waitingSeq
	data := waitingData
	type outcome struct {
		evidence, relayed                bool
		icmpErrors, unmatched, malformed uint64
	}
	aboutProbe, aboutEcho := outcome{evidence: true, icmpErrors: 1}, outcome{relayed: true, icmpErrors: 1}
	nobodys, malformed := outcome{unmatched: 1}, outcome{malformed: 1}
	for _, kind := range kinds {
		ownID := nobodys
		if !kind.raw {
			ownID = aboutEcho
		}
		w := newWaiting(kind.proto, kind.raw)
		request, reply, exceeded := w.types()
		other := netip.MustParseAddr("2001:db8::bad")
		if kind.proto == icmpV4Proto {
			other = netip.MustParseAddr("203.0.113.66")
		}
		right := w.message(request, 0, id, seq, data)
		for _, tc := range []struct {
			name   string
			about  netip.Addr
			quoted [][]byte
			want   outcome
		}{
			{"echo", w.peer, [][]byte{right}, aboutEcho},
			{"echo, all that must be quoted", w.peer, [][]byte{right[:8]}, aboutEcho},
			{"echo, less than that", w.peer, [][]byte{right[:7]}, malformed},
			{"echo, twice", w.peer, [][]byte{right, right}, outcome{relayed: true, icmpErrors: 1, unmatched: 1}},
			{"echo, sent elsewhere", other, [][]byte{right}, nobodys},
			{"echo, sent who knows where", netip.Addr{}, [][]byte{right}, nobodys},
			{"echo, other id", w.peer, [][]byte{w.message(request, 0, id+1, seq, data)}, ownID},
			{"echo, other sequence number", w.peer, [][]byte{w.message(request, 0, id, seq+1, data)}, nobodys},
			{"echo, other data", w.peer, [][]byte{w.message(request, 0, id, seq, []byte("What"))}, nobodys},
			{"echo, more data than was sent", w.peer, [][]byte{w.message(request, 0, id, seq, append(slices.Clone(data), 0))}, nobodys},
			{"probe", w.peer, [][]byte{w.message(request, 0, id, 7, waitingNonce)}, aboutProbe},
			{"probe, sent elsewhere", other, [][]byte{w.message(request, 0, id, 7, waitingNonce)}, nobodys},
			{"probe, cut short", w.peer, [][]byte{w.message(request, 0, id, 7, waitingNonce[:15])}, nobodys},
			{"a reply", w.peer, [][]byte{w.message(reply, 0, id, seq, data)}, malformed},
			{"an error", w.peer, [][]byte{w.message(exceeded, 0, id, seq, data)}, malformed},
			{"a code", w.peer, [][]byte{w.message(request, 1, id, seq, data)}, malformed},
			{"nothing", w.peer, [][]byte{nil}, malformed},
		} {
			t.Run(kind.name+"/"+tc.name, func(t *testing.T) {
				w := newWaiting(kind.proto, kind.raw)
				e := &PathError{From: other, Kind: 3, Errno: syscall.EHOSTUNREACH}
				for _, q := range tc.quoted {
					w.s.deliverError(w.f, q, tc.about, e)
				}
				st := w.s.Stats()
				got := outcome{evidence: w.probe.evidence.Load() == e, relayed: len(w.answers) == 1, icmpErrors: st.ICMPErrors, unmatched: st.Unmatched, malformed: st.Malformed}
				if got != tc.want {
					t.Errorf("%+v, want %+v", got, tc.want)
				}
				if got.relayed && (<-w.answers).err != error(e) {
					t.Error("another error")
				}
				if len(w.probe.replies) != 0 {
					t.Error("an error answers the probe")
				}
			})
		}
	}
}

// extended is the control message of an error in the queue, with the sender's
// address (sock_extended_err, ip(7)).
func extended(level, kind int32, origin, icmpType, icmpCode uint8, info uint32, from netip.Addr) []byte {
	e := binary.NativeEndian.AppendUint32(nil, uint32(syscall.EPROTO))
	e = append(e, origin, icmpType, icmpCode, 0)
	e = binary.NativeEndian.AppendUint32(e, info)
	e = append(e, 0, 0, 0, 0)
	if from.Is4() {
		e = append(binary.NativeEndian.AppendUint16(e, unix.AF_INET), 0, 0)
		e = append(append(e, from.AsSlice()...), make([]byte, 8)...)
	} else if from.Is6() {
		e = append(binary.NativeEndian.AppendUint16(e, unix.AF_INET6), 0, 0, 0, 0, 0, 0)
		e = append(append(e, from.AsSlice()...), 0, 0, 0, 0)
	}
	b := binary.NativeEndian.AppendUint64(nil, uint64(unix.CmsgLen(len(e))))
	b = binary.NativeEndian.AppendUint32(b, uint32(level))
	b = binary.NativeEndian.AppendUint32(b, uint32(kind))
	return append(append(b, e...), make([]byte, unix.CmsgSpace(len(e))-unix.CmsgLen(len(e)))...)
}

func TestExtendedError(t *testing.T) {
	if unix.SizeofPtr != 8 {
		t.Skip("the control messages of this test are those of a 64-bit kernel")
	}
	const v4, v6, err4, err6 = unix.SOL_IP, unix.SOL_IPV6, unix.IP_RECVERR, unix.IPV6_RECVERR
	none := netip.Addr{}
	for _, tc := range []struct {
		name    string
		control []byte
		want    *PathError
	}{
		{"too big", extended(v6, err6, 3, 2, 0, 1400, routerV6), &PathError{routerV6, 2, 0, 1400, syscall.EPROTO}},
		{"parameter problem", extended(v6, err6, 3, 4, 1, 40, routerV6), &PathError{routerV6, 4, 1, 40, syscall.EPROTO}},
		{"time exceeded, with what should be unused", extended(v6, err6, 3, 3, 0, 1400, routerV6), &PathError{routerV6, 3, 0, 0, syscall.EPROTO}},
		{"fragmentation needed", extended(v4, err4, 2, 3, 4, 1400, routerV4), &PathError{routerV4, 3, 4, 1400, syscall.EPROTO}},
		{"parameter problem of IPv4", extended(v4, err4, 2, 12, 0, 9, routerV4), &PathError{routerV4, 12, 0, 9, syscall.EPROTO}},
		{"host unreachable, with what should be unused", extended(v4, err4, 2, 3, 1, 1400, routerV4), &PathError{routerV4, 3, 1, 0, syscall.EPROTO}},
		{"nobody knows from whom", extended(v6, err6, 3, 1, 0, 0, none), &PathError{none, 1, 0, 0, syscall.EPROTO}},
		{"after another message", append(extended(1, 29, 0, 0, 0, 0, none), extended(v6, err6, 3, 1, 0, 0, routerV6)...), &PathError{routerV6, 1, 0, 0, syscall.EPROTO}},
		{"our own kernel's", extended(v6, err6, 1, 0, 0, 1500, none), nil},
		{"our own kernel's of IPv4", extended(v4, err4, 1, 0, 0, 1500, none), nil},
		{"a time stamp's", extended(v4, err4, 4, 0, 0, 0, none), nil},
		{"another message", extended(v6, err6+1, 3, 1, 0, 0, routerV6), nil},
		{"cut short", extended(v6, err6, 3, 1, 0, 0, none)[:30], nil},
		{"nothing", nil, nil},
	} {
		got := parseExtended(tc.control)
		if (got == nil) != (tc.want == nil) || got != nil && *got != *tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

// The request's checksum is right whatever the data, also of odd length.
func TestChecksum(t *testing.T) {
	f := &family{proto: icmpV4Proto, id: 0xffff}
	for size := range 250 {
		data := randomData(size)
		m := f.request(f.id, uint16(size*251), data)
		if checksum(m) != 0 {
			t.Errorf("%d bytes: checksum %04x", size, checksum(m))
		}
		want, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: 0xffff, Seq: size * 251, Data: data}}).Marshal(nil)
		if err != nil || !bytes.Equal(m, want) {
			t.Errorf("%d bytes: %x, another codec makes it %x, %v", size, m, want, err)
		}
		m[size] ^= 0x10
		if checksum(m) == 0 {
			t.Errorf("%d bytes: a flipped bit makes no difference", size)
		}
	}
	if got := checksum(bytes.Repeat([]byte{0xff}, maxMessage)); got != ^uint16(0xff00) {
		t.Errorf("of all ones: %04x", got)
	}
}

// A PathError says who said what.
func TestPathErrorText(t *testing.T) {
	for _, tc := range []struct {
		e    PathError
		want string
	}{
		{said("2001:db8::1", 2, 0, 1400, syscall.EMSGSIZE), "ICMP type 2 code 0 from 2001:db8::1: message too long (1400)"},
		{said("192.0.2.1", 11, 0, 0, syscall.EHOSTUNREACH), "ICMP type 11 code 0 from 192.0.2.1: no route to host"},
		{said("", 1, 0, 0, syscall.ENETUNREACH), "network is unreachable"},
	} {
		if got := fmt.Sprint(&tc.e); got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
}

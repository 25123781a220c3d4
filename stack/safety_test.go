package stack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// safetyTime is an environment variable: how long TestNoFlowSeesAnothersBytes
// loads each device, as a duration. The default is what a run of all tests has
// time for; once in a while it deserves
//
//	AARPTUN_SAFETY_TIME=10m go test -race -run TestNoFlowSeesAnothersBytes -timeout 1h ./stack
const safetyTime = "AARPTUN_SAFETY_TIME"

// TestNoFlowSeesAnothersBytes carries many flows through a real translator, and
// ends some of them at random moments, from either end and in between. Bytes go
// straight between sockets and netstack's memory, and in rooms that are used
// again, so every byte that anybody receives must be his own flow's, and those
// whom nobody has ended must receive all of theirs.
func TestNoFlowSeesAnothersBytes(t *testing.T) {
	last := 1000 * time.Millisecond
	if given := os.Getenv(safetyTime); given != "" {
		var err error
		if last, err = time.ParseDuration(given); err != nil {
			t.Fatalf("%s: %v", safetyTime, err)
		}
	}
	for _, wiring := range wirings[:2] {
		t.Run(wiring.name, func(t *testing.T) {
			s := newSafety(t, wiring.c)
			var wg sync.WaitGroup
			for end, i := time.Now().Add(last), 0; i < 16; i++ {
				wg.Go(func() {
					for time.Now().Before(end) && !t.Failed() {
						s.tcpFlow(randomFate())
					}
				})
				if i%4 == 0 {
					wg.Go(func() {
						for time.Now().Before(end) && !t.Failed() {
							s.udpFlow()
						}
					})
				}
			}
			wg.Wait()
			// A client is done before its last bytes have arrived.
			eventually(t, "the members are done", func() bool { return s.serving.Load() == 0 })
			s.cutUnderLoad()
			t.Logf("%d TCP flows: %d to their end, %d aborted; %d bytes of TCP and %d datagrams verified",
				s.flows.Load(), s.whole.Load(), s.aborted.Load(), s.bytes.Load(), s.datagrams.Load())
			if s.whole.Load() == 0 || s.aborted.Load() == 0 || s.datagrams.Load() == 0 {
				t.Error("some kind of flow was not among them")
			}
		})
	}
}

// safety is a client netstack, a translator and members.
type safety struct {
	t     *testing.T
	wire  *wire
	cut   func()
	ports map[netip.Addr][]uint16 // of AA, and so of its member

	serving                                 atomic.Int64 // members, one for each flow
	flows, whole, aborted, bytes, datagrams atomic.Int64
}

// newSafety starts members on a few ports: one would not do for long, since the
// kernel keeps those of connections that have ended.
func newSafety(t *testing.T, c Config) *safety {
	s := &safety{t: t, ports: make(map[netip.Addr][]uint16)}
	w, translator := translate(t, c)
	s.wire = w
	s.cut = func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		_ = translator.Drain(now) // which says that it has cut them
	}
	for _, f := range families {
		ua, _ := loopback{}.Resolve(t.Context(), f.client, f.dest)
		for range 8 {
			listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(ua, 0)))
			if err != nil {
				t.Logf("no member of this family: %v", err)
				break
			}
			at := listener.Addr().(*net.TCPAddr).AddrPort()
			socket, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
			if err != nil {
				_ = listener.Close()
				continue // another has the port
			}
			var wg sync.WaitGroup
			wg.Go(func() { s.accept(listener) })
			wg.Go(func() { s.answer(socket) })
			t.Cleanup(func() {
				_, _ = listener.Close(), socket.Close()
				wg.Wait()
			})
			s.ports[f.dest] = append(s.ports[f.dest], at.Port())
		}
	}
	if len(s.ports) == 0 {
		t.Fatal("there are no members")
	}
	return s
}

// member is a random AA and port.
func (s *safety) member() (netip.Addr, uint16) {
	for aa, ports := range s.ports { // in random order
		return aa, ports[rand.IntN(len(ports))]
	}
	return netip.Addr{}, 0
}

// fate is what a client decides about its flow, and tells the member first.
type fate struct {
	ID            uint64
	Out, In       uint32 // bytes to come each way
	ClientAborts  uint32 // after so many bytes that it has sent, if not 0
	MemberAborts  uint32 // likewise
	Slow          uint32 // the readers pause, so that all buffers fill
	AbortsReading uint32 // it is the reader that ends it, while others write
}

var ids atomic.Uint64

func randomFate() fate {
	size := func() uint32 { return 1 + rand.Uint32N([]uint32{100, 10_000, 100_000, 400_000}[rand.IntN(4)]) }
	f := fate{ID: ids.Add(1), Out: size(), In: size(), Slow: rand.Uint32N(4) / 3, AbortsReading: rand.Uint32N(2)}
	switch rand.IntN(4) {
	case 0:
		f.ClientAborts = 1 + rand.Uint32N(f.Out)
	case 1:
		f.MemberAborts = 1 + rand.Uint32N(f.In)
	}
	return f
}

// fill writes what belongs at an offset of a direction of a flow: eight bytes
// that are nowhere else.
func fill(b []byte, id uint64, way byte, offset int) {
	var part [8]byte
	for at := offset; len(b) > 0; {
		x := id<<33 ^ uint64(way)<<32 ^ uint64(at/8)
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9 // splitmix64
		x = (x ^ x>>27) * 0x94d049bb133111eb
		x ^= x >> 31
		n := 8
		if at%8 == 0 && len(b) >= 8 {
			binary.LittleEndian.PutUint64(b, x)
		} else {
			binary.LittleEndian.PutUint64(part[:], x)
			n = copy(b, part[at%8:])
		}
		b, at = b[n:], at+n
	}
}

const (
	outwards byte = 'o'
	inwards  byte = 'i'
)

// verify reports what was received.
func (s *safety) verify(b []byte, id uint64, way byte, offset int) bool {
	want := make([]byte, len(b))
	if fill(want, id, way, offset); bytes.Equal(b, want) {
		return true
	}
	at := 0
	for b[at] == want[at] {
		at++
	}
	s.t.Errorf("flow %d %c: at byte %d came % x, want % x", id, way, offset+at, b[at:min(at+16, len(b))], want[at:min(at+16, len(b))])
	return false
}

// stream is either end of a flow.
type stream interface {
	io.ReadWriter
	CloseWrite() error
	Reset() error
}

// memberConn is a member's.
type memberConn struct{ *net.TCPConn }

// Reset ends it with RST.
func (c memberConn) Reset() error { return errors.Join(c.SetLinger(0), c.Close()) }

// carry sends and receives at one end. Whoever aborts does so after so many
// bytes, if not 0.
func (s *safety) carry(c stream, f fate, send, receive byte, total, want int, aborts uint32) (sent, got int, err error) {
	sendEnd, receiveEnd := total, want+1
	if aborts != 0 {
		if f.AbortsReading == 1 {
			receiveEnd = min(want, int(aborts))
		} else {
			sendEnd = min(total, int(aborts))
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 200_000)
		for sent < sendEnd {
			part := b[:min(sendEnd-sent, 1+rand.IntN([]int{40, 3000, len(b)}[rand.IntN(3)]))]
			fill(part, f.ID, send, sent)
			n, err := c.Write(part)
			if sent += n; err != nil {
				return
			}
		}
		switch {
		case aborts != 0 && f.AbortsReading == 0:
			_ = c.Reset()
		case aborts == 0:
			_ = c.CloseWrite() // the reader finds out if it is too late
		}
	})
	b := make([]byte, 70_000)
	for got < receiveEnd {
		if f.Slow == 1 && rand.IntN(8) == 0 {
			time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		}
		var n int
		n, err = c.Read(b[:min(len(b), receiveEnd-got)])
		if !s.verify(b[:n], f.ID, receive, got) {
			break
		}
		s.bytes.Add(int64(n))
		if got += n; err != nil {
			break
		}
	}
	if aborts != 0 && f.AbortsReading == 1 || s.t.Failed() {
		_ = c.Reset()
	}
	wg.Wait()
	if err == io.EOF {
		err = nil
	}
	return sent, got, err
}

// tcpFlow is one flow as its client sees it.
func (s *safety) tcpFlow(f fate) {
	aa, port := s.member()
	c, failed := s.wire.dial(s.t, tcp.ProtocolNumber, aa, port)
	if failed != nil {
		s.t.Errorf("dial %v port %d: %v", aa, port, failed)
		return
	}
	s.flows.Add(1)
	defer func() { _ = c.Close() }()
	head, _ := binary.Append(nil, binary.BigEndian, f) // it has a fixed size
	if _, err := c.Write(head); err != nil {
		s.t.Errorf("flow %d: write: %v", f.ID, err)
		return
	}
	sent, got, err := s.carry(c, f, outwards, inwards, int(f.Out), int(f.In), f.ClientAborts)
	if f.ClientAborts != 0 || f.MemberAborts != 0 {
		s.aborted.Add(1)
		return
	}
	s.whole.Add(1)
	if err != nil || sent != int(f.Out) || got != int(f.In) {
		s.t.Errorf("flow %d: the client sent %d of %d and got %d of %d, %v", f.ID, sent, f.Out, got, f.In, err)
	}
}

// accept serves a member's port.
func (s *safety) accept(listener *net.TCPListener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := listener.AcceptTCP()
		if err != nil {
			return
		}
		s.serving.Add(1)
		wg.Go(func() {
			defer s.serving.Add(-1)
			s.serve(memberConn{c})
		})
	}
}

// serve is one flow as its member sees it.
func (s *safety) serve(c memberConn) {
	defer func() { _ = c.Close() }()
	var f fate
	head := make([]byte, binary.Size(f))
	if _, err := io.ReadFull(c, head); err != nil {
		return // its client has aborted already, or says so itself
	}
	if _, err := binary.Decode(head, binary.BigEndian, &f); err != nil {
		s.t.Errorf("a fate: %v", err)
		return
	}
	sent, got, err := s.carry(c, f, inwards, outwards, int(f.In), int(f.Out), f.MemberAborts)
	if f.ClientAborts == 0 && f.MemberAborts == 0 && (err != nil || sent != int(f.In) || got != int(f.Out)) {
		s.t.Errorf("flow %d: the member sent %d of %d and got %d of %d, %v", f.ID, sent, f.In, got, f.Out, err)
	}
}

// cutUnderLoad ends flows in the middle of all, by the translator.
func (s *safety) cutUnderLoad() {
	const endless = 1 << 30
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			s.tcpFlow(fate{ID: ids.Add(1), Out: endless, In: endless, ClientAborts: endless, MemberAborts: endless})
		})
	}
	moved := s.bytes.Load()
	eventually(s.t, "they are under way", func() bool { return s.bytes.Load() > moved+4<<20 })
	s.cut()
	wg.Wait()
}

// udpFlow sends datagrams, most of them alike so that they are joined, and gets
// them back.
func (s *safety) udpFlow() {
	aa, port := s.member()
	id := ids.Add(1)
	// A port that is not used again soon: what is on its way to the flow before
	// would rightly come to this one.
	c, failed := s.wire.dialFrom(s.t, 1024+uint16(id%64000), udp.ProtocolNumber, aa, port)
	if failed != nil {
		s.t.Errorf("dial %v port %d: %v", aa, port, failed)
		return
	}
	var wg sync.WaitGroup
	var came atomic.Int64
	wg.Go(func() {
		b := make([]byte, maxPacket)
		for {
			n, err := c.Read(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil && s.verifyDatagram(b[:n], &id) == nil {
				came.Add(1)
			}
		}
	})
	seq := 0
	for range 1 + rand.IntN(5) {
		size := 16 + rand.IntN([]int{100, 1400, 1400, 9000}[rand.IntN(4)])
		for range 1 + rand.IntN(20) {
			b := make([]byte, size)
			binary.BigEndian.PutUint64(b, id)
			binary.BigEndian.PutUint64(b[8:], uint64(seq))
			fill(b[16:], id, outwards, seq*maxPacket)
			seq++
			if _, err := c.Write(b); err != nil && !errors.Is(err, syscall.ENOBUFS) {
				s.t.Errorf("datagram %d of flow %d: %v", seq, id, err)
			}
		}
		time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
	}
	// Some leave before all is back: that meets a closed port, or another flow's,
	// which must not take it.
	for wait := rand.IntN(40); wait > 0 && came.Load() < int64(seq); wait-- {
		time.Sleep(5 * time.Millisecond)
	}
	_ = c.Close()
	wg.Wait()
	s.datagrams.Add(came.Load())
}

// verifyDatagram holds a datagram to what it says of itself, and to the flow
// that it must be of.
func (s *safety) verifyDatagram(b []byte, id *uint64) error {
	var err error
	switch {
	case len(b) < 16:
		err = fmt.Errorf("a datagram of %d bytes", len(b))
	case id != nil && binary.BigEndian.Uint64(b) != *id:
		err = fmt.Errorf("flow %d has got a datagram of flow %d", *id, binary.BigEndian.Uint64(b))
	case !s.verify(b[16:], binary.BigEndian.Uint64(b), outwards, int(binary.BigEndian.Uint64(b[8:]))*maxPacket):
		return errors.New("reported already")
	}
	if err != nil {
		s.t.Error(err)
	}
	return err
}

// answer sends a member's datagrams back.
func (s *safety) answer(socket *net.UDPConn) {
	b := make([]byte, maxPacket)
	for {
		n, from, err := socket.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || s.verifyDatagram(b[:n], nil) != nil {
			continue
		}
		_, _ = socket.WriteToUDPAddrPort(b[:n], from) // it may be gone
	}
}

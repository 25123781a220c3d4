package ping

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// said is what the path says about a request; From is not there if our own
// kernel says it.
func said(from string, kind, code uint8, info uint32, errno syscall.Errno) PathError {
	e := PathError{Kind: kind, Code: code, Info: info, Errno: errno}
	if from != "" {
		e.From = netip.MustParseAddr(from)
	}
	return e
}

// wantError checks an error of Echo by what its users go by: the method ICMP
// and the errno.
func wantError(t *testing.T, what string, err error, want PathError) {
	t.Helper()
	var icmp interface {
		ICMP() (from netip.Addr, kind, code uint8, info uint32)
	}
	if !errors.As(err, &icmp) {
		t.Errorf("%s: %v is no ICMP error, want %+v", what, err, want)
		return
	}
	var got PathError
	got.From, got.Kind, got.Code, got.Info = icmp.ICMP()
	got.Errno = want.Errno
	if got != want || !errors.Is(err, want.Errno) {
		t.Errorf("%s: %+v (%v), want %+v", what, got, err, want)
	}
}

// eachOnPath runs test on both kinds of socket, each at the start of a path of
// its own.
func eachOnPath(t *testing.T, test func(*testing.T, path, *Socket)) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			p := newPath(t)
			test(t, p, p.client.socket(v, 0))
		})
	}
}

func randomData(size int) []byte {
	data := make([]byte, size)
	source := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8)})
	_, _ = source.Read(data) // it never fails
	return data
}

func TestEchoComesBackAsSent(t *testing.T) {
	eachOnPath(t, func(t *testing.T, _ path, s *Socket) {
		for _, tc := range []struct {
			ua      netip.Addr
			largest int
		}{{memberV6, 65527}, {memberV4, 65507}} {
			for _, size := range []int{0, 1, nonceSize, 56, 1452, 1473, 9000, 60000, tc.largest} {
				data := randomData(size)
				got, err := s.Echo(within(t), tc.ua, 0, false, data)
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("%v, %d bytes: %d bytes came back, %v", tc.ua, size, len(got), err)
				}
			}
			_, err := s.Echo(within(t), tc.ua, 0, false, randomData(tc.largest+1))
			var icmp *PathError
			if !errors.Is(err, unix.EMSGSIZE) || errors.As(err, &icmp) {
				t.Errorf("%v, more than fits in a packet: %v", tc.ua, err)
			}
		}
	})
}

func TestEchoHasTheHopLimit(t *testing.T) {
	eachOnPath(t, func(t *testing.T, p path, s *Socket) {
		w := p.member.listen()
		for _, hops := range []uint8{0, 2, 200, 255, 0} {
			want := hops - 1 // the router takes one
			if hops == 0 {
				want = 63
			}
			if _, err := s.Echo(within(t), memberV6, hops, false, nil); err != nil {
				t.Error(err)
			}
			if packet, _ := w.next(t, echoRequestV6); packet[7] != want {
				t.Errorf("IPv6, %d hops: the member sees %d, want %d", hops, packet[7], want)
			}
			if _, err := s.Echo(within(t), memberV4, hops, false, nil); err != nil {
				t.Error(err)
			}
			if packet, _ := w.next(t, echoRequestV4); packet[8] != want {
				t.Errorf("IPv4, %d hops: the member sees %d, want %d", hops, packet[8], want)
			}
		}
		for _, size := range []int{0, 56, 1400, 60000} {
			_, err := s.Echo(within(t), memberV6, 1, false, randomData(size))
			wantError(t, fmt.Sprintf("IPv6, 1 hop, %d bytes", size), err, said("2001:db8:1::1", 3, 0, 0, unix.EHOSTUNREACH))
			_, err = s.Echo(within(t), memberV4, 1, false, randomData(size))
			wantError(t, fmt.Sprintf("IPv4, 1 hop, %d bytes", size), err, said("192.0.2.1", 11, 0, 0, unix.EHOSTUNREACH))
		}
		wantStats(t, s, func(st Stats) bool { return st.ICMPErrors == 8 && st.Replies == 10 && st.Errors == 0 })
	})
}

func TestEchoLearnsWhatRoutersSay(t *testing.T) {
	eachOnPath(t, func(t *testing.T, p path, s *Socket) {
		for _, tc := range []struct {
			route  string
			v6, v4 PathError
		}{
			{"unreachable", said("2001:db8:1::1", 1, 0, 0, unix.ENETUNREACH), said("192.0.2.1", 3, 1, 0, unix.EHOSTUNREACH)},
			{"prohibit", said("2001:db8:1::1", 1, 1, 0, unix.EACCES), said("192.0.2.1", 3, 13, 0, unix.EHOSTUNREACH)},
			{"throw", said("2001:db8:1::1", 1, 0, 0, unix.ENETUNREACH), said("192.0.2.1", 3, 0, 0, unix.ENETUNREACH)},
		} {
			p.router.ip("-6 route replace "+tc.route+" 2001:db8:3::/64", "-4 route replace "+tc.route+" 198.51.100.0/24")
			_, err := s.Echo(within(t), netip.MustParseAddr("2001:db8:3::1"), 0, true, nil)
			wantError(t, "IPv6 "+tc.route, err, tc.v6)
			_, err = s.Echo(within(t), netip.MustParseAddr("198.51.100.1"), 0, true, nil)
			wantError(t, "IPv4 "+tc.route, err, tc.v4)
		}
		p.router.ip("-6 route replace blackhole 2001:db8:3::/64", "-4 route replace blackhole 198.51.100.0/24")
		for _, ua := range []string{"2001:db8:3::1", "198.51.100.1"} {
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			if _, err := s.Echo(ctx, netip.MustParseAddr(ua), 0, true, nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s behind a blackhole: %v", ua, err)
			}
			cancel()
		}
	})
}

func TestEchoToANeighbourThatIsGone(t *testing.T) {
	eachOnPath(t, func(t *testing.T, p path, s *Socket) {
		for _, family := range []string{"ipv4", "ipv6"} {
			p.client.sysctl(family+".neigh.eth0.mcast_solicit", "1")
			p.client.sysctl(family+".neigh.eth0.retrans_time_ms", "20")
		}
		// The kernel itself is the router that says so.
		_, err := s.Echo(within(t), netip.MustParseAddr("2001:db8:1::99"), 0, true, nil)
		wantError(t, "IPv6", err, said(clientV6.String(), 1, 3, 0, unix.EHOSTUNREACH))
		_, err = s.Echo(within(t), netip.MustParseAddr("192.0.2.99"), 0, true, nil)
		wantError(t, "IPv4", err, said(clientV4.String(), 3, 1, 0, unix.EHOSTUNREACH))
	})
}

func TestEchoThatOurKernelWillNotSend(t *testing.T) {
	eachOnPath(t, func(t *testing.T, p path, s *Socket) {
		for _, tc := range []struct {
			route  string
			v6, v4 PathError
		}{
			{"unreachable", said("", 1, 3, 0, unix.EHOSTUNREACH), said("", 3, 1, 0, unix.EHOSTUNREACH)},
			{"prohibit", said("", 1, 1, 0, unix.EACCES), said("", 3, 13, 0, unix.EACCES)},
			{"throw", said("", 1, 0, 0, unix.ENETUNREACH), said("", 3, 0, 0, unix.ENETUNREACH)},
		} {
			p.client.ip("-6 route replace "+tc.route+" 2001:db8:3::/64", "-4 route replace "+tc.route+" 198.51.100.0/24")
			_, err := s.Echo(within(t), netip.MustParseAddr("2001:db8:3::1"), 0, true, nil)
			wantError(t, "IPv6 "+tc.route, err, tc.v6)
			_, err = s.Echo(within(t), netip.MustParseAddr("198.51.100.1"), 0, true, nil)
			wantError(t, "IPv4 "+tc.route, err, tc.v4)
		}
		p.client.ip("-6 route replace blackhole 2001:db8:3::/64", "-4 route replace blackhole 198.51.100.0/24")
		for _, ua := range []string{"2001:db8:3::1", "198.51.100.1"} {
			var icmp *PathError
			if _, err := s.Echo(within(t), netip.MustParseAddr(ua), 0, true, nil); !errors.Is(err, unix.EINVAL) || errors.As(err, &icmp) {
				t.Errorf("%s behind our own blackhole: %v", ua, err)
			}
		}
		if st := s.Stats(); st.Errors != 8 || st.Relayed != 0 {
			t.Errorf("stats: %+v", st)
		}
	})
}

func TestEchoAndTheSizeOfThePath(t *testing.T) {
	eachOnPath(t, func(t *testing.T, p path, s *Socket) {
		tooBig := map[netip.Addr]func(from string, mtu uint32) PathError{
			memberV6: func(from string, mtu uint32) PathError { return said(from, 2, 0, mtu, unix.EMSGSIZE) },
			memberV4: func(from string, mtu uint32) PathError { return said(from, 3, 4, mtu, unix.EMSGSIZE) },
		}
		echo := func(ua netip.Addr, whole bool, size int) error {
			data := randomData(size)
			got, err := s.Echo(within(t), ua, 0, whole, data)
			if err == nil && !bytes.Equal(got, data) {
				t.Errorf("%v, %d bytes: other data came back", ua, size)
			}
			return err
		}
		// Our own link's size is known before anything is sent.
		for ua, want := range tooBig {
			wantError(t, "our own link", echo(ua, true, 2000), want("", 1500))
			if err := echo(ua, true, 1400); err != nil {
				t.Errorf("%v: whole, and it fits: %v", ua, err)
			}
		}
		p.router.ip("link set m0 mtu 1400")
		p.member.ip("link set eth0 mtu 1400")
		// An IPv4 router cuts what may be cut; an IPv6 router cuts nothing.
		if err := echo(memberV4, false, 1450); err != nil {
			t.Errorf("IPv4, cut by the router: %v", err)
		}
		wantError(t, "IPv6, the first fragment", echo(memberV6, false, 3000), tooBig[memberV6]("2001:db8:1::1", 1400))
		p.client.ip("-6 route flush cache")
		for ua, from := range map[netip.Addr]string{memberV6: "2001:db8:1::1", memberV4: "192.0.2.1"} {
			want := tooBig[ua]
			wantError(t, "the far link", echo(ua, true, 1450), want(from, 1400))
			// Now it is known here, too.
			wantError(t, "the far link, again", echo(ua, true, 1450), want("", 1400))
			if err := echo(ua, true, 1340); err != nil {
				t.Errorf("%v: whole, and it fits: %v", ua, err)
			}
			for _, size := range []int{1450, 60000} {
				if err := echo(ua, false, size); err != nil {
					t.Errorf("%v: %d bytes in fragments: %v", ua, size, err)
				}
			}
		}
		// Our kernel puts its own refusals into the queue, too.
		wantStats(t, s, func(st Stats) bool { return st.Malformed == 0 && st.Unmatched == 0 && st.ICMPErrors == 3 })
	})
}

func TestWholeIsDontFragment(t *testing.T) {
	eachOnPath(t, func(t *testing.T, p path, s *Socket) {
		w := p.member.listen()
		for _, whole := range []bool{false, true, true, false} {
			if _, err := s.Echo(within(t), memberV4, 0, whole, nil); err != nil {
				t.Error(err)
			}
			if packet, _ := w.next(t, echoRequestV4); packet[6]&0x40 != 0 != whole { // RFC 791 section 3.1
				t.Errorf("whole %v: the flags are %x", whole, packet[6])
			}
		}
	})
}

// The kernel fails whatever call comes next with the ICMP error of an earlier
// request. No request may take that for its own.
func TestErrorsOfOthersDoNotFailARequest(t *testing.T) {
	eachOnPath(t, func(t *testing.T, _ path, s *Socket) {
		ctx := within(t)
		done := make(chan struct{})
		var wg sync.WaitGroup
		defer wg.Wait()
		stop := sync.OnceFunc(func() { close(done) })
		defer stop()
		for _, ua := range []netip.Addr{memberV6, memberV4} {
			for range 8 {
				wg.Go(func() {
					for {
						select {
						case <-done:
							return
						default:
						}
						var icmp *PathError
						if _, err := s.Echo(ctx, ua, 1, true, nil); !errors.As(err, &icmp) || !icmp.From.IsValid() {
							t.Errorf("%v: %v", ua, err)
							return
						}
					}
				})
			}
		}
		for i := range 500 {
			for _, ua := range []netip.Addr{memberV6, memberV4} {
				data := fmt.Sprint(i)
				if got, err := s.Echo(ctx, ua, 0, true, []byte(data)); err != nil || string(got) != data {
					t.Fatalf("%v: %q, %v", ua, got, err)
				}
			}
		}
		stop()
		wg.Wait()
		if st := s.Stats(); st.Errors != 0 || st.Malformed != 0 || st.Unmatched != 0 || st.ICMPErrors < 500 {
			t.Errorf("stats: %+v", st)
		}
	})
}

// A socket that waits for room to send, because a neighbour is not there, must
// go on hearing what comes for others.
func TestErrorsComeWhileTheSocketIsFull(t *testing.T) {
	eachOnPath(t, func(t *testing.T, _ path, s *Socket) {
		for gone, ua := range map[netip.Addr]netip.Addr{
			netip.MustParseAddr("2001:db8:1::99"): memberV6,
			netip.MustParseAddr("192.0.2.99"):     memberV4,
		} {
			f, err := s.familyOf(ua)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			for sent := 0; f.hasRoom(t) && sent < 20; sent++ {
				before := s.Stats().Relayed
				wg.Go(func() {
					if _, err := s.Echo(ctx, gone, 0, false, randomData(30000)); err == nil {
						t.Errorf("%v answered", gone)
					}
				})
				eventually(t, "it is sent", func() bool { return s.Stats().Relayed > before })
			}
			if f.hasRoom(t) {
				t.Errorf("%v: the socket is not full", ua)
			}
			for range 10 {
				_, err = s.Echo(within(t), ua, 1, false, nil)
				var icmp *PathError
				if !errors.As(err, &icmp) {
					t.Errorf("%v, 1 hop: %v", ua, err)
				}
				if _, err := s.Echo(within(t), ua, 0, false, nil); err != nil {
					t.Errorf("%v: %v", ua, err)
				}
			}
			cancel()
			wg.Wait()
		}
	})
}

// hasRoom tells whether the socket can be written to (poll(2)).
func (f *family) hasRoom(t *testing.T) (room bool) {
	t.Helper()
	err := f.conn.Control(func(fd uintptr) {
		set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		_, err := unix.Poll(set, 0)
		room = err != nil || set[0].Revents&unix.POLLOUT != 0
	})
	if err != nil {
		t.Fatal(err)
	}
	return room
}

// An ICMP error does not end a probe: the path may be mended, or lead to
// another member.
func TestProbeOutlastsICMPErrors(t *testing.T) {
	eachOnPath(t, func(t *testing.T, p path, s *Socket) {
		p.router.ip("-6 route add unreachable 2001:db8:2::2", "-4 route add unreachable 192.0.2.130")
		for _, ua := range []netip.Addr{memberV6, memberV4} {
			ctx, cancel := context.WithCancel(within(t))
			before := s.Stats().ICMPErrors
			ended := make(chan error)
			go func() {
				_, err := s.Probe(ctx, ua)
				ended <- err
			}()
			eventually(t, "an ICMP error has come", func() bool { return s.Stats().ICMPErrors > before })
			cancel()
			err := <-ended
			router := routerV6
			if ua.Is4() {
				router = routerV4
			}
			if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), router.String()+": ") {
				t.Errorf("%v: %v does not name the router %v", ua, err, router)
			}
			if errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH) {
				t.Errorf("%v: %v takes evidence for the verdict", ua, err)
			}
		}
		before := s.Stats()
		errs := make(chan error)
		ctx := within(t)
		for _, ua := range []netip.Addr{memberV6, memberV4} {
			go func() {
				r, err := s.Probe(ctx, ua)
				if err == nil && r.From != ua {
					err = fmt.Errorf("%v answered for %v", r.From, ua)
				}
				errs <- err
			}()
		}
		eventually(t, "both probes have met an error", func() bool { return s.Stats().ICMPErrors-before.ICMPErrors >= 2 })
		p.router.ip("-6 route del unreachable 2001:db8:2::2", "-4 route del unreachable 192.0.2.130")
		for range 2 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if sent := s.Stats().Probes - before.Probes; sent < 4 {
			t.Errorf("%d transmissions, though the first two met an error", sent)
		}
	})
}

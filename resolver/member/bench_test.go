package member

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v3"
)

// BenchmarkAnswer is what an answer costs without the sockets.
func BenchmarkAnswer(b *testing.B) {
	for _, l := range levels {
		b.Run(l.name, func(b *testing.B) {
			request, in, out := newMessage(), newMessage(), newMessage()
			if err := l.question(stun.BindingError, aa6, aa6).build(request); err != nil {
				b.Fatal(err)
			}
			a, from := l.answerer(), netip.AddrPortFrom(asker6, 40000)
			b.ReportAllocs()
			for b.Loop() {
				if v := a.answer(in, out, request.Raw, from, aa6, goldenTime); v != answered {
					b.Fatal(v)
				}
			}
		})
	}
}

// BenchmarkCheck is what believing an answer costs.
func BenchmarkCheck(b *testing.B) {
	for _, l := range levels {
		b.Run(l.name, func(b *testing.B) {
			q := l.question(stun.BindingError, aa6, aa6)
			answer, m := answerOf(b, l.answerer(), q, goldenTime), newMessage()
			b.ReportAllocs()
			for b.Loop() {
				if _, refusal := q.check(m, answer, q.to, goldenTime); refusal != "" {
					b.Fatal(refusal)
				}
			}
		})
	}
}

// BenchmarkResponder asks a member over a wire, with a window of questions
// under way. Its metric is answers a second of the member's own processor time,
// in user space and in the kernel: answers/s/core.
func BenchmarkResponder(b *testing.B) {
	for _, l := range levels {
		b.Run(l.name, func(b *testing.B) {
			client, server := newPair(b)
			s := l.setup()
			s.Rate = 10_000_000
			member := server.serve(s)
			var conn net.Conn
			var err error
			client.on(func() { conn, err = net.Dial("udp", netip.AddrPortFrom(aa6, DefaultPort).String()) })
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			request := newMessage()
			if err := l.question(stun.BindingError, aa6, aa6).build(request); err != nil {
				b.Fatal(err)
			}
			ask := func() {
				if _, err := conn.Write(request.Raw); err != nil {
					b.Fatal(err)
				}
			}
			buf := make([]byte, 1500)
			hear := func() bool {
				if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
					b.Fatal(err)
				}
				_, err := conn.Read(buf)
				return err == nil
			}
			ask()
			hear()
			before := cpuTime(b, member.pid)
			for range 32 {
				ask()
			}
			n, lost := 0, 0
			for b.Loop() {
				if !hear() {
					lost++
				}
				n++
				ask()
			}
			spent := cpuTime(b, member.pid) - before
			b.ReportMetric(float64(n-lost)/spent.Seconds(), "answers/s/core")
			b.ReportMetric(float64(lost), "lost")
		})
	}
}

// cpuTime is what a process has used of the processor (proc(5), stat).
func cpuTime(tb testing.TB, pid int) time.Duration {
	tb.Helper()
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		tb.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	var ticks int64
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			tb.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100
}

// BenchmarkProbe is a whole probe over a wire of no length; "udp" is one round
// trip of a datagram of that size, to a member that only sends it back.
func BenchmarkProbe(b *testing.B) {
	b.Run("udp", func(b *testing.B) {
		client, server := newPair(b)
		var there, here net.PacketConn
		var err error
		server.on(func() { there, err = net.ListenPacket("udp", "[2001:db8:aa::1]:7") })
		if err != nil {
			b.Fatal(err)
		}
		client.on(func() { here, err = net.ListenPacket("udp", "[::]:0") })
		if err != nil {
			b.Fatal(err)
		}
		done := make(chan struct{})
		defer func() { _, _ = there.Close(), here.Close(); <-done }()
		go func() {
			defer close(done)
			for buf := make([]byte, 1500); ; {
				n, from, err := there.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = there.WriteTo(buf[:n], from) // the benchmark would hang
			}
		}()
		buf, to := make([]byte, requestSize), net.UDPAddrFromAddrPort(netip.AddrPortFrom(aa6, 7))
		for b.Loop() {
			if _, err := here.WriteTo(buf, to); err != nil {
				b.Fatal(err)
			}
			if _, _, err := here.ReadFrom(buf); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, l := range levels {
		b.Run(l.name, func(b *testing.B) {
			client, server := newPair(b)
			s := l.setup()
			s.Rate = 10_000_000
			server.serve(s)
			p := client.prober(ProberConfig{Rings: l.rings()})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Probe(context.Background(), aa6); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

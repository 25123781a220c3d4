package ping

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkProbe is a whole probe over loopback. What the network takes of it
// is not ours: BenchmarkRoundTrip, the same by nothing but system calls, tells
// it.
func BenchmarkProbe(b *testing.B) {
	h := newHost(b)
	for _, v := range variants {
		s := h.socket(v, 0)
		for _, a := range loopbacks {
			b.Run(fmt.Sprintf("%s/%v", v.name, a), func(b *testing.B) {
				ctx := context.Background()
				took := make([]time.Duration, 0, 1<<20)
				b.ReportAllocs()
				for b.Loop() {
					start := time.Now()
					if _, err := s.Probe(ctx, a); err != nil {
						b.Fatal(err)
					}
					took = append(took, time.Since(start))
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
			})
		}
	}
}

// BenchmarkEcho is a relayed echo over loopback.
func BenchmarkEcho(b *testing.B) {
	h := newHost(b)
	for _, v := range variants {
		s := h.socket(v, 0)
		for _, a := range loopbacks {
			for _, size := range []int{56, 1400, 60000} {
				b.Run(fmt.Sprintf("%s/%v/%d", v.name, a, size), func(b *testing.B) {
					ctx, data := context.Background(), randomData(size)
					b.ReportAllocs()
					b.SetBytes(int64(size))
					for b.Loop() {
						if _, err := s.Echo(ctx, a, 64, true, data); err != nil && !errors.Is(err, unix.EMSGSIZE) {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

// BenchmarkManyProbes is what gets through when many ask at once.
func BenchmarkManyProbes(b *testing.B) {
	s := newHost(b).socket(variants[0], 0)
	b.SetParallelism(64)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Probe(context.Background(), netip.IPv6Loopback()); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkRoundTrip sends and receives one echo on a blocking raw socket.
func BenchmarkRoundTrip(b *testing.B) {
	newHost(b)
	f, err := openSocket(true, true, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.close() }()
	fd := int(f.file.Fd()) // which makes it blocking
	for _, size := range []int{nonceSize, 60000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			message := f.request(f.id, 1, randomData(size))
			buf, to := make([]byte, maxMessage), &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}
			b.ReportAllocs()
			for b.Loop() {
				if err := unix.Sendto(fd, message, 0, to); err != nil {
					b.Fatal(err)
				}
				if _, _, err := unix.Recvfrom(fd, buf, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

package member

import (
	"net"
	"net/netip"
	"sync"
	"testing"
)

// The host is told again and again that a port is unreachable, as by somebody
// who forges such errors. None of them keeps a question from being sent.
func TestErrorsAboutOthersDoNotFailASend(t *testing.T) {
	p, err := OpenProber(ProberConfig{Lanes: 1})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Run(t.Context()) }()
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	alive, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = alive.Close() }() // nothing is read from it
	l, nobody := p.v4[0], netip.MustParseAddrPort("127.0.0.1:1")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				// Each that goes out comes back as an error for the socket.
				_, _ = l.conn.WriteToUDPAddrPort([]byte("nobody"), nobody)
			}
		}
	})
	to := alive.LocalAddr().(*net.UDPAddr).AddrPort()
	for i := range 20_000 {
		if err := p.send(l, []byte("somebody"), to); err != nil {
			t.Fatalf("send %d: %v", i, err)
		}
	}
	if p.Stats().Unreachable == 0 {
		t.Error("there were no errors to be heard of")
	}
}

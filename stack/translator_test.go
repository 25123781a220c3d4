package stack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/net/nettest"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"aarptun/nat"
)

// loopback is a Resolver that knows one member: this host.
type loopback struct{}

func (loopback) Resolve(context.Context, netip.Addr, netip.Addr) (netip.Addr, error) {
	return netip.MustParseAddr("127.0.0.1"), nil
}

func (loopback) Suspect(netip.Addr, netip.Addr) {}

// Echo implements [nat.Pinger].
func (loopback) Echo(context.Context, netip.Addr, uint8, bool, []byte) ([]byte, error) {
	return nil, syscall.ENETUNREACH
}

// translate runs a Stack whose handler is a real Translator that dials real
// sockets on loopback.
func translate(t testing.TB, c Config) *wire {
	t.Helper()
	kernel, err := nat.NewKernel(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kernel.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	translator, err := nat.New(nat.Config{Resolver: loopback{}, Outside: kernel, Pinger: loopback{}})
	if err != nil {
		t.Fatal(err)
	}
	run(t, kernel.Run)
	run(t, translator.Run)
	_, w := startWith(t, translator, c)
	return w
}

// run runs what runs until the test ends.
func run(t testing.TB, f func(context.Context) error) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// TestConnThroughTheTranslator holds a flow, client netstack to member socket,
// to all that a net.Conn promises.
func TestConnThroughTheTranslator(t *testing.T) {
	w := translate(t, Config{})
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, nil, nil, err
		}
		accepted := make(chan net.Conn, 1)
		go func() {
			c, err := listener.Accept()
			if err == nil {
				accepted <- c
			}
			close(accepted)
		}()
		port := listener.Addr().(*net.TCPAddr).Port
		c1, err = gonet.DialContextTCP(context.Background(), w.client,
			tcpip.FullAddress{NIC: 1, Addr: address(any4), Port: uint16(port)}, header.IPv4ProtocolNumber)
		if err != nil {
			_ = listener.Close()
			return nil, nil, nil, err
		}
		c2, ok := <-accepted
		if !ok {
			return nil, nil, nil, fmt.Errorf("the member accepted nothing")
		}
		return c1, c2, func() {
			_, _, _ = c1.Close(), c2.Close(), listener.Close()
		}, nil
	})
}

package stack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"aarptun/nat"
)

// loopback is a Resolver that knows one member of each family: this host.
type loopback struct{}

func (loopback) Resolve(_ context.Context, _, aa netip.Addr) (netip.Addr, error) {
	if aa.Is6() {
		return netip.IPv6Loopback(), nil
	}
	return netip.MustParseAddr("127.0.0.1"), nil
}

func (loopback) Suspect(netip.Addr, netip.Addr) {}

// Echo implements [nat.Pinger].
func (loopback) Echo(context.Context, netip.Addr, uint8, bool, []byte) ([]byte, error) {
	return nil, syscall.ENETUNREACH
}

// translate runs a Stack whose handler is a real Translator that dials real
// sockets on loopback.
func translate(t testing.TB, c Config) (*wire, *nat.Translator) {
	t.Helper()
	return translateFor(t, c, 5*time.Second) // so that tests can leave many behind
}

// translateFor is translate with a time for which UDP flows may be idle.
func translateFor(t testing.TB, c Config, idle time.Duration) (*wire, *nat.Translator) {
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
	timeouts := nat.DefaultTimeouts()
	timeouts.UDPIdle = idle
	translator, err := nat.New(nat.Config{Resolver: loopback{}, Outside: kernel, Pinger: loopback{}, Timeouts: timeouts})
	if err != nil {
		t.Fatal(err)
	}
	run(t, kernel.Run)
	run(t, translator.Run)
	_, w := startWith(t, translator, c)
	return w, translator
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
	for _, wiring := range wirings {
		for _, f := range families {
			t.Run(wiring.name+" "+f.name, func(t *testing.T) {
				t.Parallel() // it waits more than it works
				ua, _ := loopback{}.Resolve(t.Context(), f.client, f.dest)
				listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(ua, 0)))
				if err != nil {
					t.Skipf("no loopback of this family: %v", err)
				}
				defer func() { _ = listener.Close() }() // nothing is buffered in it
				w, _ := translate(t, wiring.c)
				nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) { return connect(w, f.dest, listener) })
			})
		}
	}
}

// connect makes a flow and returns both its ends.
func connect(w *wire, aa netip.Addr, listener *net.TCPListener) (c1, c2 net.Conn, stop func(), err error) {
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
		tcpip.FullAddress{NIC: 1, Addr: address(aa), Port: uint16(port)}, protoOf(aa))
	if err != nil {
		return nil, nil, nil, err
	}
	c2, ok := <-accepted
	if !ok {
		return nil, nil, nil, fmt.Errorf("the member accepted nothing")
	}
	return c1, c2, func() { _, _ = c1.Close(), c2.Close() }, nil
}

// TestIdleUDPFlowsHaveNoGoroutine: a flow that waits is not more than what is
// known of it.
func TestIdleUDPFlowsHaveNoGoroutine(t *testing.T) {
	const flows = 200
	w, translator := translateFor(t, Config{}, time.Hour)
	defer func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		_ = translator.Drain(now) // which says that it has cut them
	}()
	member, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = member.Close() }() // nothing is buffered in it
	port := uint16(member.LocalAddr().(*net.UDPAddr).Port)
	before := runtime.NumGoroutine()
	b := make([]byte, 100)
	for i := range flows {
		client, failed := w.dialFrom(t, 2000+uint16(i), udp.ProtocolNumber, any4, port)
		if failed != nil {
			t.Fatal(failed)
		}
		if _, err := client.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		if n, err := member.Read(b); err != nil || n != 1 || b[0] != byte(i) {
			t.Fatalf("the member got % x, %v", b[:n], err)
		}
	}
	eventually(t, "they are established", func() bool { return translator.Stats().UDPOpened == flows })
	// Others come and go meanwhile: those of timers, for one.
	eventually(t, "no goroutine is left of them", func() bool { return runtime.NumGoroutine() < before+flows/4 })
	if got := len(translator.Flows()); got != flows {
		t.Errorf("%d flows, want %d", got, flows)
	}
}

package nat

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
)

// The member sees the address that is asked for, and not the kernel's choice.
func TestKernelDialsFromAnAddress(t *testing.T) {
	k := newTestKernel(t)
	if err := k.MayUseAnySource(true); errors.Is(err, os.ErrPermission) {
		t.Skip("it needs CAP_NET_ADMIN or CAP_NET_RAW:", err)
	} else if err != nil {
		t.Fatal(err)
	}
	if err := k.MayUseAnySource(false); err != nil && !errors.Is(err, os.ErrPermission) {
		t.Error("IPv6:", err)
	}
	from := netip.MustParseAddr("127.0.0.9") // all of 127.0.0.0/8 is this host
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // nothing is accepted any more
	leg, err := k.DialTCP(t.Context(), from, l.Addr().(*net.TCPAddr).AddrPort(), Meta{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = leg.Close() }() // only looked at
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Close() }() // only looked at
	if got := peer.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(); got != from {
		t.Errorf("TCP: the member sees %v, want %v", got, from)
	}

	packets, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = packets.Close() }() // nothing is buffered in it
	out, err := k.DialUDP(t.Context(), from, packets.LocalAddr().(*net.UDPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }() // nothing is buffered in it
	if err := out.TrySend(Datagram{Data: []byte("hello")}); err != nil {
		t.Fatal(err)
	}
	_, peerAddr, err := packets.ReadFromUDPAddrPort(make([]byte, 10))
	if err != nil || peerAddr.Addr().Unmap() != from {
		t.Errorf("UDP: the member sees %v, %v, want %v", peerAddr, err, from)
	}
}

// The translator asks for each client's source, once a dial.
func TestTranslatorGivesTheMemberTheSource(t *testing.T) {
	for _, preserve := range []bool{false, true} {
		var want netip.Addr
		members := &fakeNet{serve: map[netip.Addr]serveFunc{}}
		c := Config{Resolver: &fakeResolver{}, Outside: members, Pinger: fakePinger(nil)}
		if preserve {
			want = netip.MustParseAddr("2001:db8::7")
			c.Source = func(client netip.Addr) netip.Addr { return client }
		}
		tr, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		if got := tr.source(netip.MustParseAddr("2001:db8::7")); got != want {
			t.Errorf("preserve %v: %v, want %v", preserve, got, want)
		}
	}
}

package nat

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"testing"
)

// eventOf is what the kernel says of a socket.
func eventOf(c *polled) syscall.EpollEvent {
	return syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(uint32(c.id)), Pad: int32(uint32(c.id >> 32))}
}

// An event may be on its way when its socket is closed, and its place and even
// its descriptor have another by then.
func TestPollerKnowsWhoseAnEventIs(t *testing.T) {
	p := newTestKernel(t).poller
	socket := func() *polled {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		c := &polled{poller: p, fd: fd}
		if err := p.add(c, tcpEvents); err != nil {
			t.Fatal(err)
		}
		return c
	}
	want := func(c *polled, e syscall.EpollEvent, what string) {
		t.Helper()
		whose := []*polled{{}}
		if p.find([]syscall.EpollEvent{e}, whose); whose[0] != c {
			t.Errorf("%s reaches %p, want %p", what, whose[0], c)
		}
	}
	first, second := socket(), socket()
	firstEvent := eventOf(first)
	want(first, firstEvent, "an event of the first")
	want(second, eventOf(second), "an event of the second")
	_ = first.Close()
	want(nil, firstEvent, "an event of a closed socket")
	_ = first.Close() // the slot is given back once
	third, fourth := socket(), socket()
	if uint32(third.id) != uint32(firstEvent.Fd) {
		t.Errorf("the third has slot %d, want that of the first", uint32(third.id))
	}
	if uint32(fourth.id) == uint32(third.id) {
		t.Error("two sockets have one slot")
	}
	want(nil, firstEvent, "an event of the first, whose place the third has,")
	want(third, eventOf(third), "an event of the third")
	want(nil, syscall.EpollEvent{Fd: 1000}, "an event of a slot that there never was")
	_, _, _ = second.Close(), third.Close(), fourth.Close()
	if len(p.unused) != len(p.slots) {
		t.Errorf("%d of %d slots are free", len(p.unused), len(p.slots))
	}
}

// TestPollerReusesDescriptors closes sockets that are about to be told of
// something, and opens others in their place, each of which must be told of its
// own bytes.
func TestPollerReusesDescriptors(t *testing.T) {
	kernel := newTestKernel(t)
	type pair struct {
		leg  watched
		peer *net.TCPConn
		id   byte
	}
	pairs := make([]pair, 16)
	for i := range 400 {
		at := &pairs[rand.IntN(len(pairs))]
		if at.peer != nil {
			got := new(collector)
			for got.Len() < 2 {
				if err := at.leg.MoveTo(got); err != nil {
					t.Fatal(err)
				}
				if got.Len() < 2 {
					at.leg.await(t)
				}
			}
			if want := []byte{at.id, at.id}; !bytes.Equal(got.Bytes(), want) {
				t.Errorf("got % x, want % x", got, want)
			}
			_ = at.peer.SetLinger(0)
			_, _ = at.peer.Close(), at.leg.Reset() // of which the poller is told at this moment
		}
		at.leg, at.peer = dialPair(t, kernel, netip.MustParseAddr("127.0.0.1"))
		at.id = byte(i)
		if _, err := at.peer.Write([]byte{at.id, at.id}); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range pairs {
		if p.peer != nil {
			_ = p.leg.Close()
		}
	}
	if len(kernel.poller.unused) != len(kernel.poller.slots) {
		t.Errorf("%d of %d slots are free", len(kernel.poller.unused), len(kernel.poller.slots))
	}
}

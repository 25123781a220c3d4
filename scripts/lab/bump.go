package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// bump is a bump in the wire: it joins two interfaces and sees, holds and makes
// what passes. It has no address, and its host needs none.
type bump struct {
	inner, outer *port // towards the client, and towards the network
	held         []held
}

// fate is what becomes of a packet.
type fate int

const (
	let  fate = iota // it passes
	hold             // it passes a little later, or when releaseAll is called; only towards the network
	drop
)

// watch looks at a packet towards the client, or away from it.
type watch func(p packet, inward bool) (fate, error)

// held is a frame that waits to be let through.
type held struct {
	frame []byte
	until time.Time
}

// port is one end of the wire.
type port struct {
	fd   int
	peer [6]byte // Ethernet address of the host there, as last seen
}

// vnet is the size of struct virtio_net_hdr, which carries what a veth leaves to
// the hardware (checksums, segments) over to the other side.
const (
	vnet     = 10
	ethernet = 14
	etherIP4 = 0x0800
	etherIP6 = 0x86dd
)

// etherType is that of a frame, 0 if it is too short for one.
func etherType(frame []byte) uint16 {
	if len(frame) < vnet+ethernet {
		return 0
	}
	return binary.BigEndian.Uint16(frame[vnet+12:])
}

func openPort(name string) (*port, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	for _, option := range []int{unix.PACKET_VNET_HDR, unix.PACKET_IGNORE_OUTGOING} {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, option, 1); err != nil {
			return nil, os.NewSyscallError("setsockopt", err)
		}
	}
	all := uint16(unix.ETH_P_ALL)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all>>8 | all<<8, Ifindex: link.Index}); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	return &port{fd: fd}, nil
}

// run passes frames on until a signal comes. see is called with each packet of
// IPv6 or IPv4 that passes, before it does, and says what becomes of it.
func (b *bump) run(stop <-chan os.Signal, see watch) error {
	buf := make([]byte, vnet+ethernet+65536)
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		b.release(time.Now())
		ready := []unix.PollFd{{Fd: int32(b.inner.fd), Events: unix.POLLIN}, {Fd: int32(b.outer.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, 10); err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		for i, from := range []*port{b.inner, b.outer} {
			if ready[i].Revents == 0 {
				continue
			}
			n, err := unix.Read(from.fd, buf)
			if err != nil {
				return fmt.Errorf("read: %w", err)
			}
			if err := b.pass(from, buf[:n], see); err != nil {
				return err
			}
		}
	}
}

func (b *bump) pass(from *port, frame []byte, see watch) error {
	to, inward := b.outer, from == b.outer
	if inward {
		to = b.inner
	}
	if kind := etherType(frame); kind == etherIP6 || kind == etherIP4 {
		copy(from.peer[:], frame[vnet+6:])
		if frame[vnet]&1 == 0 { // no multicast
			copy(to.peer[:], frame[vnet:])
		}
		if p, ok := readPacket(frame[vnet+ethernet:]); ok {
			switch what, err := see(p, inward); {
			case err != nil:
				return err
			case what == hold:
				b.held = append(b.held, held{bytes.Clone(frame), time.Now().Add(patienceOfBump)})
				return nil
			case what == drop:
				return nil
			}
		}
	}
	return to.write(frame)
}

// patienceOfBump is how long a probe is held up for what is to come before it.
const patienceOfBump = time.Second

// release lets held probes go on to the network whose time has come.
func (b *bump) release(now time.Time) {
	for len(b.held) > 0 && !now.Before(b.held[0].until) {
		_ = b.outer.write(b.held[0].frame) // a lost probe is repeated
		b.held = b.held[1:]
	}
}

// releaseAll lets them all go now.
func (b *bump) releaseAll() { b.release(time.Now().Add(time.Hour)) }

// write sends a frame. What is too large for the link, or comes while it is
// down, is lost, as on any wire.
func (p *port) write(frame []byte) error {
	_, err := unix.Write(p.fd, frame)
	if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENETDOWN) {
		return nil
	}
	return err
}

// inject sends a packet to the client, as if it came from the network, or to
// the network as if it came from the client.
func (b *bump) inject(p packet, inward bool) error {
	to, like := b.inner, b.outer
	if !inward {
		to, like = b.outer, b.inner
	}
	frame := make([]byte, vnet, vnet+ethernet+ip6Header+len(p.payload))
	frame = append(frame, to.peer[:]...)
	frame = append(frame, like.peer[:]...)
	kind := uint16(etherIP6)
	if p.src.Is4() {
		kind = etherIP4
	}
	frame = binary.BigEndian.AppendUint16(frame, kind)
	return to.write(append(frame, p.bytes()...))
}

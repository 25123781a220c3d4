package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// forger is off the path: it sends from whatever address it likes, and sees
// nothing of what the client sends. Everything that can be known is right:
// addresses, and the ports of the client's sockets. The rest is guessed.
type forger struct {
	fd     int
	random *rand.ChaCha8
	client netip.Addr
	aas    []netip.Addr
	named  []netip.Addr // who is to be believed a member: sources, and in answers
	ports  []uint16     // of the client's sockets
	sent   map[string]int
}

// forge sends so many forged replies, half of them echo replies and half STUN
// answers, and an ICMP error more for every ten, and prints how many went out.
func forge(args []string) error {
	f := flag.NewFlagSet("forge", flag.ExitOnError)
	client := f.String("client", "", "whom to send to")
	aas := f.String("aa", "", "anycast addresses that it asks, with commas")
	named := f.String("named", "", "addresses that answers come from and name, with commas")
	ports := f.String("ports", "", "UDP ports of the client's probers, with commas")
	number := f.Int("n", 1_000_000, "replies to send")
	rate := f.Int("rate", 100_000, "packets a second")
	_ = f.Parse(args) // exits on error
	g := &forger{random: rand.NewChaCha8([32]byte{'s', 'e', 'e', 'd'}), sent: map[string]int{}}
	var err error
	if g.client, err = netip.ParseAddr(*client); err != nil {
		return err
	}
	if g.aas, err = addresses(*aas); err != nil {
		return err
	}
	if g.named, err = addresses(*named); err != nil {
		return err
	}
	for _, s := range strings.Split(*ports, ",") {
		port, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return err
		}
		g.ports = append(g.ports, uint16(port))
	}
	if g.fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
		return err
	}
	began := time.Now()
	if err := g.flood(*number, *rate); err != nil {
		return err
	}
	took := time.Since(began)
	fmt.Printf("echo=%d stun=%d error=%d in %.1f s\n", g.sent["echo"], g.sent["stun"], g.sent["error"], took.Seconds())
	return nil
}

func addresses(list string) (found []netip.Addr, err error) {
	for _, s := range strings.Split(list, ",") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, err
		}
		found = append(found, a)
	}
	return found, nil
}

// flood sends everything, no faster than rate.
func (g *forger) flood(n, rate int) error {
	began, packets := time.Now(), 0
	for i := range n {
		batch := []packet{g.echoReply()}
		kind := "echo"
		if i%2 == 1 {
			batch, kind = []packet{g.stunAnswer()}, "stun"
		}
		if i%10 == 9 {
			batch = append(batch, g.icmpError(i/10))
		}
		for j, p := range batch {
			if err := g.send(p); err != nil {
				return err
			}
			if j == 1 {
				kind = "error"
			}
			g.sent[kind]++
			packets++
		}
		if i%64 == 0 {
			time.Sleep(time.Until(began.Add(time.Duration(packets) * time.Second / time.Duration(rate))))
		}
	}
	return nil
}

func (g *forger) send(p packet) error {
	to := &unix.SockaddrInet6{Addr: p.dst.As16()}
	for {
		err := unix.Sendto(g.fd, p.bytes(), 0, to)
		if !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func pick[T any](g *forger, from []T) T { return from[g.random.Uint64()%uint64(len(from))] }

func (g *forger) bytes(n int) []byte {
	b := make([]byte, n)
	_, _ = g.random.Read(b) // never fails
	return b
}

// echoReply has a random identifier, sequence number and nonce.
func (g *forger) echoReply() packet {
	return icmpPacket(pick(g, g.named), g.client, echoAnswer, g.bytes(4), g.bytes(16))
}

// stunAnswer comes from where was asked, names somebody else, and has a random
// transaction id; every fourth is a confirmation.
func (g *forger) stunAnswer() packet {
	id, to := [12]byte(g.bytes(12)), netip.AddrPortFrom(g.client, pick(g, g.ports))
	if g.random.Uint64()%4 == 0 {
		return udpPacket(netip.AddrPortFrom(pick(g, g.named), stunPort), to, confirmation(id, to).end())
	}
	return udpPacket(netip.AddrPortFrom(pick(g, g.aas), stunPort), to, answerNaming(id, pick(g, g.named)).end())
}

// icmpError quotes a probe as it could have been: an echo request with a random
// nonce, or a STUN request with a random transaction id.
func (g *forger) icmpError(i int) packet {
	aa := pick(g, g.aas)
	asked := icmpPacket(g.client, aa, echoAsk, g.bytes(4), g.bytes(16))
	if i%2 == 0 {
		asked = udpPacket(netip.AddrPortFrom(g.client, pick(g, g.ports)), netip.AddrPortFrom(aa, stunPort),
			newSTUN(bindRequest, [12]byte(g.bytes(12))).add(attrAnycast, plainAddress(netip.AddrPortFrom(aa, 0))).end())
	}
	switch i % 3 {
	case 0:
		return icmpPacket(aa, g.client, portUnreachable, make([]byte, 4), asked.bytes())
	case 1:
		return icmpPacket(pick(g, g.named), g.client, noRoute, make([]byte, 4), asked.bytes())
	}
	return icmpPacket(pick(g, g.named), g.client, tooBig, []byte{0, 0, 5, 0}, asked.bytes()) // MTU 1280
}

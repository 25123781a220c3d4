package main

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
)

// dns is a name server that answers every question for an address with the same
// ones, over UDP and TCP (RFC 1035).
func dns(args []string) error {
	f := flag.NewFlagSet("dns", flag.ExitOnError)
	addr := f.String("addr", "127.0.0.53:53", "where to listen, UDP and TCP")
	a := f.String("a", "192.0.2.1", "the IPv4 address of every name")
	aaaa := f.String("aaaa", "2001:db8::1", "the IPv6 address of every name")
	_ = f.Parse(args) // exits on error
	four, err := netip.ParseAddr(*a)
	if err != nil {
		return err
	}
	six, err := netip.ParseAddr(*aaaa)
	if err != nil {
		return err
	}
	names := map[uint16][]byte{1: four.AsSlice(), 28: six.AsSlice()} // by type: A, AAAA (RFC 3596)
	packets, err := net.ListenPacket("udp", *addr)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	go answerTCP(listener, names) // for the life of the process
	fmt.Println("naming")
	for buf := make([]byte, 4096); ; {
		n, from, err := packets.ReadFrom(buf)
		if err != nil {
			return err
		}
		if answer := answerDNS(buf[:n], names); answer != nil {
			_, _ = packets.WriteTo(answer, from) // the asker asks again
		}
	}
}

func answerTCP(listener net.Listener, names map[uint16][]byte) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = conn.Close() }() // the asker has what it wanted
			var size [2]byte
			for {
				if _, err := io.ReadFull(conn, size[:]); err != nil {
					return
				}
				question := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(conn, question); err != nil {
					return
				}
				answer := answerDNS(question, names)
				_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)) // so it is with its end
			}
		}()
	}
}

// answerDNS answers one question; nil if it is none.
func answerDNS(question []byte, names map[uint16][]byte) []byte {
	end := 12
	for end < len(question) && question[end] != 0 {
		end += 1 + int(question[end])
	}
	end += 5 // the root, type and class
	if end > len(question) {
		return nil
	}
	address := names[binary.BigEndian.Uint16(question[end-4:])]
	answer := append([]byte(nil), question[:end]...)
	binary.BigEndian.PutUint16(answer[2:], 0x8180) // a response, recursion desired and available
	copy(answer[4:], []byte{0, 1, 0, 0, 0, 0, 0, 0})
	if address == nil {
		return answer
	}
	answer[7] = 1
	answer = append(answer, 0xc0, 12) // the name is that of the question
	answer = append(answer, question[end-4:end]...)
	answer = append(answer, 0, 0, 0, 60, 0, byte(len(address)))
	return append(answer, address...)
}

// lookup asks the name servers of resolv.conf for a name.
func lookup(args []string) error {
	f := flag.NewFlagSet("lookup", flag.ExitOnError)
	tcp := f.Bool("tcp", false, "ask over TCP")
	_ = f.Parse(args) // exits on error
	r := &net.Resolver{PreferGo: true}
	if *tcp {
		r.Dial = func(ctx context.Context, _, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	found, err := r.LookupNetIP(context.Background(), "ip", f.Arg(0))
	if err != nil {
		return err
	}
	fmt.Println(found)
	return nil
}

// web is an HTTP server that says its name.
func web(args []string) error {
	f := flag.NewFlagSet("web", flag.ExitOnError)
	addr := f.String("addr", ":80", "where to listen")
	name := f.String("name", "", "what to say")
	_ = f.Parse(args) // exits on error
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	fmt.Println("serving", *name)
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "hello from", *name) }))
}

// get prints what an HTTP server says.
func get(args []string) error {
	f := flag.NewFlagSet("get", flag.ExitOnError)
	_ = f.Parse(args) // exits on error
	response, err := http.Get(f.Arg(0))
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // it has been read
	text, err := io.ReadAll(response.Body)
	fmt.Print(string(text))
	return err
}

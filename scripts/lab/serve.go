package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
)

// A TCP client sends a line with the flow's id and gets one with the server's
// name; then the server sends back every byte until FIN. A datagram begins with
// the id and a space and comes back behind the server's name and a space.

// journal is the server's list of the flows it has seen, one line for each.
type journal struct {
	mu    sync.Mutex
	file  *os.File
	peers *os.File
	seen  map[string]bool
}

// peer notes the address that a member sees.
func (j *journal) peer(proto string, addr net.Addr) {
	a, err := netip.ParseAddrPort(addr.String())
	if err == nil {
		_, err = fmt.Fprintln(j.peers, proto, a.Addr().Unmap())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab serve: cannot write the peers:", err)
		os.Exit(1) // a test that could not tell must not pass
	}
}

func (j *journal) note(proto, id, name string) {
	line := proto + " " + id + " " + name
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.seen[line] {
		return
	}
	j.seen[line] = true
	if _, err := fmt.Fprintln(j.file, line); err != nil {
		fmt.Fprintln(os.Stderr, "lab serve: cannot write the journal:", err)
		os.Exit(1) // a test that could not tell must not pass
	}
}

func serve(args []string) error {
	f := flag.NewFlagSet("serve", flag.ExitOnError)
	name := f.String("name", "", "name of this member")
	addr := f.String("addr", ":7000", "where to listen, TCP and UDP")
	path := f.String("log", "/dev/null", "file for the flows seen")
	peers := f.String("peers", "/dev/null", "file for the addresses that were seen")
	_ = f.Parse(args) // exits on error
	file, err := os.OpenFile(*path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	j := &journal{file: file, seen: map[string]bool{}}
	if j.peers, err = os.OpenFile(*peers, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		return err
	}
	packets, err := net.ListenPacket("udp", *addr)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	fmt.Println("serving", *name)
	go serveUDP(packets, *name, j) // for the life of the process
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go serveTCP(conn, *name, j) // ends with its client, or with the process
	}
}

func serveTCP(conn net.Conn, name string, j *journal) {
	defer func() { _ = conn.Close() }() // the client has checked what it got
	reader := bufio.NewReaderSize(conn, 64<<10)
	id, err := reader.ReadString('\n')
	if err != nil {
		return // a client that only tried the port
	}
	j.peer("tcp", conn.RemoteAddr())
	j.note("tcp", strings.TrimSpace(id), name)
	if _, err := fmt.Fprintln(conn, name); err != nil {
		return
	}
	_, _ = io.Copy(conn, reader) // the client tells when bytes are missing
}

func serveUDP(packets net.PacketConn, name string, j *journal) {
	buf := make([]byte, 65536)
	for {
		n, from, err := packets.ReadFrom(buf)
		if err != nil {
			fmt.Fprintln(os.Stderr, "lab serve:", err)
			return
		}
		id, _, _ := strings.Cut(string(buf[:n]), " ")
		j.peer("udp", from)
		j.note("udp", id, name)
		// A reply that is lost is asked for again.
		_, _ = packets.WriteTo(append([]byte(name+" "), buf[:n]...), from)
	}
}

// sink takes one connection and says what came, and how it ended.
func sink(args []string) error {
	f := flag.NewFlagSet("sink", flag.ExitOnError)
	addr := f.String("addr", ":7001", "where to listen")
	_ = f.Parse(args) // exits on error
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	fmt.Println("sinking")
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, conn)
	if err != nil {
		fmt.Printf("%d bytes, then %v\n", n, err)
	} else {
		fmt.Printf("%d bytes, then EOF\n", n)
	}
	return conn.Close()
}

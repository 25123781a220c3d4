package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"aarptun/resolver/member"
)

// The member is the test binary once more, in a network namespace of its own at
// the other end of the uplink. It has joined the anycast address and answers
// each TCP connection and each datagram with what it is sent.

const memberRole = "member"

// theMember is kept so that its pipes are not collected and closed while a test
// counts open files.
var theMember struct {
	process *exec.Cmd
	in      io.WriteCloser
	out     io.ReadCloser
}

// startMember starts it, and moves v1 to its namespace. It dies with the thread
// that calls, which is that of TestMain.
func startMember() error {
	runtime.LockOSThread()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), insideVariable+"="+memberRole)
	c.Stderr = os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	in, err := c.StdinPipe()
	if err != nil {
		return err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	theMember.process, theMember.in, theMember.out = c, in, out
	if err := ipCommand(fmt.Sprintf("link set v1 netns %d", c.Process.Pid)); err != nil {
		return err
	}
	if _, err := io.WriteString(in, "v1 is there\n"); err != nil {
		return err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "serving\n" {
		return fmt.Errorf("the member does not serve: %q, %w", line, err)
	}
	return awaitCarrier("v0")
}

// awaitCarrier waits until the kernel has noticed that both ends are up, which
// it does in its own time.
func awaitCarrier(link string) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if out, err := exec.Command("ip", "link", "show", link).Output(); err != nil || strings.Contains(string(out), "state UP") {
			return err
		}
	}
	return fmt.Errorf("%s does not come up", link)
}

// serveAsMember is the member.
func serveAsMember() error {
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	for _, command := range []string{
		"link set lo up", "link set v1 up", "addr add " + testMember + "/24 dev v1", "addr add " + testMember6 + "/64 dev v1 nodad",
		"-6 route add default via " + testUplink6,
	} {
		if err := ipCommand(command); err != nil {
			return err
		}
	}
	// A router may join an address that is in no prefix of its own.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0); err != nil {
		return err
	}
	joined, err := member.Join(netip.MustParseAddr(testAA6), "v1")
	if err != nil {
		return err
	}
	packets, err := net.ListenPacket("udp", fmt.Sprintf(":%d", testPort))
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", testPort))
	if err != nil {
		return err
	}
	go echoPackets(packets)
	fmt.Println("serving")
	for {
		conn, err := listener.Accept()
		if err != nil {
			return errors.Join(err, joined.Close())
		}
		go func() {
			_, _ = io.Copy(conn, conn) // until the client ends it, however
			_ = conn.Close()
		}()
	}
}

func echoPackets(packets net.PacketConn) {
	buf := make([]byte, 65535)
	for {
		n, from, err := packets.ReadFrom(buf)
		if err != nil {
			continue // an ICMP error about an earlier answer
		}
		_, _ = packets.WriteTo(buf[:n], from) // the client may have gone
	}
}

package member

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write docs/protocol.pcap anew")

const captureFile = "../../docs/protocol.pcap"

// wire hears all packets of a host.
type wire struct{ *os.File }

// listen opens a packet socket (packet(7)); each read returns one packet without
// the link's header.
func (h *host) listen() wire {
	h.t.Helper()
	var w wire
	h.on(func() {
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network byte order
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
		if err != nil {
			h.t.Fatal(err)
		}
		w = wire{os.NewFile(uintptr(fd), "wire")}
	})
	h.t.Cleanup(func() { _ = w.Close() })
	return w
}

// stun returns the next n packets from or to the port of the responders.
func (w wire) stun(t testing.TB, n int) (packets [][]byte) {
	t.Helper()
	if err := w.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for buf := make([]byte, 1<<16); len(packets) < n; {
		size, err := w.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if p := buf[:size]; isSTUN(p) {
			packets = append(packets, bytes.Clone(p))
		}
	}
	return packets
}

func isSTUN(p []byte) bool {
	var udp []byte
	switch {
	case len(p) > 48 && p[0]>>4 == 6 && p[6] == unix.IPPROTO_UDP:
		udp = p[40:]
	case len(p) > 28 && p[0] == 0x45 && p[9] == unix.IPPROTO_UDP:
		udp = p[20:]
	default:
		return false
	}
	return binary.BigEndian.Uint16(udp) == DefaultPort || binary.BigEndian.Uint16(udp[2:]) == DefaultPort
}

// pcap is a capture file of raw IP packets (LINKTYPE_RAW).
func pcap(packets [][]byte) []byte {
	file := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	file = append(file, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0) // version 2.4
	file = binary.LittleEndian.AppendUint32(file, 65535)
	file = binary.LittleEndian.AppendUint32(file, 101)
	for i, p := range packets {
		file = binary.LittleEndian.AppendUint32(file, 0)
		file = binary.LittleEndian.AppendUint32(file, uint32(i)*1000) // in their order
		file = binary.LittleEndian.AppendUint32(file, uint32(len(p)))
		file = binary.LittleEndian.AppendUint32(file, uint32(len(p)))
		file = append(file, p...)
	}
	return file
}

// TestWiresharkReadsTheExchange captures the exchange at each level and has
// tshark's STUN dissector, which knows nothing of us, decode it; and the capture
// in docs/ as well.
func TestWiresharkReadsTheExchange(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("AARPTUN_TEST_NO_SKIP") == "" {
		t.Skip("there is no tshark here to decode the capture")
	} else if err != nil {
		t.Fatal(err)
	}
	var packets [][]byte
	for _, exchange := range []struct {
		level level
		aa    netip.Addr
		n     int
	}{{levels[0], aa6, 4}, {levels[1], aa6, 2}, {levels[2], aa4, 2}, {levels[3], aa6, 2}} {
		client, server := newPair(t)
		server.serve(exchange.level.setup())
		w := client.listen()
		if _, err := client.prober(ProberConfig{Rings: exchange.level.rings()}).Probe(within(t), exchange.aa); err != nil {
			t.Fatal(err)
		}
		packets = append(packets, w.stun(t, exchange.n)...)
	}
	fresh := filepath.Join(t.TempDir(), "fresh.pcap")
	if err := os.WriteFile(fresh, pcap(packets), 0o600); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(captureFile, pcap(packets), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/exchange.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{fresh, captureFile} {
		cmd := exec.Command(tshark, "-r", file, "-o", "udp.check_checksum:FALSE", "-T", "fields", "-E", "separator=;", "-E", "aggregator=,",
			"-e", "udp.length", "-e", "stun.type", "-e", "stun.att.type", "-e", "stun.att.error.class", "-e", "stun.att.error", "-e", "stun.att.error.reason",
			"-e", "stun.att.ipv6", "-e", "stun.att.ipv4", "-e", "stun.att.port", "-e", "stun.att.cache-timeout", "-e", "stun.att.username",
			"-e", "stun.att.crc32.status", "-e", "_ws.malformed")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		// The asker's port, in the confirmation, is another each time.
		decoded := regexp.MustCompile(`(?m)^(68;0x0101;.*;)[0-9]+(;30;)`).ReplaceAllString(string(out), "${1}PORT$2")
		if got := strings.TrimSpace(decoded); got != strings.TrimSpace(string(want)) {
			t.Errorf("%s is read as\n%s\nwant\n%s", file, got, want)
		}
	}
}

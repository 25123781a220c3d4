package config

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	// MinPcapSize is the least that the file of packets may be bounded to, bytes.
	MinPcapSize = 128 << 10

	maxSocketPath = 107 // sun_path and its NUL (unix(7))
)

// checkWatch is about what lets others look on.
func (c Config) checkWatch() error {
	switch {
	case c.MetricsListen != "" && !listenable(c.MetricsListen):
		return wrong("metrics-listen", "", "metrics listener %q: it must be an address with its port, such as 127.0.0.1:9470 or [::1]:9470, or the absolute path of a unix socket, of at most %d bytes", c.MetricsListen, maxSocketPath)
	case c.MetricsListen != "" && c.MetricsListen == c.AdminSocket:
		return wrong("metrics-listen", "", "metrics listener %q: it is the admin socket: choose another path", c.MetricsListen)
	case c.PcapSize < MinPcapSize:
		return wrong("pcap-size", "", "pcap size %d: it must be at least %d bytes", c.PcapSize, MinPcapSize)
	}
	return nil
}

// listenable reports whether a is an address with its port, or the path of a
// socket. A name would be looked up, and could lead anywhere.
func listenable(a string) bool {
	if filepath.IsAbs(a) {
		return len(a) <= maxSocketPath
	}
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return false
	}
	if _, err := netip.ParseAddr(host); host != "" && err != nil {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// size is a number of bytes.
type size struct{ to *int64 }

func (size) Type() string      { return "BYTES" }
func (size) kind() kind        { return number }
func (s size) texts() []string { return []string{s.String()} }

func (s size) String() string {
	if s.to == nil {
		return ""
	}
	for _, unit := range []string{"G", "M", "k"} {
		if n := *s.to; n > 0 && n%sizes[unit] == 0 {
			return fmt.Sprint(n/sizes[unit], unit)
		}
	}
	return fmt.Sprint(*s.to)
}

func (s size) Set(text string) error {
	read, err := ParseSize(text)
	if err == nil {
		*s.to = read
	}
	return err
}

// sizes are what may follow a number of bytes.
var sizes = map[string]int64{"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}

// ParseSize reads a number of bytes, such as 65536, 100M or 1Gi.
func ParseSize(s string) (int64, error) {
	digits := strings.TrimRight(s, "kKMGi")
	n, err := strconv.ParseInt(digits, 10, 64)
	unit, known := sizes[s[len(digits):]]
	if err != nil || !known || n < 0 || strings.HasPrefix(s, "+") || n > (1<<62)/unit {
		return 0, invalid("size %q: it must be a number of bytes, such as 65536, 100M or 1Gi", s)
	}
	return n * unit, nil
}

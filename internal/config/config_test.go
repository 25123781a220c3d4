package config

import (
	"crypto/ed25519"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func valid() Config {
	c := Default()
	c.Prefixes = []netip.Prefix{netip.MustParsePrefix("2001:db8:aa::/64"), netip.MustParsePrefix("198.51.100.0/24")}
	return c
}

func TestValidateNamesTheCulprit(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	for want, change := range map[string]func(*Config){
		"no anycast prefix given":              func(c *Config) { c.Prefixes = nil },
		"prefix 2001:db8::1/64 is not":         func(c *Config) { c.Prefixes[0] = prefix("2001:db8::1/64") },
		"prefix invalid Prefix is not":         func(c *Config) { c.MemberPrefixes = PerPrefix[[]netip.Prefix]{AllPrefixes: make([]netip.Prefix, 1)} },
		"::/0 has addresses in ::/128 (unspec": func(c *Config) { c.Prefixes[0] = prefix("::/0") },
		"has addresses in 0.0.0.0/8":           func(c *Config) { c.Prefixes[0] = prefix("0.0.0.0/0") },
		"fe80::/64 has addresses in fe80::/10": func(c *Config) { c.Prefixes[0] = prefix("fe80::/64") },
		"240.0.0.0/4 (reserved)":               func(c *Config) { c.Prefixes[0] = prefix("255.255.255.255/32") },
		"127.0.0.0/8":                          func(c *Config) { c.Prefixes[0] = prefix("127.0.0.1/32") },
		"add -p 203.0.113.1/32":                func(c *Config) { c.Static = statics("203.0.113.1=192.0.2.1") },
		"different families":                   func(c *Config) { c.Static = statics("198.51.100.1=2001:db8:1::1") },
		"1=127.0.0.1: the member's address":    func(c *Config) { c.Static = statics("198.51.100.1=127.0.0.1") },
		"lies in ::ffff:0.0.0.0/96":            func(c *Config) { c.Static = statics("2001:db8:aa::1=::ffff:192.0.2.1") },
		"routed back into the TUN":             func(c *Config) { c.Static = statics("198.51.100.1=198.51.100.2") },
		"no unicast address given":             func(c *Config) { c.Static = map[netip.Addr][]netip.Addr{addr("198.51.100.1"): nil} },
		"add -p 203.0.113.0/24": func(c *Config) {
			c.PSKFiles = PerPrefix[string]{prefix("203.0.113.0/24"): "/psk"}
		},
		"has 1 bytes, not 32": func(c *Config) { c.PublicKeys = PerPrefix[[]ed25519.PublicKey]{AllPrefixes: {{1}}} },
		"asks nobody for a proof": func(c *Config) {
			c.PSKFiles, c.STUNPort = PerPrefix[string]{c.Prefixes[0]: "/psk"}, 0
		},
		"stale time -1s":                       func(c *Config) { c.Stale = -time.Second },
		"stale time 1h0m1s: it must be 0":      func(c *Config) { c.Stale = time.Hour + time.Second },
		`sticky "flows": it must be host`:      func(c *Config) { c.Sticky = "flows" },
		`select "": it must be first`:          func(c *Config) { c.Select = "" },
		`device name ""`:                       func(c *Config) { c.TUN = "" },
		`device name "sixteen-bytes-xx"`:       func(c *Config) { c.TUN = "sixteen-bytes-xx" },
		`device name "a/b"`:                    func(c *Config) { c.TUN = "a/b" },
		"MTU 1279":                             func(c *Config) { c.MTU = 1279 },
		"MTU 65536":                            func(c *Config) { c.MTU = 65536 },
		"routing table 0":                      func(c *Config) { c.Table = 0 },
		"routing table 254":                    func(c *Config) { c.Table = 254 },
		"mark 0":                               func(c *Config) { c.Mark = 0 },
		"table 252: with preserve-source":      func(c *Config) { c.Table, c.PreserveSource = 252, true },
		"table 4294967295: with preserve":      func(c *Config) { c.Table, c.PreserveSource = 1<<32-1, true },
		"preserve-source and netns":            func(c *Config) { c.Netns, c.PreserveSource = "web", true },
		"mark 0xffffffff: with preserve":       func(c *Config) { c.Mark, c.PreserveSource = 1<<32-1, true },
		"cache TTL 1ms":                        func(c *Config) { c.CacheTTL = time.Millisecond },
		`unresolved "perhaps"`:                 func(c *Config) { c.Unresolved = PerPrefix[Unresolved]{AllPrefixes: "perhaps"} },
		"drain timeout -1s":                    func(c *Config) { c.DrainTimeout = -time.Second },
		`admin socket "x.sock"`:                func(c *Config) { c.AdminSocket = "x.sock" },
		"at most 107 bytes":                    func(c *Config) { c.AdminSocket = "/" + strings.Repeat("x", 107) },
		`state directory "run"`:                func(c *Config) { c.StateDir = "run" },
		`log format "xml": it must be text or`: func(c *Config) { c.LogFormat = "xml" },
		`metrics listener "9470": it must be`:  func(c *Config) { c.MetricsListen = "9470" },
		`metrics listener "localhost:9470"`:    func(c *Config) { c.MetricsListen = "localhost:9470" },
		`metrics listener "127.0.0.1:0"`:       func(c *Config) { c.MetricsListen = "127.0.0.1:0" },
		`metrics listener "[::1]:65536"`:       func(c *Config) { c.MetricsListen = "[::1]:65536" },
		`metrics listener "x.sock"`:            func(c *Config) { c.MetricsListen = "x.sock" },
		`it is the admin socket`:               func(c *Config) { c.MetricsListen = c.AdminSocket },
		`pcap size 131071: it must be at`:      func(c *Config) { c.PcapSize = MinPcapSize - 1 },
	} {
		c := valid()
		change(&c)
		err := c.Validate()
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	if err := valid().Validate(); err != nil {
		t.Errorf("the valid one: %v", err)
	}
}

func statics(pairs ...string) map[netip.Addr][]netip.Addr {
	m := map[netip.Addr][]netip.Addr{}
	for _, pair := range pairs {
		aa, ua, err := ParseStatic(pair)
		if err != nil {
			panic(err)
		}
		m[aa] = append(m[aa], ua)
	}
	return m
}

func TestParsePrefix(t *testing.T) {
	for in, want := range map[string]string{
		"2001:db8::/32": "2001:db8::/32", "192.0.2.0/24": "192.0.2.0/24",
		"2001:db8::1": "2001:db8::1/128", "192.0.2.1": "192.0.2.1/32", "::/0": "::/0",
	} {
		if got, err := ParsePrefix(in); err != nil || got.String() != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for in, want := range map[string]string{
		"2001:db8::1/64": "write 2001:db8::/64 for the network or 2001:db8::1/128 for the one address",
		"192.0.2.9/24":   "write 192.0.2.0/24 for the network or 192.0.2.9/32",
		"fe80::1%eth0":   "no zone", "10.0.0.0/33": "write it as", "": "write it as", "example.org": "write it as",
	} {
		if _, err := ParsePrefix(in); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", in, err, want)
		}
	}
}

func TestParseAnycast(t *testing.T) {
	for in, want := range map[string]string{
		"::1": "lies in ::1/128 (loopback)", "ff02::1": "(multicast)", "fe80::1": "(link-local)", "::": "(unspecified)",
		"255.255.255.255": "(reserved)", "127.0.0.1": "(loopback)", "::ffff:192.0.2.1": "write 192.0.2.1",
		"fe80::1%eth0": "write an IPv4 or IPv6 address", "x": "write an IPv4 or IPv6 address",
	} {
		if a, err := ParseAnycast(in); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) || a.IsValid() {
			t.Errorf("%q: got %v, %v, want %q", in, a, err, want)
		}
	}
	for _, in := range []string{"2001:db8:aa::1", "198.51.100.1", "10.0.0.1", "fd00::1"} {
		if a, err := ParseAnycast(in); err != nil || a.String() != in {
			t.Errorf("%q: %v, %v", in, a, err)
		}
	}
}

func TestMetricsMayListen(t *testing.T) {
	for _, address := range []string{"", "127.0.0.1:9470", "[::1]:1", ":65535", "/run/aarptun/metrics.sock"} {
		c := valid()
		c.MetricsListen = address
		if err := c.Validate(); err != nil {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "131072": 131072, "100M": 1e8, "1Gi": 1 << 30, "5k": 5000, "2Ki": 2048} {
		if got, err := ParseSize(in); got != want || err != nil {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "M", "-1", "+1", "1m", "1MB", "1.5G", "1i", "1kM", "9223372036854775807Gi", "x"} {
		if got, err := ParseSize(in); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
}

func TestParseOthers(t *testing.T) {
	for _, in := range []string{"", "0", "-1", "0x1ffffffff", "x", "0x", "0b1", "1_0", "+1"} {
		if _, err := ParseMark(in); !errors.Is(err, ErrInvalid) {
			t.Errorf("mark %q: %v", in, err)
		}
	}
	for in, want := range map[string]uint32{"0xaa": 170, "0XAA": 170, "170": 170, "010": 10, "4294967295": 0xffffffff} {
		if got, err := ParseMark(in); got != want || err != nil {
			t.Errorf("mark %q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"192.0.2.1", "192.0.2.1=", "=192.0.2.1", "a=b", "fe80::1%x=::2"} {
		if _, _, err := ParseStatic(in); !errors.Is(err, ErrInvalid) {
			t.Errorf("static %q: %v", in, err)
		}
	}
	const key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	for in, want := range map[string]netip.Prefix{key: AllPrefixes, "2001:db8:aa::/64=" + key: netip.MustParsePrefix("2001:db8:aa::/64")} {
		if p, k, err := ParsePublicKey(in); p != want || len(k) != 32 || k[31] != 31 || err != nil {
			t.Errorf("%q: %v, %v, %v", in, p, k, err)
		}
	}
	for _, in := range []string{"", "AAAA", "x=" + key, "2001:db8:aa::1/64=" + key, "2001:db8:aa::/64=", "2001:db8:aa::/64=AAAA"} {
		if _, _, err := ParsePublicKey(in); !errors.Is(err, ErrInvalid) {
			t.Errorf("public key %q: %v", in, err)
		}
	}
	if p, path, err := ParseKeyed("192.0.2.0/24=/etc/psk"); p.String() != "192.0.2.0/24" || path != "/etc/psk" || err != nil {
		t.Errorf("%v, %v, %v", p, path, err)
	}
	if _, err := ParseLogLevel("loud"); !errors.Is(err, ErrInvalid) {
		t.Errorf("log level: %v", err)
	}
	if level, err := ParseLogLevel("WARN"); level != 4 || err != nil {
		t.Errorf("WARN: %v, %v", level, err)
	}
}

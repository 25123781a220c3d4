package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.toml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFileErrorsNameThePlaceAndTheRemedy(t *testing.T) {
	for content, want := range map[string]string{
		"prefix = [":                "1:10: array is incomplete",
		"a = 1\nb = ":               "2:4: expected value",
		"mtu = 1500\nmtu = 1400":    "2:1: key mtu is already defined",
		"cache-tll = \"1s\"":        `1:1: unknown key "cache-tll": did you mean cache-ttl?`,
		"\n  perfix = []":           `2:3: unknown key "perfix": did you mean prefix?`,
		"colour = 1":                `1:1: unknown key "colour": there are prefix, `,
		"prefix = [\n \"::/0x\"]":   `2:2: prefix "::/0x": write it as address/length`,
		"prefix = [1]":              `1:1: prefix: it must be a list of texts, such as`,
		"prefix = \"192.0.2.1/24\"": `1:1: prefix "192.0.2.1/24" has host bits set`,
		"[prefix]\nx = 1":           `1:2: write [[prefix]], with two brackets`,
		"prefix.anycast = []":       `1:1: write [[prefix]], and anycast under it`,
		"[[prefix]]\n":              `1:3: this [[prefix]] names none: write anycast = `,
		"[[prefix]]\nanycast = []":  `1:3: this [[prefix]] names none`,
		"[[prefix]]\nanycas = []":   `2:1: unknown key "anycas": did you mean anycast?`,
		"prefix = [{}]":             `1:11: this [[prefix]] names none`,
		"prefix = [{anycast = \"192.0.2.1\", table = 5}]": `1:35: table counts for all prefixes`,
		"prefix = [{anycast = \"192.0.2.1\"}, 5]":         `1:1: prefix: it must be a list`,
		"[[prefix]]\npubky = []":                          `2:1: unknown key "pubky": did you mean pubkey?`,
		"[[prefix]]\nmtu = 5":                             `2:1: mtu counts for all prefixes: write it above`,
		"[[prefix]]\nx.y = 5":                             `2:3: there are no tables in [[prefix]]`,
		"[[prefix]]\nanycast=\"x\"":                       `2:1: prefix "x": write it as`,
		"[[prefix.x]]":                                    `1:10: there are no tables in "prefix"`,
		"[limit]\nflows = 5":                              `1:2: unknown table [limit]: there are [[prefix]] and [limits]`,
		"[[limits]]":                                      `1:3: write [limits], with one bracket`,
		"limits = 5":                                      `1:1: limits is a table: write [limits]`,
		"[limits]\nflow = 5":                              `2:1: unknown limit "flow": did you mean flows?`,
		"[limits]\nflows = \"5\"":                         `2:1: flows: it must be a whole number, without quotes`,
		"[limits]\nflows = 0":                             `2:1: limit flows 0: it must be 1 to 16777216`,
		"[limits]\nflows.x = 0":                           `2:7: there are no tables in "limits"`,
		"limits = {flows = -1}":                           `1:11: limit flows -1: it must be 1`,
		"[cache-ttl]\nx = 1":                              `1:2: cache-ttl is no table: write cache-ttl = ..., above all tables`,
		"cache-ttl.x = 1":                                 `1:1: cache-ttl is no table`,
		"cache-ttl = 30":                                  `1:1: cache-ttl: it must be a text between quotes, such as "30s"`,
		"cache-ttl = \"30\"":                              `1:1: cache-ttl "30": it must be a number with its unit`,
		"cache-ttl = \"1ms\"":                             `1:1: cache TTL 1ms: it must be 100ms to 24h`,
		"mtu = \"1500\"":                                  `1:1: mtu: it must be a whole number, without quotes`,
		"mtu = 1.5":                                       `1:1: mtu: it must be a whole number`,
		"mtu = 99999999999999999999":                      `: `,
		"mtu = 1000":                                      `1:1: MTU 1000: it must be 1280`,
		"stun-port = 65536":                               `1:1: stun-port "65536": it is out of range`,
		"unresolved = true":                               `1:1: unresolved: it must be a list of texts`,
		"unresolved = \"drop\"":                           `1:1: unresolved "drop": it must be direct or reject`,
		"sticky = \"hosts\"":                              `1:1: sticky "hosts": it must be host, source or flow`,
		"fwmark = 0":                                      `1:1: mark "0": it must be a number from 1`,
		"log-level = \"loud\"":                            `1:1: log level "loud": it must be debug`,
		"log-level = 1979-05-27":                          `1:1: log-level: it must be a text between quotes`,
		"static = [\"192.0.2.1=x\"]":                      `1:11: address "x": write an IPv4`,
		"psk-file = \"\"":                                 `1:1: the name of the file of shared keys is empty`,
		"pubkey = [\"a\",\n\"b\"]":                        `1:11: public key "a": it must be 32 bytes`,
		"static = [\"203.0.113.1=::1\"]":                  `1:11: static member for 203.0.113.1: no anycast prefix`,
		"psk-file=[\"10.0.0.0/8=/k\"]":                    `1:11: 10.0.0.0/8 is none of the anycast`,
		"unresolved=[\"10.0.0.0/8=direct\"]":              `1:13: 10.0.0.0/8 is none of the`,
		"[[prefix]]\nanycast=[\"192.0.2.1\"]\n[[prefix]]\nanycast=[\n\"192.0.2.1\"]": `5:1: prefix 192.0.2.1/32 is in the [[prefix]] of line 1 already`,
	} {
		path := writeFile(t, content)
		sources := Sources{Path: path}
		if !strings.Contains(content, "prefix") {
			sources.Flags = []Given{{"prefix", "198.51.100.0/24"}}
		}
		_, err := sources.Load()
		if err == nil || !strings.HasPrefix(err.Error(), path+":") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
		if !errors.Is(err, ErrInvalid) || !errors.Is(err, ErrFile) {
			t.Errorf("%q: %v is no ErrFile and ErrInvalid", content, err)
		}
	}
}

func TestFileThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "no such file", dir: "is no regular file", pipe: "is no regular file", large: "is larger than",
	} {
		if _, err := (Sources{Path: path}).Load(); !errors.Is(err, ErrFile) || errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

func TestFileHasTrustOfEachPrefix(t *testing.T) {
	key := "Vrw9aQVKsBnENm0l2HVHi8YmBAcpjI6GUTVXEh6k7zA="
	path := writeFile(t, `
member-prefix = ["203.0.113.0/24"]
psk-file = "/all"
fwmark = 0xBB
mtu = 1_400
limits.flows = 50

[[prefix]]
anycast = ["2001:db8:aa::/64", "2001:db8:ab::1"]
member-prefix = ["2001:db8:1::/48", "2001:db8:2::/48"]
psk-file = "/a=b,c"
unresolved = "reject"

[[prefix]]
anycast = "192.0.2.0/24"
pubkey = ["`+key+`"]

[limits]
`)
	if _, err := (Sources{Path: path}).Load(); err == nil {
		t.Error("limits are there twice")
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	path = writeFile(t, strings.ReplaceAll(string(content), "[limits]", ""))
	l, err := Sources{Path: path}.Load()
	if err != nil {
		t.Fatal(err)
	}
	c, prefix := l.Config, netip.MustParsePrefix
	if want := []netip.Prefix{prefix("2001:db8:aa::/64"), prefix("2001:db8:ab::1/128"), prefix("192.0.2.0/24")}; !slices.Equal(c.Prefixes, want) {
		t.Errorf("prefixes %v", c.Prefixes)
	}
	six, four := prefix("2001:db8:ab::1/128"), prefix("192.0.2.0/24")
	if got := c.MemberPrefixes.For(six); !slices.Equal(got, []netip.Prefix{prefix("2001:db8:1::/48"), prefix("2001:db8:2::/48")}) {
		t.Errorf("member prefixes %v", got)
	}
	if got := c.MemberPrefixes.For(four); !slices.Equal(got, []netip.Prefix{prefix("203.0.113.0/24")}) {
		t.Errorf("member prefixes %v", got)
	}
	if c.PSKFiles.For(six) != "/a=b,c" || c.PSKFiles.For(four) != "/all" {
		t.Errorf("psk files %v", c.PSKFiles)
	}
	if c.Unresolved.For(six) != Reject || c.Unresolved.For(four) != Direct || len(c.PublicKeys.For(four)) != 1 || len(c.PublicKeys.For(six)) != 0 {
		t.Errorf("%+v", c)
	}
	if c.Mark != 0xbb || c.MTU != 1400 || c.Limits.Flows != 50 || c.CacheTTL != 30*time.Second {
		t.Errorf("%+v", c)
	}
}

func TestPrefixesInOneLine(t *testing.T) {
	l, err := Sources{Path: writeFile(t, `prefix = ["192.0.2.0/24", {anycast = "2001:db8::/64", psk-file = "/a"}]`)}.Load()
	if err != nil || len(l.Config.Prefixes) != 2 || l.Config.PSKFiles.For(l.Config.Prefixes[1]) != "/a" || l.Config.PSKFiles.For(l.Config.Prefixes[0]) != "" {
		t.Errorf("%+v, %v", l.Config, err)
	}
}

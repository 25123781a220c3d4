package config

import (
	"bytes"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFlagsCountBeforeVariablesBeforeTheFile(t *testing.T) {
	path := writeFile(t, `
prefix = ["2001:db8:aa::/64", "2001:db8:ab::/64"]
cache-ttl = "1s"
stale = "2s"
drain-timeout = "3s"
`)
	l, err := Sources{
		Path:    path,
		Flags:   []Given{{"cache-ttl", "21s"}, {"static", "192.0.2.1=198.51.100.1"}, {"limits", "flows=7,udp-flows=8"}},
		Environ: []string{"AARPTUN_CACHE_TTL=11s", "AARPTUN_STALE=12s", "AARPTUN_PREFIX=192.0.2.0/24, 2001:db8::/64", "AARPTUN_TUN=", "HOME=/", "AARPTUN_STATIC=192.0.2.9=198.51.100.9"},
	}.Load()
	if err != nil {
		t.Fatal(err)
	}
	c := l.Config
	if c.CacheTTL != 21*time.Second || c.Stale != 12*time.Second || c.DrainTimeout != 3*time.Second || c.TUN != "aarptun0" || c.Limits.Flows != 7 || c.Limits.UDPFlows != 8 {
		t.Errorf("%+v", c)
	}
	if want := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")}; !slices.Equal(c.Prefixes, want) {
		t.Errorf("prefixes %v", c.Prefixes)
	}
	if len(c.Static) != 1 {
		t.Errorf("static %v", c.Static)
	}
	want := map[string]string{
		"cache-ttl": "--cache-ttl", "stale": "AARPTUN_STALE", "drain-timeout": path + ":5:1", "tun": "default", "prefix": "AARPTUN_PREFIX", "limits": "--limits",
	}
	for _, e := range l.Effective() {
		if from, ok := want[e.Key]; ok && e.From != from {
			t.Errorf("%s is from %s, want %s", e.Key, e.From, from)
		}
	}
}

// The trust of a prefix stays when only the prefix is named again.
func TestPrefixOnTheCommandLineKeepsItsTrust(t *testing.T) {
	path := writeFile(t, `
[[prefix]]
anycast = "192.0.2.0/24"
psk-file = "/a"
[[prefix]]
anycast = "198.51.100.0/24"
psk-file = "/b"
`)
	l, err := Sources{Path: path, Flags: []Given{{"prefix", "198.51.100.0/24"}, {"prefix", "203.0.113.0/24"}}}.Load()
	if err != nil {
		t.Fatal(err)
	}
	if want := (PerPrefix[string]{netip.MustParsePrefix("198.51.100.0/24"): "/b"}); !reflect.DeepEqual(l.Config.PSKFiles, want) {
		t.Errorf("files %v", l.Config.PSKFiles)
	}
}

func TestErrorsNameTheFlagOrTheVariable(t *testing.T) {
	prefix := Given{"prefix", "192.0.2.0/24"}
	for want, s := range map[string]Sources{
		"no anycast prefix given":                    {},
		"--cache-ttl: cache TTL 1ms: it must be":     {Flags: []Given{prefix, {"cache-ttl", "1ms"}}},
		`--mtu: mtu "x": it must be a whole`:         {Flags: []Given{prefix, {"mtu", "x"}}},
		"AARPTUN_MTU: MTU 7: it must be":             {Flags: []Given{prefix}, Environ: []string{"AARPTUN_MTU=7"}},
		`AARPTUN_MTU: mtu "x": it must be a whole`:   {Flags: []Given{prefix}, Environ: []string{"AARPTUN_MTU=x"}},
		`AARPTUN_UNRESOLVED: unresolved "x": it mus`: {Flags: []Given{prefix}, Environ: []string{"AARPTUN_UNRESOLVED=x"}},
		`AARPTUN_PREFIX: prefix "": write it as`:     {Environ: []string{"AARPTUN_PREFIX=192.0.2.0/24,"}},
		"/none: no such file":                        {Environ: []string{"AARPTUN_CONFIG=/none"}},
	} {
		_, err := s.Load()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if file := strings.Contains(want, "/none"); errors.Is(err, ErrFile) != file || errors.Is(err, ErrInvalid) == file {
			t.Errorf("%v: ErrFile %v, ErrInvalid %v", err, errors.Is(err, ErrFile), errors.Is(err, ErrInvalid))
		}
	}
}

func TestUnknownVariablesAreTold(t *testing.T) {
	l, err := Sources{
		Flags:   []Given{{"prefix", "192.0.2.0/24"}},
		Environ: []string{"AARPTUN_CACHE_TLL=1s", "AARPTUN_SERVICE_HOST=10.0.0.1", "AARPTUN_EMPTY=", "AARP=1"},
	}.Load()
	want := []string{
		"the variable AARPTUN_CACHE_TLL counts for nothing: did you mean AARPTUN_CACHE_TTL?",
		"the variable AARPTUN_SERVICE_HOST counts for nothing",
	}
	if err != nil || !slices.Equal(l.Warnings, want) {
		t.Errorf("%q, %v", l.Warnings, err)
	}
}

// What check-config prints is a file, and the same one.
func TestWrittenFileIsReadAgain(t *testing.T) {
	var settings []Given
	for _, s := range uncommented(t) {
		settings = append(settings, Given{s.key.Name, s.text})
	}
	l, err := Sources{Flags: settings}.Load()
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := l.WriteTOML(&text); err != nil {
		t.Fatal(err)
	}
	again, err := Sources{Path: writeFile(t, text.String())}.Load()
	if err != nil || !reflect.DeepEqual(again.Config, l.Config) {
		t.Errorf("%v\n%+v\n%+v\n%s", err, l.Config, again.Config, &text)
	}
	if !strings.Contains(text.String(), "flows = 131072  # --limits") || !strings.Contains(text.String(), "  # --prefix") {
		t.Errorf("no place is told: %s", &text)
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte(Reference))
	for _, seed := range []string{
		"prefix = [\"192.0.2.0/24\"]\n", "[[prefix]]\nanycast = ['2001:db8::/64']\npsk-file = '/x'\n", "limits = {flows = 1}\nprefix='192.0.2.0/24'",
		"prefix = [{anycast = '192.0.2.1', unresolved = 'reject'}, '192.0.2.2']", "prefix = [{}]", "[limits]\nflows = 0x10\n", "a.b.c = 1", "x = 1979-05-27T07:32:00Z", "x = nan", "\xff", "prefix = \"\"\"\n192.0.2.1\"\"\"",
		"state-dir = \"/\\u0000\\n\\\"'\"\nprefix='192.0.2.0/24'", "[a]\n[a.b]\n[[c]]\n", "fwmark = 0xaa\nprefix='192.0.2.0/24'",
		"[[prefix]]\nanycast='192.0.2.1'\npsk-file='=a,b='\nunresolved='reject'\nmember-prefix='10.0.0.0/8'",
	} {
		f.Add([]byte(seed))
	}
	read := func(content []byte) (l Loaded, err error) {
		l.Config = Default()
		settings, err := parseFile("a.toml", content)
		if err == nil {
			err = l.layer(settings)
		}
		return l, err
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		l, err := read(content)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || err.Error() == "" {
				t.Errorf("%q: %v is no ErrInvalid", content, err)
			}
			return
		}
		var text bytes.Buffer
		if err := l.WriteTOML(&text); err != nil {
			t.Fatal(err)
		}
		if again, err := read(text.Bytes()); err != nil || len(Changed(l.Config, again.Config)) > 0 {
			t.Errorf("%q was read as %+v, and that written as %s and read as %+v, %v", content, l.Config, &text, again.Config, err)
		}
	})
}

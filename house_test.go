package aarptun_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// rooms is the plan of the house: each room with the rooms it may import.
// ARCHITECTURE.md draws the same. A room that is not here was not planned.
var rooms = map[string][]string{
	"cmd/aarptun":      {"internal/config", "internal/capture", "internal/metrics", "internal/unasked", "internal/daemon", "internal/admin", "tun", "tun/netns", "nat", "resolver", "resolver/ping", "resolver/member"},
	"internal/daemon":  {"internal/config", "internal/admin", "internal/metrics", "internal/capture", "tun", "tun/netns", "tun/nft", "stack", "nat", "resolver", "resolver/ping", "resolver/member"},
	"internal/config":  {},
	"internal/admin":   {"nat", "resolver"},
	"internal/metrics": {"internal/capture", "nat", "resolver", "resolver/ping", "resolver/member", "stack", "tun"},
	"internal/capture": {},
	"internal/unasked": {},
	"tun":              {"tun/nft"},
	"tun/nft":          {},
	"tun/netns":        {"tun"},
	"stack":            {"nat"},
	"nat":              {},
	"resolver":         {"resolver/ping", "resolver/member"},
	"resolver/ping":    {},
	"resolver/member":  {},
	"scripts/lab":      {},
	"scripts/fidelity": {},
	"scripts/soak":     {"internal/admin", "nat"},
	"scripts/bench":    {},
	"scripts/pages":    {},
	"scripts/sbom":     {},
}

// homes says where each big library lives: it is imported in one room only, so
// that only this room has to know it. Tests may use any of them.
var homes = map[string][]string{
	"gvisor.dev/gvisor":                         {"stack"},
	"golang.zx2c4.com/wireguard":                {"tun"},
	"github.com/vishvananda/netlink":            {"tun"},
	"github.com/google/nftables":                {"tun", "tun/nft"},
	"github.com/mdlayher/netlink":               {"tun/nft"},
	"github.com/ti-mo/conntrack":                {},
	"github.com/vishvananda/netns":              {"tun/netns"},
	"golang.org/x/net/icmp":                     {"resolver/ping"},
	"golang.org/x/net/ipv4":                     {"resolver/ping"},
	"golang.org/x/net/ipv6":                     {"resolver/ping"},
	"golang.org/x/net/netutil":                  {"internal/admin", "internal/metrics"},
	"golang.org/x/net/bpf":                      {"scripts/lab"},
	"github.com/prometheus":                     {"internal/metrics"},
	"github.com/gopacket/gopacket":              {"internal/capture"},
	"github.com/charmbracelet":                  {"cmd/aarptun", "internal/unasked"},
	"github.com/coreos/go-systemd":              {"internal/daemon"},
	"github.com/spf13/cobra":                    {"cmd/aarptun"},
	"github.com/spf13/pflag":                    {"cmd/aarptun"},
	"golang.org/x/sync":                         {"internal/daemon", "resolver"},
	"golang.org/x/time":                         {"resolver", "resolver/member", "stack"},
	"golang.org/x/sys":                          {"tun", "tun/netns", "tun/nft", "resolver/ping", "resolver/member", "scripts/lab", "scripts/fidelity", "scripts/soak", "scripts/bench"},
	"github.com/pelletier/go-toml":              {"internal/config"},
	"github.com/pion/stun":                      {"resolver/member"},
	"github.com/landlock-lsm/go-landlock":       {"internal/daemon"},
	"kernel.org/pub/linux/libs/security/libcap": {"internal/daemon"},
	"go.uber.org/goleak":                        {},
	"github.com/rogpeppe/go-internal":           {},
}

// banned are names under which anything could be put.
var banned = []string{"util", "utils", "common", "types", "helpers", "misc", "base", "shared"}

// gofile is what the house knows of one file.
type gofile struct {
	path, room string
	test       bool
	imports    map[string]string // path to name, "" if it has none
	packageDoc bool
}

func readHouse(t *testing.T) []gofile {
	t.Helper()
	var files []gofile
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || slices.Contains([]string{"bin", "dist", "testdata"}, d.Name())) {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".go" || filepath.Dir(path) == "." {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		files = append(files, fileOf(t, path, parsed))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no Go files found: the test does not run at the root of the repository")
	}
	return files
}

func fileOf(t *testing.T, path string, parsed *ast.File) gofile {
	t.Helper()
	f := gofile{
		path: path, room: filepath.ToSlash(filepath.Dir(path)),
		test: strings.HasSuffix(path, "_test.go"), imports: map[string]string{}, packageDoc: parsed.Doc != nil,
	}
	for _, spec := range parsed.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		name := ""
		if spec.Name != nil {
			name = spec.Name.Name
		}
		f.imports[imported] = name
	}
	return f
}

func TestHouseArrows(t *testing.T) {
	for _, f := range readHouse(t) {
		allowed, planned := rooms[f.room]
		if !planned {
			t.Errorf("%s: room %s is not in the plan", f.path, f.room)
			continue
		}
		for imported := range f.imports {
			room, ours := strings.CutPrefix(imported, "aarptun/")
			if ours && room != f.room && !slices.Contains(allowed, room) && !f.test {
				t.Errorf("%s: %s -> %s is no arrow of the plan", f.path, f.room, room)
			}
		}
	}
}

func TestHouseLibrariesAreAtHome(t *testing.T) {
	for _, f := range readHouse(t) {
		if f.test {
			continue
		}
		for imported, name := range f.imports {
			first, _, _ := strings.Cut(imported, "/")
			if !strings.Contains(first, ".") {
				continue // the standard library, or ours
			}
			if home, known := homeOf(imported); !known {
				t.Errorf("%s: %s has no home in the plan", f.path, imported)
			} else if !slices.Contains(home, f.room) {
				t.Errorf("%s: %s lives in %v", f.path, imported, home)
			}
			if want := map[string]string{"gvisor.dev/gvisor/pkg/tcpip/stack": "gstack", "golang.zx2c4.com/wireguard/tun": "wgtun"}[imported]; want != "" && name != want {
				t.Errorf("%s: import %s as %s", f.path, imported, want)
			}
		}
	}
}

func homeOf(imported string) ([]string, bool) {
	for library, home := range homes {
		if imported == library || strings.HasPrefix(imported, library+"/") {
			return home, true
		}
	}
	return nil, false
}

func TestHouseNATNeedsOnlyTheStandardLibrary(t *testing.T) {
	for _, f := range readHouse(t) {
		for imported := range f.imports {
			if f.room == "nat" && !f.test && strings.Contains(imported, ".") {
				t.Errorf("%s imports %s", f.path, imported)
			}
		}
	}
}

func TestHouseRoomsAreNamedAndExplained(t *testing.T) {
	docs := map[string]int{}
	for _, f := range readHouse(t) {
		if !f.test && f.packageDoc {
			docs[f.room]++
		}
		if slices.Contains(banned, filepath.Base(f.room)) {
			t.Errorf("%s: a room called %s could hold anything", f.path, filepath.Base(f.room))
		}
	}
	for room := range rooms {
		if docs[room] != 1 {
			t.Errorf("room %s has %d package comments, want exactly 1", room, docs[room])
		}
	}
}

func TestHouseIsDrawn(t *testing.T) {
	drawing, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	for room := range rooms {
		if !strings.Contains(string(drawing), "`"+room+"`") {
			t.Errorf("ARCHITECTURE.md does not name room `%s`", room)
		}
	}
}

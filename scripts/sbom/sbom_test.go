package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

// made is what Go writes into a binary, with a module that is replaced and a
// version with a sign that a package-url has no place for.
var made = &debug.BuildInfo{
	GoVersion: "go1.26.8", Path: "aarptun/cmd/aarptun", Main: debug.Module{Path: "aarptun", Version: "(devel)"},
	Deps: []*debug.Module{
		{Path: "example.org/a", Version: "v1.2.3", Sum: "h1:LAEzFkke61DFROc7zNLX/WA2i5J8gYqe0rSj9KI28KA="},
		{Path: "example.org/b", Version: "v1.0.0", Replace: &debug.Module{Path: "example.org/c", Version: "v2.0.0+incompatible"}},
	},
	Settings: []debug.BuildSetting{{Key: "GOARCH", Value: "arm64"}, {Key: "-ldflags", Value: "x"}},
}

func TestBillIsOfTheBinary(t *testing.T) {
	file := filepath.Join(t.TempDir(), "binary")
	if err := os.WriteFile(file, []byte("binary"), 0o600); err != nil {
		t.Fatal(err)
	}
	var first, second strings.Builder
	for _, out := range []*strings.Builder{&first, &second} {
		if err := writeBill(out, file, "1.2.3", time.Unix(86400, 0).In(time.FixedZone("", 3600)), made); err != nil {
			t.Fatal(err)
		}
	}
	if first.String() != second.String() {
		t.Error("two bills of one binary differ")
	}
	var got bill
	if err := json.Unmarshal([]byte(first.String()), &got); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("binary"))
	program := got.Metadata.Component
	if program.Name != "aarptun" || program.Version != "1.2.3" || program.Hashes[0].Content != hex.EncodeToString(sum[:]) || got.Metadata.Timestamp != "1970-01-02T00:00:00Z" {
		t.Errorf("got %+v", got.Metadata)
	}
	var purls []string
	for _, c := range got.Components {
		purls = append(purls, c.PURL)
	}
	if want := "pkg:golang/std@1.26.8 pkg:golang/example.org/a@v1.2.3 pkg:golang/example.org/c@v2.0.0%2Bincompatible"; strings.Join(purls, " ") != want {
		t.Errorf("components are %v, want %s", purls, want)
	}
	if got.Components[1].Hashes[0].Content != "2c013316491eeb50c544e73bccd2d7fd60368b927c818a9ed2b4a3f4a236f0a0" {
		t.Errorf("the checksum of a module is %v", got.Components[1].Hashes)
	}
	if len(got.Dependencies) != 1 || len(got.Dependencies[0].Uses) != len(got.Components) {
		t.Errorf("dependencies are %v", got.Dependencies)
	}
}

func TestLicencesAreFoundOrMissed(t *testing.T) {
	dir := t.TempDir()
	var out strings.Builder
	if err := writeLicencesOf(&out, "example.org/a v1", dir); err == nil || !strings.Contains(err.Error(), "example.org/a v1 has no licence") {
		t.Errorf("of a module without one: %v", err)
	}
	for name, text := range map[string]string{"LICENSE.txt": "may be used\n", "NOTICE": "by somebody", "licensing.go": "code", "README": "read"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeLicencesOf(&out, "example.org/a v1", dir); err != nil {
		t.Fatal(err)
	}
	want := "example.org/a v1: LICENSE.txt\n=============================\n\nmay be used\n\nexample.org/a v1: NOTICE\n========================\n\nby somebody\n\n"
	if out.String() != want {
		t.Errorf("got %q", out.String())
	}
}

func TestWhatIsNoBinaryIsRefused(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "0")
	for _, args := range [][]string{nil, {"a", "b"}, {filepath.Join(t.TempDir(), "none")}, {"main.go"}} {
		var out strings.Builder
		if err := run(args, &out); err == nil || out.Len() > 0 {
			t.Errorf("%v: %v, and printed %q", args, err, out.String())
		}
	}
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
)

// licenceFile is the name of a file that says under what terms the rest may be
// used, or what must be said with it.
var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|copyright|notice|patents)([.-].*)?$`)

// writeLicences prints the licences of the Go library and of each module, as their
// terms want of whoever hands on a binary. A module without one is an error.
func writeLicences(out io.Writer, info *debug.BuildInfo) error {
	goRoot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env: %w", err)
	}
	if err := writeLicencesOf(out, "The Go standard library "+info.GoVersion, strings.TrimSpace(string(goRoot))); err != nil {
		return err
	}
	for _, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		name := module.Path + " " + module.Version
		dir, err := moduleDir(module)
		if err != nil {
			return err
		}
		if err := writeLicencesOf(out, name, dir); err != nil {
			return err
		}
	}
	return nil
}

// moduleDir is where the module's files are.
func moduleDir(m *debug.Module) (string, error) {
	answer, err := exec.Command("go", "mod", "download", "-json", m.Path+"@"+m.Version).Output()
	if err != nil {
		return "", fmt.Errorf("go mod download %s: %w", m.Path, err)
	}
	var found struct{ Dir string }
	if err := json.Unmarshal(answer, &found); err != nil {
		return "", fmt.Errorf("go mod download %s: %w", m.Path, err)
	}
	return found.Dir, nil
}

func writeLicencesOf(out io.Writer, name, dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	some := false
	for _, file := range files {
		if file.IsDir() || !licenceFile.MatchString(file.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, file.Name()))
		if err != nil {
			return err
		}
		heading := name + ": " + file.Name()
		if _, err := fmt.Fprintf(out, "%s\n%s\n\n%s\n\n", heading, strings.Repeat("=", len(heading)), strings.TrimSpace(string(text))); err != nil {
			return err
		}
		some = true
	}
	if !some {
		return errors.New(name + " has no licence in " + dir)
	}
	return nil
}

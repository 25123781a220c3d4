package aarptun_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// documents are the Markdown files of the house with their text.
func documents(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin" || d.Name() == "dist" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) == ".md" {
			text, err := os.ReadFile(path)
			found[path] = string(text)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatal("no documents found")
	}
	return found
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notSlug = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// TestDocumentsLeadSomewhere follows each link to a file of the house, and to a
// heading in it.
func TestDocumentsLeadSomewhere(t *testing.T) {
	all := documents(t)
	for path, text := range all {
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, ":") {
				continue // another host
			}
			to := path
			if target != "" {
				to = filepath.Join(filepath.Dir(path), target)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: the link %s leads nowhere: %v", path, match[1], err)
			} else if anchor != "" && !hasHeading(all[to], anchor) {
				t.Errorf("%s: the link %s leads to no heading", path, match[1])
			}
		}
	}
}

// hasHeading reports whether a heading has this anchor, as forges make it.
func hasHeading(text, anchor string) bool {
	for _, match := range heading.FindAllStringSubmatch(text, -1) {
		slug := notSlug.ReplaceAllString(strings.ToLower(match[1]), "")
		if strings.ReplaceAll(slug, " ", "-") == anchor {
			return true
		}
	}
	return false
}

// TestDecisionsHaveNumbersOfTheirOwn: each decision has one number, none is left
// out, and its heading has it too.
func TestDecisionsHaveNumbersOfTheirOwn(t *testing.T) {
	files, err := filepath.Glob("docs/adr/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, path := range files { // in order of their names
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		number, want := filepath.Base(path)[:4], i+1
		if strings.TrimLeft(number, "0") != strconv.Itoa(want) || !strings.HasPrefix(string(text), "# "+strconv.Itoa(want)+". ") {
			t.Errorf("%s is not number %d, or its heading says otherwise", path, want)
		}
	}
}

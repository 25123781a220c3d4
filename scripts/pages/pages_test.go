package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// commands is what `aarptun help --json` could print, with what is a sign of
// roff or Markdown in every place.
const commands = `{"name":"aarptun","use":"aarptun COMMAND","short":"Short","long":"Long.\n\n  as it is\n  .and this","example":"  aarptun x","flags":[],
"commands":[{"name":"aarptun x","use":"aarptun x [-p P] {A|B}","short":"Do x","long":".begins with a dot\n'and a quote, \\ and --flag-name\n\nNext <one> with a_b*c.","example":"  aarptun x -p 'a\\b'\n  .x",
"flags":[{"name":"pre-fix","shorthand":"p","value":"a|b","default":"a","usage":"one of a|b, as with --other"},{"name":"all","usage":"all"}],"commands":[]}],
"exit_codes":[{"code":64,"short":"wrong","meaning":"it is wrong"}]}`

func TestManualPages(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "reference.toml")
	if err := os.WriteFile(config, []byte("# What it is.\n#key = \"a\\b\"\n\n[table]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run([]string{"man", "-date", "86400", "-version", "1.2.3", "-config", config, dir}, strings.NewReader(commands), nil); err != nil {
		t.Fatal(err)
	}
	for name, wants := range map[string][]string{
		"aarptun.8": {
			`.TH AARPTUN 8 "1970-01-02" "aarptun 1.2.3" "aarptun manual"`, "aarptun \\- short\n", ".nf\nas it is\n\\&.and this\n.fi\n",
			".TP\n.BR aarptun\\-x (8)\nDo x.\n", ".TP\n.B 64\nWrong: it is wrong.\n", ".I /etc/aarptun/aarptun.toml\n",
		},
		"aarptun-x.8": {
			".TH AARPTUN\\-X 8 ", "\\fBaarptun x\\fR [\\fB\\-p\\fR P] {A|B}\n", "\n\\&.begins with a dot\n\\(aqand a quote, \\e and \\fB\\-\\-flag\\-name\\fR\n.PP\nNext ",
			".TP\n\\fB\\-p\\fR, \\fB\\-\\-pre\\-fix\\fR \\fIa|b\\fR\nOne of a|b, as with \\fB\\-\\-other\\fR (default a).\n", ".TP\n\\fB\\-\\-all\\fR\nAll.\n",
			".nf\naarptun x \\-p \\(aqa\\eb\\(aq\n\\&.x\n.fi\n", ".BR aarptun (8)",
		},
		"aarptun.toml.5": {".TH AARPTUN.TOML 5 ", ".nf\n# What it is.\n#key = \\(dqa\\eb\\(dq\n.sp\n[table]\n.fi\n"},
	} {
		page, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if !strings.Contains(string(page), want) {
				t.Errorf("%s lacks %q:\n%s", name, want, page)
			}
		}
	}
}

func TestMarkdown(t *testing.T) {
	var out strings.Builder
	if err := run([]string{"markdown"}, strings.NewReader(commands), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| [aarptun x](#aarptun-x) | Do x |", "| 64 | wrong | it is wrong |", "\n## aarptun x\n\nDo x.\n\n```\naarptun x [-p P] {A|B}\n```\n",
		"| `-p`, `--pre-fix a\\|b` | `a` | one of a\\|b, as with --other |", "| `--all` |  | all |", `Next &lt;one> with a\_b\*c.`, "```\nas it is\n.and this\n```",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it lacks %q:\n%s", want, out.String())
		}
	}
}

func TestWhatIsNotThereIsNotWritten(t *testing.T) {
	dir := t.TempDir()
	for _, wrong := range []struct {
		args []string
		in   string
	}{
		{nil, commands},
		{[]string{"pdf"}, commands},
		{[]string{"man", "-date", "yesterday", dir}, commands},
		{[]string{"man", "-date", "1", "-config", filepath.Join(dir, "none"), dir}, commands},
		{[]string{"man", "-date", "1", dir}, "{}"},
		{[]string{"man", "-date", "1", dir}, "usage: aarptun"},
	} {
		if err := run(wrong.args, strings.NewReader(wrong.in), &strings.Builder{}); err == nil {
			t.Errorf("%v of %.20q: no error", wrong.args, wrong.in)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

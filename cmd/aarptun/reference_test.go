package main

import (
	"bytes"
	"os"
	"os/exec"
	"testing"
)

// docs/reference/cli.md is of the commands as they are.
func TestReferenceIsOfTheCommands(t *testing.T) {
	root := newRoot()
	var help bytes.Buffer
	root.SetOut(&help)
	root.SetArgs([]string{"help", "--json"})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	pages := exec.Command("go", "run", "aarptun/scripts/pages", "markdown")
	pages.Stdin, pages.Stderr = &help, os.Stderr
	want, err := pages.Output()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/reference/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/reference/cli.md is not of these commands: run 'make reference' and commit what it writes")
	}
}

package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestMain makes the test binary the command, as the scripts type it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"aarptun": main})
}

func TestEveryCommandExplainsItself(t *testing.T) {
	root := newRoot()
	commands := append([]*cobra.Command{root, newHelp()}, root.Commands()...)
	for _, c := range root.Commands() {
		commands = append(commands, c.Commands()...)
	}
	if len(commands) < 10 {
		t.Fatalf("only %d commands", len(commands))
	}
	for _, c := range commands {
		if c.Long == "" || c.Short == "" || c.Example == "" {
			t.Errorf("%s: Short, Long and Example must all say something", c.Name())
		}
		for line := range strings.Lines(c.Long) {
			if len(line) > 81 {
				t.Errorf("%s: a line of its help has %d columns: %q", c.Name(), len(line), line)
			}
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			name, usage := pflag.UnquoteUsage(f)
			if usage == "" {
				t.Errorf("%s --%s is not explained", c.Name(), f.Name)
			}
			if slices.Contains([]string{"string", "strings", "int", "uint16", "duration", "stringArray"}, name) {
				t.Errorf("%s --%s %s: name what is to be given, not its type", c.Name(), f.Name, name)
			}
		})
	}
}

func TestHelpIsPrintedAndCallsExamplesSo(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"help"}, {"help", "run"}, {"run", "--help"}, {"flows", "-h"}, {}} {
		root := newRoot()
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetErr(&out)
		root.SetArgs(args)
		if err := root.Execute(); err != nil || !strings.Contains(out.String(), "Examples:") || !strings.Contains(out.String(), "--help") {
			t.Errorf("%v: %v: %s", args, err, out.String())
		}
	}
}

// The exit codes are a promise to scripts, made in two places.
func TestExitCodesAreDocumented(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for place, text := range map[string]string{"README.md": string(readme), "aarptun --help": newRoot().Long} {
		words := strings.Join(strings.Fields(text), " ")
		for _, exit := range exitMeanings {
			if promise := fmt.Sprintf("%d %s", exit.Code, exit.Short); !strings.Contains(words, promise) {
				t.Errorf("%s does not say %q", place, promise)
			}
		}
	}
}

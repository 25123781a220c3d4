// Pages makes the manual pages and the reference of the command line from what
// the commands say of themselves:
//
//	aarptun help --json | pages man [-date TIME] [-version VERSION] DIR
//	aarptun help --json | pages markdown
//
// man writes one page in section 8 for the program and one for each command,
// and with -config FILE a page in section 5 of that configuration file.
// markdown prints docs/reference/cli.md. Both depend on their input and flags
// alone, so that every build makes the same.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// command is one of the commands, as `aarptun help --json` tells of it.
type command struct {
	Name      string     `json:"name"`
	Use       string     `json:"use"`
	Short     string     `json:"short"`
	Long      string     `json:"long"`
	Example   string     `json:"example"`
	Flags     []option   `json:"flags"`
	Commands  []command  `json:"commands"`
	ExitCodes []exitCode `json:"exit_codes"`
}

// option is a flag; one without Value is a switch.
type option struct {
	Name      string `json:"name"`
	Shorthand string `json:"shorthand"`
	Value     string `json:"value"`
	Default   string `json:"default"`
	Usage     string `json:"usage"`
}

type exitCode struct {
	Code    int    `json:"code"`
	Short   string `json:"short"`
	Meaning string `json:"meaning"`
}

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "pages:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("say what to make: man DIR, or markdown")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	date := flags.String("date", os.Getenv("SOURCE_DATE_EPOCH"), "date of the pages, in `seconds` since 1970")
	version := flags.String("version", "", "`version` of the program")
	config := flags.String("config", "", "`file` with every key of the configuration, explained")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	root, err := read(in)
	if err != nil {
		return err
	}
	switch {
	case args[0] == "markdown" && flags.NArg() == 0:
		_, err := io.WriteString(out, markdown(root))
		return err
	case args[0] == "man" && flags.NArg() == 1:
		seconds, err := strconv.ParseInt(*date, 10, 64)
		if err != nil {
			return fmt.Errorf("-date %q: it must be seconds since 1970", *date)
		}
		m := manual{date: time.Unix(seconds, 0).UTC().Format(time.DateOnly), version: *version, root: root, hasConfig: *config != ""}
		return m.write(flags.Arg(0), *config)
	}
	return fmt.Errorf("%q: it is 'man DIR' or 'markdown'", args)
}

// read reads the commands and refuses what they cannot be.
func read(in io.Reader) (root command, err error) {
	decoder := json.NewDecoder(in)
	if err := decoder.Decode(&root); err != nil {
		return root, fmt.Errorf("standard input must be what 'aarptun help --json' prints: %w", err)
	}
	if root.Name == "" || len(root.Commands) == 0 || len(root.ExitCodes) == 0 {
		return root, errors.New("standard input has no commands or exit codes: give what 'aarptun help --json' prints")
	}
	return root, nil
}

// all returns the commands below c, each before those that belong to it.
func (c command) all() (list []command) {
	for _, sub := range c.Commands {
		list = append(list, sub)
		list = append(list, sub.all()...)
	}
	return list
}

func (m manual) write(dir, config string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	pages := map[string]string{pageName(m.root) + ".8": m.page(m.root)}
	for _, c := range m.root.all() {
		pages[pageName(c)+".8"] = m.page(c)
	}
	if config != "" {
		text, err := os.ReadFile(config)
		if err != nil {
			return err
		}
		pages["aarptun.toml.5"] = m.configPage(string(text))
	}
	for name, page := range pages {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(page), 0o644); err != nil {
			return err
		}
	}
	return nil
}

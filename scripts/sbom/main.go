// Sbom says what a binary is made of, which Go has written into it:
//
//	sbom [-version VERSION] BINARY           a bill of materials, CycloneDX 1.6 in JSON
//	sbom -licences BINARY                    the licences of all of it, to go with it
//
// Both are the same for the same binary, whenever and wherever they are made; the
// time in the bill is SOURCE_DATE_EPOCH.
package main

import (
	"debug/buildinfo"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("sbom", flag.ContinueOnError)
	version := flags.String("version", "", "`version` of the program")
	licences := flags.Bool("licences", false, "print the licences")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("name one binary")
	}
	path := flags.Arg(0)
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return err
	}
	if *licences {
		return writeLicences(out, info)
	}
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH must be seconds since 1970: %w", err)
	}
	return writeBill(out, path, *version, time.Unix(seconds, 0), info)
}

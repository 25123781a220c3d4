// Command bench measures what aarptun costs, beside the kernel alone and beside
// other translators, in the network that bench.sh builds.
//
// # Theory of operation
//
// run is the whole of it. In each repetition it takes the groups of rows one
// after the other, and within a group the variants, in an order that is rotated
// from repetition to repetition: what is compared was measured seconds apart,
// and no variant is always the first. Each variant's translator is started for
// its group, measured, and stopped; so none can trouble the next.
//
// A sample is taken by a child in the namespace of the client (load), which
// talks to one member in another (member). Both are the same for all variants.
// What counts is what the receiver says that it got. The child measures around
// the load alone: the wall clock, /proc/stat for the machine, and the CPU clock
// of the translator's process. A translator that used next to none cannot have
// carried the load, and the sample is an error instead of a figure.
//
// report renders the samples, which are kept as JSON: each figure is a median
// over the repetitions, and each ratio the median of the ratios to the direct
// variant of the same repetition.
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// commands are run by name with the rest of the command line and return the
// exit code.
var commands = map[string]func(args []string) (int, error){
	"run":    runCommand,
	"report": reportCommand,
	"load":   loadCommand,
	"pin":    pinCommand,
	"member": memberCommand,
	"relay":  relayCommand,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		var names []string
		for name := range commands {
			names = append(names, name)
		}
		slices.Sort(names)
		fmt.Fprintln(os.Stderr, "usage: bench COMMAND [FLAGS], COMMAND one of", strings.Join(names, ", "))
		os.Exit(64)
	}
	code, err := commands[os.Args[1]](os.Args[2:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench %s: %v\n", os.Args[1], err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// Command soak puts one aarptun under load for as long as is asked for, and
// says what became of each flow. Its parts run in the network that soak.sh and
// flood.sh build: run is the clients of a soak and whoever troubles them, flood
// is the clients and the measurement of a flood, and send is the flood.
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// commands are run by name with the rest of the command line.
var commands = map[string]func(args []string) error{
	"run":   run,
	"flood": floodWith,
	"send":  send,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		var names []string
		for name := range commands {
			names = append(names, name)
		}
		slices.Sort(names)
		fmt.Fprintln(os.Stderr, "usage: soak COMMAND [FLAGS], COMMAND one of", strings.Join(names, " "))
		os.Exit(64)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "soak %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

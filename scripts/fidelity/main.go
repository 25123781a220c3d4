// Command fidelity shows that a client cannot tell aarptun from the member it
// talks to: one client program, run once to UA with no aarptun in the way and
// once to AA through it, and what it saw compared.
//
// # Theory of operation
//
// A situation is a function with two ends: the client, in this process, and the
// member, in an agent in the member's namespace that does what it is told over
// a unix socket. So the order of what happens at the two ends is fixed by the
// function and not by time. What the client sees (results, errno, the error
// queue, data by their hash, who the peer is) and what the member sees is
// written down in words that are the same in both runs: UA and AA are both
// TARGET, the client's own address is SELF.
//
// Every situation has an AA, and a UA for each run, of its own; how the router
// treats that UA (a route that is unreachable, a smaller MTU, an ICMP error of
// any type and code) is the situation's path. So all of them can run at once,
// and those that change a route disturb nobody.
//
// docs/fidelity.md lists the differences that are meant. Any other fails, and
// so does a listed one that is no longer there.
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
	"plan":    plan,
	"agent":   serveAgent,
	"errors":  answerErrors,
	"client":  client,
	"compare": compare,
	"list":    list,
	"wire":    slowWire,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		names := []string{}
		for name := range commands {
			names = append(names, name)
		}
		slices.Sort(names)
		fmt.Fprintln(os.Stderr, "usage: fidelity COMMAND [FLAGS], COMMAND one of", strings.Join(names, ", "))
		os.Exit(64)
	}
	code, err := commands[os.Args[1]](os.Args[2:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "fidelity %s: %v\n", os.Args[1], err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// list prints the names of the situations that a regular expression matches.
func list(args []string) (int, error) {
	chosen, err := choose(strings.Join(args, " "))
	if err != nil {
		return 64, err
	}
	for _, s := range chosen {
		fmt.Println(s.name)
	}
	return 0, nil
}

// Command lab is every host of the end-to-end lab but the translator: the
// servers, the clients that check each byte, ping, the ear on the router's
// wire, the attackers off and on the path, systemd, who abuses a socket, and a
// kernel that lacks something. It needs nothing that a fresh machine has not.
package main

import (
	"errors"
	"fmt"
	"os"
	"sort"
	"syscall"
)

// commands are run by name with the rest of the command line.
var commands = map[string]func(args []string) error{
	"serve":     serve,
	"flows":     flows,
	"connect":   connect,
	"count":     count,
	"halfclose": halfClose,
	"udp":       udp,
	"ping":      ping,
	"wire":      wire,
	"stream":    stream,
	"forge":     forge,
	"intercept": intercept,
	"notify":    notify,
	"abuse":     abuse,
	"dns":       dns,
	"lookup":    lookup,
	"web":       web,
	"get":       get,
	"sink":      sink,
	"scatter":   scatter,

	"without-netfilter": withoutNetfilter,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		names := []string{}
		for name := range commands {
			names = append(names, name)
		}
		sort.Strings(names)
		fmt.Fprintln(os.Stderr, "usage: lab COMMAND [FLAGS], COMMAND one of", names)
		os.Exit(64)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "lab %s: %s%v\n", os.Args[1], errnoName(err), err)
		os.Exit(1)
	}
}

// errnoName names the errors that tests look for.
func errnoName(err error) string {
	for errno, name := range map[syscall.Errno]string{
		syscall.ECONNREFUSED: "ECONNREFUSED ", syscall.EHOSTUNREACH: "EHOSTUNREACH ", syscall.ENETUNREACH: "ENETUNREACH ",
		syscall.ECONNRESET: "ECONNRESET ", syscall.EACCES: "EACCES ",
	} {
		if errors.Is(err, errno) {
			return name
		}
	}
	if os.IsTimeout(err) {
		return "TIMEOUT "
	}
	return ""
}

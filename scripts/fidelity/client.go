package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
)

// seen is what one run saw of one situation.
type seen struct {
	Name    string  `json:"name"`
	Saw     string  `json:"saw"`
	Seconds float64 `json:"seconds"`
}

// client runs the situations and prints what it saw, a line of JSON for each.
func client(args []string) (int, error) {
	f := flag.NewFlagSet("client", flag.ExitOnError)
	to := f.String("to", "", "ua: direct; aa: through aarptun; control: direct, but as the second run")
	only := f.String("only", "", "situations whose name this regular expression matches")
	self := f.String("self", "", "own addresses with commas: IPv6, IPv6, IPv4, IPv4")
	tmp := f.String("tmp", os.TempDir(), "directory for sockets")
	atOnce := f.Int("at-once", 24, "how many situations run at the same time")
	_ = f.Parse(args) // exits on error
	m, known := map[string]mode{"ua": direct, "aa": through, "control": through}[*to]
	if !known {
		return 64, errors.New("--to wants ua, aa or control")
	}
	chosen, err := choose(*only)
	if err != nil {
		return 64, err
	}
	var own []netip.Addr
	for _, text := range strings.Split(*self, ",") {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return 64, err
		}
		own = append(own, a)
	}
	if len(own) != 4 {
		return 64, errors.New("--self wants four addresses")
	}
	members, err := startAgent("m1", *tmp+"/agent-"+m.letter())
	if err != nil {
		return 1, err
	}
	defer members.stop()
	return 0, printAll(playAll(chosen, m, *to == "aa", own, *tmp, members, *atOnce))
}

// choose returns the situations whose name the regular expression matches.
func choose(only string) (chosen []*situation, err error) {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return nil, err
	}
	for _, s := range situations() {
		if pattern.MatchString(s.name) {
			chosen = append(chosen, s)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no situation is called %q", only)
	}
	return chosen, nil
}

// playAll runs the situations, many at once: most of them wait most of the time.
func playAll(chosen []*situation, m mode, toAA bool, own []netip.Addr, tmp string, members *agentProcess, atOnce int) []seen {
	all := make([]seen, len(chosen))
	room := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, s := range chosen {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			begin := time.Now()
			sc := &scene{situation: s, mode: m, target: s.ua(m), self: own[2:], local: newTable(), tmp: tmp, members: members}
			if toAA {
				sc.target = s.aa()
			}
			if s.v6 {
				sc.self = own[:2]
			}
			all[i] = seen{s.name, sc.play(), time.Since(begin).Seconds()}
		})
	}
	wg.Wait()
	return all
}

func printAll(all []seen) error {
	out := json.NewEncoder(os.Stdout)
	for _, s := range all {
		if err := out.Encode(s); err != nil {
			return err
		}
	}
	return nil
}

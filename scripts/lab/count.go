package main

import (
	"bufio"
	"flag"
	"fmt"
	"net"
	"sort"
	"strings"
	"sync"
	"time"
)

// count opens many connections, a few at a time, and says how many of them each
// member took. One that fails is an error.
func count(args []string) error {
	f := flag.NewFlagSet("count", flag.ExitOnError)
	n := f.Int("n", 100, "number of connections")
	source := f.String("source", "", "address to connect from")
	timeout := f.Duration("timeout", 10*time.Second, "how long one may take")
	_ = f.Parse(args) // exits on error
	dialer := net.Dialer{Timeout: *timeout}
	if *source != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(*source)}
	}
	members := make([]string, *n)
	errs := make([]error, *n)
	var wg sync.WaitGroup
	turn := make(chan struct{}, 20)
	for i := range members {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			members[i], errs[i] = memberBehind(&dialer, f.Arg(0))
		})
	}
	wg.Wait()
	counts := map[string]int{}
	for i, m := range members {
		if errs[i] != nil {
			return errs[i]
		}
		counts[m]++
	}
	var words []string
	for m, n := range counts {
		words = append(words, fmt.Sprintf("%s=%d", m, n))
	}
	sort.Strings(words)
	fmt.Println(strings.Join(words, " "))
	return nil
}

func memberBehind(dialer *net.Dialer, to string) (string, error) {
	conn, err := dialer.Dial("tcp", to)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }() // only looked at
	return hello(conn, bufio.NewReader(conn), "count")
}

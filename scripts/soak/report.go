package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Memory is flat when the median of the last fifth of the run is no more than
// that of the second fifth, a tenth and a few MiB for what a garbage collector
// leaves lying about, and the price of each flow that there is more: a run must
// last for minutes before as many idle flows end as begin. A leak of 1 KiB a
// flow is over it within ten minutes.
const (
	growthPart  = 10
	growthBytes = 8 << 20
	flowBytes   = 48 << 10
)

// report prints what happened, one line for each thing that is asked for, and
// returns an error if any is not as it must be.
func (s *soak) report(before, after state, took time.Duration) error {
	var wrong []string
	check := func(ok bool, what string) {
		if !ok {
			wrong = append(wrong, what)
		}
	}
	t := s.tally
	counts := s.chaos.done
	for _, name := range sortedKeys(counts) {
		fmt.Printf("%s: %d times\n", name, counts[name])
	}
	fmt.Printf("route flips: %d\n", s.chaos.net.flips)
	fmt.Printf("admin socket polled: %d times status, flows and pins, each answer as it must be\n", s.watch.polls)
	fmt.Printf("flows started: %s\n", perProto(t.started))
	fmt.Printf("flows at one time: %d, with %d goroutines and %d open files\n", s.watch.most.NAT.Flows, s.watch.most.Goroutines, s.watch.most.OpenFiles)
	fmt.Printf("served to the end: %s; %d MB went and came back the same\n", perProto(t.ended[served]), t.bytes/1e6)
	fmt.Printf("never began while no member could be found or reached: %s\n", perProto(t.ended[refused]))
	fmt.Printf("ended because their own member died: %s\n", perProto(t.ended[died]))
	fmt.Printf("broken for any other reason: %s\n", perProto(t.ended[broken]))
	fmt.Printf("corrupt: %s\n", perProto(t.ended[corrupt]))
	fmt.Printf("datagrams and pings sent again: %d\n", s.resent.Load())
	for _, message := range t.messages {
		fmt.Println("  ", message)
	}
	check(sum(t.ended[broken]) == 0, "flows broke")
	check(sum(t.ended[corrupt]) == 0, "bytes were wrong")
	for _, proto := range []string{"tcp", "udp", "echo"} {
		check(t.ended[served][proto] > 0, "not one "+proto+" flow was served to its end")
	}
	fmt.Printf("before: %v\n", before)
	fmt.Printf("after:  %v, %v after the last flow\n", after, took.Round(time.Second))
	check(before == after, "the daemon is not as it was before")
	check(s.flat(), "memory grew")
	if len(wrong) > 0 {
		return fmt.Errorf("%s", strings.Join(wrong, ", "))
	}
	return nil
}

// flat prints the memory over time and reports whether it is flat.
func (s *soak) flat() bool {
	const points = 15
	var series []string
	for i := range points {
		part := s.watch.memory[len(s.watch.memory)*i/points : len(s.watch.memory)*(i+1)/points]
		series = append(series, fmt.Sprint(median(part)>>20))
	}
	fmt.Printf("resident memory over time, MiB: %s\n", strings.Join(series, " "))
	early, late := median(fifth(s.watch.memory, 1)), median(fifth(s.watch.memory, 4))
	fewer, more := median(fifth(s.watch.flows, 1)), median(fifth(s.watch.flows, 4))
	bound := early + early/growthPart + growthBytes + max(0, more-fewer)*flowBytes
	fmt.Printf("median of its second fifth %.1f MiB with %d flows, of its last %.1f with %d; it may be %.1f: %d%% and %d MiB more, and %d KiB a flow\n",
		mib(early), fewer, mib(late), more, mib(bound), 100/growthPart, growthBytes>>20, flowBytes>>10)
	return early > 0 && late <= bound
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

func perProto(counts map[string]int) string {
	return fmt.Sprintf("%d tcp, %d udp, %d echo", counts["tcp"], counts["udp"], counts["echo"])
}

func sum(counts map[string]int) (n int) {
	for _, count := range counts {
		n += count
	}
	return n
}

func sortedKeys(counts map[string]int) []string {
	var keys []string
	for key := range counts {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"aarptun/internal/admin"
)

// flood is one flood and what it is held against.
type flood struct {
	kind         string
	service      service
	count        int
	sources      int
	rate         int
	from         string
	gateway      string
	port         int
	calm         time.Duration // for which the speed without a flood is measured
	bound        int64         // of resident memory, bytes
	settle       time.Duration // after which all must be as before
	watch        *watch
	moved        atomic.Int64 // bytes of the established flows that came back
	most         int64        // resident bytes
	mostRoutines int
	mostFiles    int
}

const (
	// established is the number of flows that must not suffer.
	established = 20
	floodChunk  = 64 << 10
)

// floodWith is the clients of a flood, the flood itself, and the judgement.
func floodWith(args []string) error {
	f := flag.NewFlagSet("flood", flag.ExitOnError)
	fl := &flood{}
	f.StringVar(&fl.kind, "kind", "syn", "syn or udp")
	f.IntVar(&fl.count, "count", 1_000_000, "number of packets")
	f.IntVar(&fl.sources, "sources", 60_000, "number of source addresses")
	f.IntVar(&fl.rate, "rate", 50_000, "packets a second")
	f.StringVar(&fl.from, "from", "", "prefix of the forged sources")
	f.StringVar(&fl.gateway, "gateway", "", "MAC address that the flood is sent to")
	f.IntVar(&fl.port, "port", portTCP, "port that is flooded")
	f.DurationVar(&fl.calm, "calm", 5*time.Second, "how long the speed is measured before")
	f.DurationVar(&fl.settle, "settle", 3*time.Minute, "how long it may take until all is as before")
	bound := f.Int("bound", 1024, "MiB of resident memory that may be used")
	to := f.String("to", "", "AA of the flood and of the flows")
	ua := f.String("ua", "", "its member")
	socket := f.String("admin-socket", "/run/aarptun/admin.sock", "of the daemon")
	_ = f.Parse(args) // exits on error
	aa, err := netip.ParseAddr(*to)
	if err != nil {
		return err
	}
	uas, err := netip.ParseAddr(*ua)
	if err != nil {
		return err
	}
	fl.service, fl.bound = service{aa: aa}, int64(*bound)<<20
	fl.watch = newWatch(*socket, []netip.Addr{uas})
	return fl.run()
}

func (fl *flood) run() error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	before, status, err := fl.watch.now(ctx)
	if err != nil {
		return err
	}
	fl.most = status.ResidentBytes
	fmt.Printf("before: %v, %.1f MiB\n", before, mib(status.ResidentBytes))
	var flows sync.WaitGroup
	results := make(chan error, established)
	for i := range established {
		f := &flow{proto: "tcp", id: fmt.Sprintf("flood-%d", i), service: fl.service}
		flows.Go(func() { results <- fl.transfer(ctx, f) })
	}
	calm, during, err := fl.measure(ctx)
	stop()
	flows.Wait()
	close(results)
	for result := range results {
		err = errors.Join(err, result)
	}
	if err != nil {
		return err
	}
	return fl.judge(before, calm, during)
}

// transfer moves bytes as fast as it can, and wants each of them back.
func (fl *flood) transfer(ctx context.Context, f *flow) error {
	err := f.bulkTCP(ctx, floodChunk, func(n int) { fl.moved.Add(int64(n)) })
	if err != nil {
		return fmt.Errorf("established flow %s: %w", f.id, err)
	}
	return nil
}

// measure returns the speed without and with the flood, in bytes a second.
func (fl *flood) measure(ctx context.Context) (calm, during float64, err error) {
	time.Sleep(time.Second) // until they are under way
	calm = fl.speed(func() { time.Sleep(fl.calm) })
	watching, stop := context.WithCancel(ctx)
	watched := make(chan error, 1)
	go func() { watched <- fl.watchPeaks(watching) }()
	during = fl.speed(func() { err = fl.send() })
	stop()
	return calm, during, errors.Join(err, <-watched)
}

func (fl *flood) speed(while func()) float64 {
	began, had := time.Now(), fl.moved.Load()
	while()
	return float64(fl.moved.Load()-had) / time.Since(began).Seconds()
}

func (fl *flood) send() error {
	c := exec.Command("ip", "netns", "exec", "lan", os.Args[0], "send", "--kind", fl.kind,
		"--count", strconv.Itoa(fl.count), "--sources", strconv.Itoa(fl.sources), "--rate", strconv.Itoa(fl.rate),
		"--from", fl.from, "--gateway", fl.gateway, "--to", netip.AddrPortFrom(fl.service.aa, uint16(fl.port)).String())
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("the flood was not sent: %w", err)
	}
	return nil
}

// watchPeaks asks for the status all the time: it must be answered, flood or
// not.
func (fl *flood) watchPeaks(ctx context.Context) error {
	for ctx.Err() == nil {
		_, status, err := fl.watch.now(context.WithoutCancel(ctx))
		if err != nil {
			return fmt.Errorf("during the flood: %w", err)
		}
		fl.peak(status)
		time.Sleep(100 * time.Millisecond)
	}
	return nil
}

func (fl *flood) peak(status admin.Status) {
	fl.most = max(fl.most, status.ResidentBytes)
	fl.mostRoutines = max(fl.mostRoutines, status.Goroutines)
	fl.mostFiles = max(fl.mostFiles, status.OpenFiles)
	if status.NAT.Flows > fl.watch.most.NAT.Flows {
		fl.watch.most = status
	}
}

func (fl *flood) judge(before state, calm, during float64) error {
	after, took, err := fl.watch.settle(context.Background(), before, fl.settle)
	if err != nil {
		return err
	}
	_, status, err := fl.watch.now(context.Background())
	if err != nil {
		return err
	}
	fmt.Printf("established flows: %d, without the flood %.0f MB/s, with it %.0f MB/s: %.0f%%; at least 50%% is wanted\n",
		established, calm/1e6, during/1e6, 100*during/calm)
	fmt.Printf("most during the flood: %.1f MiB of %d that it may be, %d flows, %d goroutines, %d open files\n",
		mib(fl.most), fl.bound>>20, fl.watch.most.NAT.Flows, fl.mostRoutines, fl.mostFiles)
	fmt.Printf("refused: %v; stack: %v\n", status.NAT.Limited, status.Rooms["stack"])
	fmt.Printf("after:  %v, %.1f MiB, %v after the flood\n", after, mib(status.ResidentBytes), took.Round(time.Second))
	var wrong []string
	if during < calm/2 {
		wrong = append(wrong, "established flows suffered")
	}
	if fl.most > fl.bound {
		wrong = append(wrong, "memory is over the bound")
	}
	if after != before {
		wrong = append(wrong, "the daemon is not as it was before")
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, ", "))
	}
	return nil
}

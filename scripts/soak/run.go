package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// portDNS is where aarptun lets go of an idle UDP flow after 30 s, and not only
// after 300: so much sooner is everything as it was.
const portDNS = 53

// soak is one run.
type soak struct {
	services []service
	log      outages
	tally    *tally
	chaos    *chaos
	watch    *watch
	next     atomic.Uint64 // number of the next flow
	resent   atomic.Int64  // datagrams that had to be sent again
	limit    time.Duration
	longUDP  uint16 // port of the long UDP flows
}

func run(args []string) error {
	f := flag.NewFlagSet("run", flag.ExitOnError)
	limit := f.Duration("for", 10*time.Minute, "how long")
	socket := f.String("admin-socket", "/run/aarptun/admin.sock", "of the daemon")
	var m [3]member
	var probed, listed, steady addrs
	f.Var(&probed, "probed", "AA of the first two members, found by probe")
	f.Var(&listed, "listed", "AA of the first two members, in the daemon's configuration")
	f.Var(&steady, "steady", "AA of the third member, in the daemon's configuration; may be repeated")
	var uas addrs
	f.Var(&uas, "ua", "unicast address; first IPv6 of the three members, then IPv4")
	_ = f.Parse(args) // exits on error
	if len(probed) != 1 || len(listed) != 1 || len(steady) == 0 || len(uas) != 6 {
		return errors.New("wants 1 --probed, 1 --listed, --steady, and 6 --ua")
	}
	for i := range m {
		name := fmt.Sprintf("m%d", i+1)
		m[i] = member{name: name, ua: uas[i].String(), device: name}
		if i < 2 {
			m[i].joins = probed[0].String()
		}
	}
	s := &soak{tally: newTally(), watch: newWatch(*socket, uas), limit: *limit, longUDP: portTCP}
	if *limit < 5*time.Minute {
		s.longUDP = portDNS
	}
	both := []string{"m1", "m2"}
	s.services = []service{{aa: probed[0], members: both, probed: true}, {aa: listed[0], members: both}}
	for _, aa := range steady {
		s.services = append(s.services, service{aa: aa, members: []string{"m3"}})
	}
	s.chaos = &chaos{
		net:    &network{aa: probed[0].String(), members: []*member{&m[0], &m[1]}, down: map[string]bool{}},
		steady: &m[2], log: &s.log, aarptun: os.Getenv("AARPTUN"), lab: os.Getenv("LAB"), done: map[string]int{},
	}
	return s.run()
}

// addrs is a flag that may be repeated.
type addrs []netip.Addr

func (a *addrs) String() string { return fmt.Sprint(*a) }

// Set implements [flag.Value].
func (a *addrs) Set(s string) error {
	addr, err := netip.ParseAddr(s)
	*a = append(*a, addr)
	return err
}

func (s *soak) run() error {
	ctx := context.Background()
	before, _, err := s.watch.now(ctx)
	if err != nil {
		return err
	}
	if s.chaos.hold, err = openHoldUp(); err != nil {
		return err
	}
	if err := s.chaos.start(); err != nil {
		return err
	}
	fmt.Printf("soaking for %v\n", s.limit)
	trouble := s.load(ctx)
	after, took, err := s.watch.settle(ctx, before, s.idle())
	if err = errors.Join(trouble, err); err != nil {
		return err
	}
	return s.report(before, after, took)
}

// idle is how long a daemon may take to forget all flows: its longest timer, and
// a little.
func (s *soak) idle() time.Duration {
	if s.longUDP == portDNS {
		return 60*time.Second + 15*time.Second // echo
	}
	return 300*time.Second + 15*time.Second // UDP
}

// load runs the clients, and what troubles them, for as long as is asked for.
// It returns when every flow has ended.
func (s *soak) load(ctx context.Context) error {
	timed, stop := context.WithTimeout(ctx, s.limit)
	defer stop()
	// Whoever disturbs or watches ends all when it fails.
	errs := make(chan error, 3)
	var disturbing sync.WaitGroup
	for _, do := range []func(context.Context) error{
		s.watch.until, s.chaos.until,
		func(ctx context.Context) error { return s.chaos.net.flipUntil(ctx, 100*time.Millisecond) },
	} {
		disturbing.Go(func() {
			if err := do(timed); err != nil {
				errs <- err
				stop()
			}
		})
	}
	var flows sync.WaitGroup
	s.longFlows(timed, &flows)
	s.shortFlows(timed, &flows)
	disturbing.Wait()
	flows.Wait()
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// long is how many long flows there are of a kind to each service.
const (
	longTCP  = 60
	longUDP  = 15
	longEcho = 6
)

// longFlows go on for as long as their member lives, and then begin anew.
func (s *soak) longFlows(ctx context.Context, running *sync.WaitGroup) {
	for _, service := range s.services {
		for i := range longTCP {
			chunk, pause := 4<<10, 200*time.Millisecond
			if i == 0 {
				chunk, pause = 256<<10, 20*time.Millisecond
			}
			s.again(ctx, running, service, "tcp", func(f *flow) (int64, error) { return f.longTCP(ctx, chunk, pause) })
		}
		for range longUDP {
			s.again(ctx, running, service, "udp", func(f *flow) (int64, error) {
				return f.udp(ctx, s.longUDP, 1000, 0, 200*time.Millisecond, s.countResent)
			})
		}
		for range longEcho {
			s.again(ctx, running, service, "echo", func(f *flow) (int64, error) {
				return f.echo(ctx, 1000, 0, 200*time.Millisecond, s.countResent)
			})
		}
	}
}

func (s *soak) countResent(n int) { s.resent.Add(int64(n)) }

// again runs one flow after another until ctx ends.
func (s *soak) again(ctx context.Context, running *sync.WaitGroup, service service, proto string, serve func(*flow) (int64, error)) {
	running.Go(func() {
		for ctx.Err() == nil {
			if s.one(service, proto, serve) != served {
				time.Sleep(250 * time.Millisecond)
			}
		}
	})
}

// one runs one flow to its end, and judges it.
func (s *soak) one(service service, proto string, serve func(*flow) (int64, error)) verdict {
	f := &flow{proto: proto, id: fmt.Sprintf("%s-%d", proto, s.next.Add(1)), service: service, began: time.Now()}
	f.last = f.began
	s.tally.begin(proto)
	bytes, err := serve(f)
	v := f.judge(err, &s.log)
	s.tally.end(f, v, err, bytes)
	return v
}

// shortEvery is the time between two short flows; mostShort of them run at most.
const (
	shortEvery = 8 * time.Millisecond
	mostShort  = 1000
)

// shortFlows begins a short flow at each tick until ctx ends: of eleven, six by
// TCP, three by UDP, two pings.
func (s *soak) shortFlows(ctx context.Context, running *sync.WaitGroup) {
	room := make(chan struct{}, mostShort)
	tick := time.NewTicker(shortEvery)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		room <- struct{}{}
		running.Go(func() {
			defer func() { <-room }()
			s.short(ctx, i)
		})
	}
}

func (s *soak) short(ctx context.Context, i int) {
	service := s.services[rand.IntN(len(s.services))]
	pause := time.Duration(rand.IntN(50)) * time.Millisecond
	switch kind := i % 11; {
	case kind < 6:
		size := 1 << rand.IntN(18) // to 128 KiB, the small ones as often as the large
		size += rand.IntN(size)
		s.one(service, "tcp", func(f *flow) (int64, error) { return f.shortTCP(size, i%8 == 0) })
	case kind < 9:
		s.one(service, "udp", func(f *flow) (int64, error) {
			return f.udp(ctx, portDNS, 1+rand.IntN(3000), 1+rand.IntN(3), pause, s.countResent)
		})
	default:
		s.one(service, "echo", func(f *flow) (int64, error) {
			return f.echo(ctx, rand.IntN(3000), 1+rand.IntN(3), pause, s.countResent)
		})
	}
}

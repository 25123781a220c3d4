package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// errCarriedNothing is the error of a sample whose translator used less.
var errCarriedNothing = errors.New("carried nothing: it used no CPU")

// errCarriedItself is that of one that leaves the load to the kernel, and used more.
var errCarriedItself = errors.New("the kernel did not carry it: the translator's process used CPU")

// bench is one run.
type bench struct {
	*lab
	variants []variant
	groups   []group
	results  *results
	rounds   [][]group // each with one start of the translator
	wrong    []string  // what makes the run fail
}

func runCommand(args []string) (int, error) {
	flags := flag.NewFlagSet("run", flag.ExitOnError)
	reps := flags.Int("reps", 5, "repetitions")
	seconds := flags.Float64("seconds", 0, "of a sample")
	only := flags.String("only", "", "variants, comma between")
	rowNames := flags.String("rows", "", "groups of rows, comma between")
	quick := flags.Bool("quick", false, "a smoke test: the figures mean nothing")
	commit := flags.String("commit", "unknown", "that is measured")
	command := flags.String("command", "scripts/bench.sh", "to repeat it")
	out := outputFlags(flags)
	l := labFlags(flags)
	_ = flags.Parse(args) // it exits
	b := &bench{lab: l, results: &results{
		Date: time.Now().UTC().Format(time.DateOnly), Commit: *commit, Command: *command, Reps: *reps, Scale: fullScale,
	}}
	if *quick {
		b.results.Scale = quickScale
	}
	if *seconds > 0 {
		b.results.Scale.Seconds = *seconds
	}
	if b.results.Scale.Seconds > 60 || *reps < 1 || *reps > 100 {
		return 64, errors.New("--seconds is at most 60, --reps 1 to 100")
	}
	if err := b.choose(list(*only), list(*rowNames), *quick); err != nil {
		return 64, err
	}
	began := time.Now()
	if err := b.run(*quick); err != nil {
		return 1, err
	}
	b.results.Took = time.Since(began).Round(time.Second)
	if err := out.write(b.results); err != nil {
		return 1, err
	}
	for _, what := range b.wrong {
		fmt.Fprintln(os.Stderr, "wrong:", what)
	}
	if len(b.wrong) > 0 {
		return 1, errors.New("not all is as it must be")
	}
	return 0, nil
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// labFlags are what bench.sh says of the network.
func labFlags(flags *flag.FlagSet) *lab {
	l := &lab{aarptun: os.Getenv("AARPTUN"), tun2socks: os.Getenv("TUN2SOCKS")}
	flags.StringVar(&l.dir, "dir", "", "for logs")
	flags.TextVar(&l.aa, "aa", netip.Addr{}, "AA")
	flags.TextVar(&l.ua, "ua", netip.Addr{}, "its UA")
	flags.TextVar(&l.aa4, "aa4", netip.Addr{}, "AA, IPv4")
	flags.TextVar(&l.ua4, "ua4", netip.Addr{}, "its UA")
	flags.TextVar(&l.own, "sources", netip.Addr{}, "what the client's other addresses begin with")
	flags.StringVar(&l.prefix, "prefix", "", "anycast prefix")
	flags.StringVar(&l.prefix4, "prefix4", "", "anycast prefix, IPv4")
	return l
}

// choose fills in what is to be measured.
func (b *bench) choose(only, rowNames []string, quick bool) (err error) {
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.variants, b.results.LeftOut, err = b.lab.choose(only); err != nil {
		return err
	}
	for _, out := range b.results.LeftOut {
		fmt.Fprintf(os.Stderr, "%s is left out: %s\n", out.Name, out.Why)
	}
	for _, v := range b.variants {
		b.results.Variants = append(b.results.Variants, shown{v.name, v.what, v.peer})
	}
	for _, name := range rowNames {
		if !slices.ContainsFunc(groups, func(g group) bool { return g.name == name }) {
			return fmt.Errorf("there are no rows %q: there are %s", name, strings.Join(groupNames(), ", "))
		}
	}
	for _, g := range groups {
		if len(rowNames) > 0 && !slices.Contains(rowNames, g.name) || len(rowNames) == 0 && quick && g.notQuick {
			continue
		}
		b.groups = append(b.groups, g)
		if quick && !g.alone && len(b.rounds) > 0 {
			b.rounds[0] = append(b.rounds[0], g) // one start for all that can share it
		} else {
			b.rounds = append(b.rounds, []group{g})
		}
	}
	return nil
}

func groupNames() (names []string) {
	for _, g := range groups {
		names = append(names, g.name)
	}
	return names
}

// run takes all samples.
func (b *bench) run(quick bool) (err error) {
	if b.results.Machine, err = describeMachine(); err != nil {
		return err
	}
	b.results.Settings = b.settings()
	stop, err := b.startMember()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	for rep := 1; rep <= b.results.Reps; rep++ {
		for _, round := range b.rounds {
			for n := range b.variants {
				v := b.variants[(n+rep-1)%len(b.variants)]
				if err := b.measure(rep, v, round); err != nil {
					return err
				}
			}
		}
	}
	if quick {
		return b.mustBeFoundOut()
	}
	return nil
}

// measure starts a variant, takes its samples of a round, and stops it. A variant
// that does not start has an error in each of its rows.
func (b *bench) measure(rep int, v variant, round []group) error {
	var todo []group
	for _, g := range round {
		if g.fits(v) && (!g.once || rep == 1 && v.name != "aarptun-gso-off") {
			todo = append(todo, g)
		}
	}
	if len(todo) == 0 {
		return nil
	}
	started, err := v.start(b.lab)
	for _, g := range todo {
		for _, r := range g.rows {
			s := sample{Rep: rep, Variant: v.name, Row: r.name}
			if err == nil {
				b.take(&s, v, started, g, r.ask(b.results.Scale, b.target(v)))
			} else {
				s.Error = "it did not start: " + strings.Join(strings.Fields(err.Error()), " ")
			}
			b.record(s, v, r)
		}
	}
	if err != nil {
		return nil //nolint:nilerr // it is in the samples
	}
	return started.stop()
}

func (b *bench) target(v variant) target {
	t := target{ip6: b.aa, ip4: b.aa4, fresh: b.fresh(), several: b.several(), sources: b.sources()}
	if v.toUA {
		t.ip6, t.ip4 = b.ua, b.ua4
	}
	if v.inner {
		t.sources = nil // its namespace has one address
	}
	return t
}

// take has a child put the load on.
func (b *bench) take(s *sample, v variant, started *running, g group, r request) {
	netns := "client"
	if v.inner {
		netns = "inner"
	}
	if g.name == "lan" {
		netns = "lan"
	}
	r.PID = started.pid
	a, err := b.load(netns, r)
	if err == nil && a.Error == "" {
		switch carried := a.Usage.carried(); {
		case v.process && !carried:
			err = errCarriedNothing
		case v.kernel && carried:
			err = errCarriedItself
		}
	}
	if err != nil {
		a.Error = err.Error()
	}
	s.Remark = a.Remark
	s.Values, s.Usage, s.Error = a.Values, a.Usage, strings.Join(strings.Fields(a.Error), " ")
	if s.Error != "" {
		s.Values = nil // no figure
	}
}

// load runs a child that ends, whatever happens.
func (b *bench) load(netns string, r request) (a answer, err error) {
	text, err := json.Marshal(r)
	if err != nil {
		return a, err
	}
	limit := 3*r.duration() + 2*r.settle() + time.Minute + time.Duration(r.Flows)*4*time.Millisecond
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c := exec.CommandContext(ctx, "ip", "netns", "exec", netns, b.self, "load", string(text))
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	if ctx.Err() != nil {
		return a, fmt.Errorf("the load did not end within %v", limit)
	}
	if err != nil {
		return a, fmt.Errorf("the load: %w: %s", err, strings.TrimSpace(errs.String()))
	}
	return a, json.Unmarshal(out, &a)
}

// record keeps a sample and says what it is. Only an error of a peer that did
// carry something is no fault of the run.
func (b *bench) record(s sample, v variant, r row) {
	b.results.Samples = append(b.results.Samples, s)
	line := fmt.Sprintf("%d/%d %-16s %-16s", s.Rep, b.results.Reps, s.Variant, s.Row)
	if s.Error != "" {
		fmt.Fprintln(os.Stderr, line, "error:", s.Error)
		if !v.peer || s.Error == errCarriedNothing.Error() {
			b.wrong = append(b.wrong, fmt.Sprintf("%s, %s: %s", s.Variant, s.Row, s.Error))
		}
		return
	}
	for _, m := range r.metrics {
		line += fmt.Sprintf("  %s %s", m.key, number(s.Values[m.key], m.digits))
	}
	if s.Remark != "" {
		line += "  " + s.Remark
	}
	fmt.Fprintln(os.Stderr, line)
}

// mustBeFoundOut has a load go past a translator, and through one that should have
// left it to the kernel, which must be errors: else no figure of this run could be
// believed.
func (b *bench) mustBeFoundOut() error {
	for _, v := range b.variants {
		if !v.resolves {
			continue
		}
		started, err := v.start(b.lab)
		if err != nil {
			return err
		}
		found := func(what string, v variant, want error) {
			var s sample
			b.take(&s, v, started, groups[0], groups[0].rows[0].ask(b.results.Scale, b.target(v)))
			if s.Error != want.Error() {
				b.wrong = append(b.wrong, fmt.Sprintf("a load that went %s %s was not found out: %q", what, v.name, s.Error))
			}
		}
		past, through := v, v
		past.toUA = true
		found("past", past, errCarriedNothing)
		through.process, through.kernel = false, true
		found("through", through, errCarriedItself)
		return started.stop()
	}
	return nil
}

// settings are those of the kernel that matter to many flows, as they are.
func (b *bench) settings() (found []string) {
	for _, name := range []string{"fs.nr_open", "fs.file-max"} {
		text, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
		if err == nil {
			found = append(found, name+" = "+strings.Join(strings.Fields(string(text)), " "))
		}
	}
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) == nil {
		found = append(found, fmt.Sprintf("ulimit -n = %d", files.Max))
	}
	out, err := exec.Command("ip", "netns", "exec", "client", "sysctl", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_tw_reuse").Output()
	if err == nil {
		for line := range strings.Lines(string(out)) {
			found = append(found, strings.Join(strings.Fields(line), " ")+" (client)")
		}
	}
	return found
}

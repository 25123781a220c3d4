package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"aarptun/internal/config"
	"aarptun/resolver"
	"aarptun/resolver/member"
	"aarptun/resolver/ping"
)

// resolution is one answer of `aarptun resolve`.
type resolution struct {
	Anycast    netip.Addr `json:"anycast"`
	Member     netip.Addr `json:"member"`
	Method     string     `json:"method"`
	Trust      string     `json:"trust"`
	SelfAnswer bool       `json:"self_answer"`
	RTT        int64      `json:"rtt_us"` // microseconds, of the last answer
	TTL        int64      `json:"ttl_ms"` // milliseconds that `run` would keep it
	Seen       int        `json:"seen"`   // answers that named this member
}

// asking is what the flags of resolve say.
type asking struct {
	verbose, json bool
	methods       bool // --explain
	count         int
	timeout       time.Duration
	mark          uint32
	members       []netip.Prefix
	stunPort      uint16
	pskFile       string
	public        config.PerPrefix[[]ed25519.PublicKey]
}

func newResolve() *cobra.Command {
	a := asking{mark: config.Default().Mark, stunPort: config.Default().STUNPort}
	cmd := &cobra.Command{
		Use:   "resolve AA",
		Short: "Ask which member stands behind an anycast address",
		Long: `Resolve asks the anycast address AA by probe, by echo request and by STUN side
by side, and prints the unicast address of the member that answers, alone on
standard output. It needs no running daemon. With --psk-file or --pubkey it
believes only answers with that proof.

It needs CAP_NET_RAW, or a group inside net.ipv4.ping_group_range. Where a
daemon runs on the same host, run it as root too: its probes then carry the mark
that bypasses the TUN.

Exit code 69 says that nobody answered whose answer could be used.`,
		Example: `  ssh "$(aarptun resolve 2001:db8:aa::1)"
  aarptun resolve -v 2001:db8:aa::1
  aarptun resolve --explain 2001:db8:aa::1
  aarptun resolve --pubkey "$(cat member.pub)" 192.0.2.1
  aarptun resolve -n 20 2001:db8:aa::1    # which members are seen from here?`,
		Args: oneArg("an anycast address"),
		RunE: func(c *cobra.Command, args []string) error {
			aa, err := config.ParseAnycast(args[0])
			if err != nil {
				return err
			}
			if a.count < 1 || a.count > 10000 {
				return usagef(c, "--count %d: it must be 1 to 10000", a.count)
			}
			if a.timeout < time.Millisecond || a.timeout > time.Minute {
				return usagef(c, "--timeout %v: it must be 1ms to 1m", a.timeout)
			}
			found, err := a.ask(c, aa)
			if err != nil {
				return a.explain(err, aa)
			}
			return a.print(c.OutOrStdout(), found)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&a.verbose, "verbose", "v", false, "say how the answer was found")
	f.BoolVar(&a.methods, "explain", false, "ask by every method, and say what each answered and which one is used")
	f.BoolVar(&a.json, "json", false, "print JSON, one object a member")
	f.IntVarP(&a.count, "count", "n", 1, "ask so many `TIMES`, 1 to 10000, and list the members seen")
	f.DurationVar(&a.timeout, "timeout", 2*time.Second, "`TIME` to wait for an answer, 1ms to 1m")
	f.Var(config.Mark(&a.mark), "fwmark", "mark of the probes, which bypass a running daemon's TUN")
	f.Var(config.Prefixes(&a.members), "member-prefix", "believe only members in this prefix; may be repeated")
	f.StringVar(&a.pskFile, "psk-file", "", "`FILE` of the shared keys; believe only answers that show its first one")
	f.Var(config.PublicKeys(&a.public), "pubkey", "public key of a member; believe only answers signed with one of them; may be repeated")
	f.Uint16Var(&a.stunPort, "stun-port", a.stunPort, "UDP `PORT` of the members' responders; 0 does not ask them")
	return cmd
}

// explain adds what to do about it.
func (a *asking) explain(err error, aa netip.Addr) error {
	switch {
	case errors.Is(err, resolver.ErrNoAnswer):
		return fmt.Errorf("%w: see that there is a route ('ip route get %v') and that a member has joined it ('aarptun member --help')", err, aa)
	case !a.verbose && (errors.Is(err, resolver.ErrUntrusted) || errors.Is(err, resolver.ErrSelfAnswer)):
		return fmt.Errorf("%w: 'aarptun resolve -v %v' says which answer was refused, and why", err, aa)
	}
	return err
}

// ask returns the members that answered, in the order in which they were seen.
func (a *asking) ask(c *cobra.Command, aa netip.Addr) (found []*resolution, err error) {
	err = a.with(c, aa, func(ctx context.Context, r *resolver.Resolver) (err error) {
		if a.methods {
			return a.printExplained(ctx, c.OutOrStdout(), r, aa)
		}
		found, err = a.collect(ctx, r, aa)
		return err
	})
	return found, err
}

// with runs do with a resolver that asks aa as the flags say.
func (a *asking) with(c *cobra.Command, aa netip.Addr, do func(context.Context, *resolver.Resolver) error) (err error) {
	policy, ring, err := a.policy(aa)
	if err != nil {
		return err
	}
	echo, err := openMarked(a, c.ErrOrStderr(), func(mark uint32) (*ping.Socket, error) { return ping.Open(ping.Config{Mark: mark}) })
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(c.Context())
	running := []<-chan error{start(ctx, echo.Run)}
	defer func() {
		cancel()
		for _, r := range running {
			err = errors.Join(err, <-r)
		}
	}()
	log := a.log(c.ErrOrStderr())
	probers := []resolver.Prober{resolver.NewICMP(echo)}
	if a.stunPort != 0 {
		stun, err := openMarked(a, io.Discard, func(mark uint32) (*member.Prober, error) {
			return member.OpenProber(member.ProberConfig{Mark: mark, Port: a.stunPort, Rings: []member.Keyring{ring}, Log: log})
		})
		if err != nil {
			return err
		}
		running = append(running, start(ctx, stun.Run))
		probers = append(probers, resolver.NewSTUN(stun))
	}
	r, err := resolver.New(resolver.Config{Policies: []resolver.Policy{policy}, Probers: probers, ProbeTimeout: a.timeout, Log: log})
	if err != nil {
		return err
	}
	defer r.Close()
	return do(ctx, r)
}

// start runs something that says on the channel how it ended.
func start(ctx context.Context, run func(context.Context) error) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	return ended
}

func (a *asking) log(stderr io.Writer) *slog.Logger {
	level := slog.LevelError
	if a.verbose {
		level = slog.LevelWarn
	}
	return slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
}

// policy is what the flags say about AA, and the keys for it.
func (a *asking) policy(aa netip.Addr) (p resolver.Policy, ring member.Keyring, err error) {
	p = resolver.Policy{Prefix: netip.PrefixFrom(aa, aa.BitLen()), Members: a.members}
	ring = member.Keyring{Prefix: p.Prefix}
	if a.pskFile != "" {
		p.Proof = resolver.PSK
		if ring.PSKs, err = member.ReadPSKs(a.pskFile); err != nil {
			return p, ring, err
		}
	}
	for prefix, keys := range a.public {
		if prefix == config.AllPrefixes || prefix.Contains(aa) {
			p.Proof = resolver.Ed25519
			ring.Public = append(ring.Public, keys...)
		}
	}
	if p.Proof != 0 && a.stunPort == 0 {
		return p, ring, usageError{errors.New("a key is given, and --stun-port 0 asks nobody for a proof: take one of them away")}
	}
	return p, ring, nil
}

// openMarked opens sockets for probes, without the mark if that is not
// permitted.
func openMarked[S any](a *asking, stderr io.Writer, open func(mark uint32) (S, error)) (S, error) {
	sockets, err := open(a.mark)
	if err == nil || !errors.Is(err, os.ErrPermission) {
		return sockets, err
	}
	sockets, plainErr := open(0)
	if plainErr == nil && a.verbose {
		fmt.Fprintln(stderr, "aarptun: the probes cannot be marked without CAP_NET_ADMIN: where a daemon runs, it is asked instead of the network")
	}
	return sockets, plainErr
}

func (a *asking) collect(ctx context.Context, r *resolver.Resolver, aa netip.Addr) ([]*resolution, error) {
	var found []*resolution
	var last error
	for range a.count {
		pin, err := r.Lookup(ctx, aa)
		r.Flush(aa)
		if err != nil {
			last = err
			if ctx.Err() != nil {
				break
			}
			continue
		}
		found = record(found, pin)
	}
	if len(found) == 0 {
		return nil, last
	}
	return found, nil
}

func record(found []*resolution, pin resolver.Pin) []*resolution {
	var entry *resolution
	for _, f := range found {
		if f.Member == pin.Member {
			entry = f
		}
	}
	if entry == nil {
		entry = &resolution{Anycast: pin.Anycast, Member: pin.Member, Method: pin.Method, Trust: pin.Trust.String(), SelfAnswer: pin.SelfAnswer}
		found = append(found, entry)
	}
	entry.RTT, entry.TTL = pin.RTT.Microseconds(), pin.Expires.Sub(pin.Learned).Milliseconds()
	entry.Seen++
	return found
}

func (a *asking) print(w io.Writer, found []*resolution) error {
	for _, f := range found {
		var err error
		switch {
		case a.json:
			err = printJSON(w, f)
		case a.verbose:
			self := ""
			if f.SelfAnswer {
				self = ", it answered from itself: no anycast address, or a member has it on its loopback"
			}
			_, err = fmt.Fprintf(w, "%v by %s, trust %s, RTT %v, TTL %v, seen %d of %d%s\n", f.Member, f.Method, f.Trust,
				time.Duration(f.RTT)*time.Microsecond, time.Duration(f.TTL)*time.Millisecond, f.Seen, a.count, self)
		case a.count > 1:
			_, err = fmt.Fprintf(w, "%v %d\n", f.Member, f.Seen)
		default:
			_, err = fmt.Fprintln(w, f.Member)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"aarptun/internal/admin"
	"aarptun/internal/config"
	"aarptun/nat"
)

// look is what the commands that ask a running daemon share.
type look struct {
	cfg    config.Config // its AdminSocket is what is used
	json   bool
	filter filter // of flows
}

// newLook adds its flags to c.
func newLook(c *cobra.Command) *look {
	l := &look{cfg: config.Default()}
	c.Args = noArgs
	c.PreRunE = func(*cobra.Command, []string) error { return l.cfg.ValidatePaths() }
	c.Flags().StringVar(&l.cfg.AdminSocket, "admin-socket", l.cfg.AdminSocket, "`PATH` of the daemon's unix socket")
	c.Flags().BoolVar(&l.json, "json", false, "print JSON")
	return l
}

func (l *look) client() *admin.Client { return admin.NewClient(l.cfg.AdminSocket) }

// spaced lists prefixes for people.
func spaced(prefixes []netip.Prefix) string { return strings.Trim(fmt.Sprint(prefixes), "[]") }

func newStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how a running daemon is",
		Long: `Status shows the device, the prefixes and the counters of the daemon that
listens on the admin socket, and what its process holds. Counters that are zero
are left out; --json has them all. What is shown under "refused" or "limited"
was not carried.

Exit code 69 says that no daemon answers.`,
		Example: `  aarptun status
  aarptun status --json`,
	}
	l := newLook(cmd)
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		s, err := l.client().Status(c.Context())
		if err != nil {
			return err
		}
		if l.json {
			return printJSON(c.OutOrStdout(), s)
		}
		return printStatus(c.OutOrStdout(), s)
	}
	return cmd
}

func newFlows() *cobra.Command {
	var watch bool
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "List the flows and the member each is with",
		Long: `Flows lists the flows, oldest first: who talks to which anycast address, and the
member that the flow is with for its whole life. OUT is what the client has
sent, IN what the member has, both in bytes of payload. --client and --anycast
leave out all other flows, also from --json.

With run --offload there is a column PATH: nft marks a flow that the kernel
carries. Of those it says when they began, and how much they carried, headers
included, only where the sysctls net.netfilter.nf_conntrack_timestamp and
nf_conntrack_acct are 1.

With --watch the list is drawn again and again until Ctrl-C, or until the daemon
ends (exit code 69).`,
		Example: `  aarptun flows
  aarptun flows --watch --interval 5s
  aarptun flows --client 192.0.2.7 --anycast 2001:db8:aa::/64
  aarptun flows --json`,
	}
	l := newLook(cmd)
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		if every < 100*time.Millisecond || every > time.Hour {
			return usagef(c, "--interval %v: it must be 100ms to 1h", every)
		}
		if watch {
			return l.watch(c.Context(), c.OutOrStdout(), every)
		}
		return l.flows(c.Context(), c.OutOrStdout())
	}
	l.filter.addFlags(cmd.Flags())
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show again and again until Ctrl-C; with --json one object a line")
	cmd.Flags().DurationVar(&every, "interval", time.Second, "`TIME` between two lists with --watch, 100ms to 1h")
	return cmd
}

func newPins() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pins",
		Short: "List which member each anycast address is resolved to",
		Long: `Pins lists the answers in the cache: new flows to AA go to UA until the TTL has
run out. Flows that exist keep their own member whatever happens to the pin.
With --sticky source there is a line for each client, with --sticky flow one for
each member in turn. "stale" in place of the TTL marks a pin that is past its
time and is used while nobody answers.
"(itself)" marks an address that answered from itself: its flows are carried on
to it, and no member keeps them.

With --flush the daemon forgets the pins of an address, or all: the next flow to
it looks for a member anew. Flows that exist stay where they are, unless --cut
ends those that the kernel carries (run --offload): it forgets to which member
they belong, and their clients are reset when they next send. What was done is
printed.`,
		Example: `  aarptun pins
  aarptun pins --json
  aarptun pins --flush 2001:db8:aa::1
  aarptun pins --flush --cut`,
	}
	l := newLook(cmd)
	var flush, cut bool
	cmd.Use = "pins [--flush [AA]]"
	cmd.Args = argsOfPins(&flush)
	cmd.Flags().BoolVar(&flush, "flush", false, "forget the pins of AA, or all")
	cmd.Flags().BoolVar(&cut, "cut", false, "with --flush: also end the flows to it that the kernel carries")
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if flush {
			return l.flush(c, args, cut)
		}
		if cut {
			return usagef(c, "--cut without --flush: there is nothing to forget")
		}
		pins, err := l.client().Pins(c.Context())
		if err != nil {
			return err
		}
		if l.json {
			return printJSON(c.OutOrStdout(), pins)
		}
		return printPins(c.OutOrStdout(), pins)
	}
	return cmd
}

// argsOfPins lets --flush be followed by an address.
func argsOfPins(flush *bool) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if !*flush || len(args) == 0 {
			return noArgs(c, args)
		}
		if _, err := netip.ParseAddr(args[0]); err != nil || len(args) > 1 {
			return usagef(c, "pins --flush takes one anycast address, or none for all, not %q", strings.Join(args, " "))
		}
		return nil
	}
}

// flush has pins forgotten, and says how many.
func (l *look) flush(c *cobra.Command, args []string, cut bool) error {
	var aa netip.Addr
	if len(args) > 0 {
		aa = netip.MustParseAddr(args[0]) // argsOfPins has seen it
	}
	flushed, err := l.client().Flush(c.Context(), aa, cut)
	if err != nil {
		return err
	}
	if l.json {
		return printJSON(c.OutOrStdout(), flushed)
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "%d pins forgotten, %d flows cut\n", flushed.Pins, flushed.Cut)
	return err
}

// flows shows the flows once.
func (l *look) flows(ctx context.Context, w io.Writer) error {
	flows, err := l.client().Flows(ctx)
	if err != nil {
		return err
	}
	flows.Flows = l.filter.of(flows.Flows)
	if l.json {
		return printJSON(w, flows)
	}
	return printFlows(w, flows)
}

// clearScreen is cursor home, erase display (ECMA-48, CUP and ED).
const clearScreen = "\x1b[H\x1b[2J"

// watch shows the flows until ctx ends, which is no error: that is how one
// stops it. A list is drawn only when it is there, so that the last one stays
// to be read when the daemon has ended.
func (l *look) watch(ctx context.Context, w io.Writer, every time.Duration) error {
	before, between := "", "\n"
	switch {
	case l.json:
		between = ""
	case isTerminal(w):
		before, between = clearScreen, clearScreen
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		var list bytes.Buffer
		list.WriteString(before)
		if err := l.flows(ctx, &list); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if _, err := list.WriteTo(w); err != nil {
			return err
		}
		before = between
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// isTerminal reports whether w is shown to somebody at once.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func printJSON(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

func printFlows(w io.Writer, flows admin.Flows) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	head := "ID\tPROTO\tCLIENT\tANYCAST\tMEMBER\tSTATE\tAGE\tIDLE\tOUT\tIN"
	paths := slices.ContainsFunc(flows.Flows, func(f nat.FlowInfo) bool { return f.Path != nat.PathTUN })
	if paths {
		head += "\tPATH"
	}
	fmt.Fprintln(t, head)
	for _, f := range flows.Flows {
		age, idle, out, in := roundSeconds(time.Since(f.Started)).String(), roundSeconds(time.Since(f.Active)).String(), bytesText(f.Sent), bytesText(f.Got)
		if f.Started.IsZero() {
			age, idle = "-", "-" // the kernel does not note it
		}
		if f.Path != nat.PathTUN && f.Sent+f.Got == 0 {
			out, in = "-", "-" // nor count
		}
		fmt.Fprintf(t, "%d\t%v\t%v\t%v\t%v\t%v\t%v\t%v\t%s\t%s", f.ID, f.Proto, f.Client, f.Anycast, addrOrDash(f.Member), f.State, age, idle, out, in)
		if paths {
			fmt.Fprintf(t, "\t%s", f.Path)
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

func printPins(w io.Writer, pins admin.Pins) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	bySource := slices.ContainsFunc(pins.Pins, func(p admin.Pin) bool { return p.Client.IsValid() })
	head := "ANYCAST\tMEMBER\tMETHOD\tTRUST\tRTT\tTTL"
	if bySource {
		head = "CLIENT\t" + head
	}
	fmt.Fprintln(t, head)
	for _, p := range pins.Pins {
		member := p.Member.String()
		if p.SelfAnswer {
			member += " (itself)"
		}
		rtt := "-" // nothing was measured
		if p.RTT > 0 {
			rtt = (time.Duration(p.RTT) * time.Microsecond).String()
		}
		ttl := roundSeconds(time.Duration(p.TTL) * time.Millisecond).String()
		if p.Stale {
			ttl = "stale"
		}
		if bySource {
			fmt.Fprintf(t, "%s\t", addrOrDash(p.Client))
		}
		fmt.Fprintf(t, "%v\t%s\t%s\t%s\t%s\t%s\n", p.Anycast, member, p.Method, p.Trust, rtt, ttl)
	}
	return t.Flush()
}

func printStatus(w io.Writer, s admin.Status) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "version\t%s\n", s.Version)
	fmt.Fprintf(t, "pid\t%d\n", s.PID)
	fmt.Fprintf(t, "up\t%v\n", roundSeconds(time.Since(s.Started)))
	fmt.Fprintf(t, "device\t%s, MTU %d\n", s.Device, s.MTU)
	fmt.Fprintf(t, "prefixes\t%s\n", spaced(s.Prefixes))
	printConfig(t, s.Config)
	fmt.Fprintf(t, "process\t%s, %s open files, %s goroutines\n", residentText(s.ResidentBytes), countText(s.OpenFiles), countText(s.Goroutines))
	fmt.Fprintf(t, "flows\t%d of at most %d: %d tcp, %d udp, %d echo; %d not yet answered\n",
		s.NAT.Flows, s.NAT.Most, s.NAT.TCP, s.NAT.UDP, s.NAT.Echo, s.NAT.Opening)
	if s.NAT.ClientsAtLimit > 0 {
		fmt.Fprintf(t, "clients\t%d at the limit of flows for one\n", s.NAT.ClientsAtLimit)
	}
	if s.PreserveSource {
		fmt.Fprintln(t, "source\tpreserved: members see the clients' own addresses")
	}
	fmt.Fprintf(t, "pins\t%d\n", s.Resolver.Pins)
	counters, resolved := s.NAT, s.Resolver
	counters.Flows, counters.Opening, counters.TCP, counters.UDP, counters.Echo, counters.Most, counters.ClientsAtLimit, resolved.Pins = 0, 0, 0, 0, 0, 0, 0, 0 // they are above
	rooms := []struct {
		name  string
		stats any
	}{{"nat", counters}, {"resolver", resolved}, {"ping", s.Rooms["ping"]}, {"stun", s.Rooms["stun"]}, {"stack", s.Rooms["stack"]}, {"tun", s.Rooms["tun"]}, {"nft", s.Rooms["nft"]}, {"capture", s.Rooms["capture"]}}
	for _, room := range rooms {
		if err := printCounters(t, room.name, room.stats); err != nil {
			return err
		}
	}
	return t.Flush()
}

func printConfig(w io.Writer, c admin.ConfigStatus) {
	if len(c.Passing) > 0 {
		fmt.Fprintf(w, "passing\t%s: not carried any more, led here while they have flows\n", spaced(c.Passing))
	}
	fmt.Fprintf(w, "config\t%s, read %v ago\n", cmp.Or(c.File, "of flags and variables"), roundSeconds(time.Since(c.Loaded)))
	if c.Error != "" {
		fmt.Fprintf(w, "reload\tfailed %v ago, and changed nothing: %s\n", roundSeconds(time.Since(c.Reloaded)), c.Error)
	}
}

func addrOrDash(a netip.Addr) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

// countText prints a count, or a dash for one that is not known.
func countText(n int) string {
	if n < 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func residentText(n int64) string {
	if n < 0 {
		return "- bytes in memory"
	}
	return bytesText(uint64(n)) + " bytes in memory"
}

func roundSeconds(d time.Duration) time.Duration { return d.Round(time.Second) }

// bytesText prints a byte count with a decimal prefix, at most 6 columns wide.
func bytesText(n uint64) string {
	value, unit := float64(n), ""
	for _, next := range []string{"k", "M", "G", "T", "P"} {
		if value < 1000 {
			break
		}
		value, unit = value/1000, next
	}
	if unit == "" {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%.1f%s", value, unit)
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"aarptun/internal/admin"
	"aarptun/internal/config"
)

// look is what the commands that ask a running daemon share.
type look struct {
	socket string
	json   bool
}

func (l *look) flags(c *cobra.Command) {
	c.Flags().StringVar(&l.socket, "admin-socket", config.Default().AdminSocket, "unix socket of the daemon")
	c.Flags().BoolVar(&l.json, "json", false, "print JSON")
}

func (l *look) client() *admin.Client { return admin.NewClient(l.socket) }

func newStatus() *cobra.Command {
	var l look
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how a running daemon is",
		Long:  "Status shows the device, the prefixes and the counters of the daemon that listens on the admin socket.",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := l.client().Status(c.Context())
			if err != nil {
				return err
			}
			if l.json {
				return printJSON(c.OutOrStdout(), s)
			}
			return printStatus(c.OutOrStdout(), s)
		},
	}
	l.flags(cmd)
	return cmd
}

func newFlows() *cobra.Command {
	var l look
	var watch bool
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "List the flows and the member each is with",
		Example: `  aarptun flows
  aarptun flows --watch
  aarptun flows --json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if watch && (every < 100*time.Millisecond || every > time.Hour) {
				return usageError{fmt.Errorf("--interval %v: it must be 100ms to 1h", every)}
			}
			show := func() error {
				flows, err := l.client().Flows(c.Context())
				if err != nil {
					return err
				}
				if l.json {
					return printJSON(c.OutOrStdout(), flows)
				}
				return printFlows(c.OutOrStdout(), flows)
			}
			if !watch {
				return show()
			}
			return repeat(c.Context(), c.OutOrStdout(), every, !l.json, show)
		},
	}
	l.flags(cmd)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show again and again until Ctrl-C; with --json one object a line")
	cmd.Flags().DurationVar(&every, "interval", time.Second, "how often with --watch")
	return cmd
}

func newPins() *cobra.Command {
	var l look
	cmd := &cobra.Command{
		Use:   "pins",
		Short: "List which member each anycast address is resolved to",
		Long: `Pins lists the answers in the cache: new flows to AA go to UA until the TTL has
run out. Flows that exist keep their own member whatever happens to the pin.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			pins, err := l.client().Pins(c.Context())
			if err != nil {
				return err
			}
			if l.json {
				return printJSON(c.OutOrStdout(), pins)
			}
			return printPins(c.OutOrStdout(), pins)
		},
	}
	l.flags(cmd)
	return cmd
}

// repeat shows until ctx ends, which is no error: that is how one stops it.
func repeat(ctx context.Context, w io.Writer, every time.Duration, clear bool, show func() error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if clear {
			// Cursor home, erase display (ECMA-48, CUP and ED).
			if _, err := io.WriteString(w, "\x1b[H\x1b[2J"); err != nil {
				return err
			}
		}
		if err := show(); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func printJSON(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

func printFlows(w io.Writer, flows admin.Flows) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tPROTO\tCLIENT\tANYCAST\tMEMBER\tSTATE\tAGE\tIDLE\tOUT\tIN")
	for _, f := range flows.Flows {
		fmt.Fprintf(t, "%d\t%v\t%v\t%v\t%v\t%v\t%v\t%v\t%s\t%s\n", f.ID, f.Proto, f.Client, f.Anycast, addrOrDash(f.Member), f.State,
			roundSeconds(time.Since(f.Started)), roundSeconds(time.Since(f.Active)), bytesText(f.Sent), bytesText(f.Got))
	}
	return t.Flush()
}

func printPins(w io.Writer, pins admin.Pins) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "ANYCAST\tMEMBER\tMETHOD\tTRUST\tRTT\tTTL")
	for _, p := range pins.Pins {
		member := p.Member.String()
		if p.SelfAnswer {
			member += " (itself)"
		}
		fmt.Fprintf(t, "%v\t%s\t%s\t%s\t%v\t%v\n", p.Anycast, member, p.Method, p.Trust,
			time.Duration(p.RTT)*time.Microsecond, roundSeconds(time.Duration(p.TTL)*time.Millisecond))
	}
	return t.Flush()
}

func printStatus(w io.Writer, s admin.Status) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "version\t%s\n", s.Version)
	fmt.Fprintf(t, "pid\t%d\n", s.PID)
	fmt.Fprintf(t, "up\t%v\n", roundSeconds(time.Since(s.Started)))
	fmt.Fprintf(t, "device\t%s, MTU %d\n", s.Device, s.MTU)
	fmt.Fprintf(t, "prefixes\t%s\n", prefixes{&s.Prefixes})
	rooms := []struct {
		name  string
		stats any
	}{{"nat", s.NAT}, {"resolver", s.Resolver}, {"ping", s.Rooms["ping"]}, {"stack", s.Rooms["stack"]}}
	for _, room := range rooms {
		if err := printCounters(t, room.name, room.stats); err != nil {
			return err
		}
	}
	return t.Flush()
}

func addrOrDash(a netip.Addr) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
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

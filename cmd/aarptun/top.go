package main

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/spf13/cobra"

	_ "aarptun/internal/unasked" // before bubbletea's init
)

func newTop() *cobra.Command {
	var every time.Duration
	var once bool
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch the flows, pins and members of a running daemon",
		Long: `Top shows again and again who talks to which member and how fast, which member
each anycast address is resolved to, and what each member carries and how far
it is. OUT is what clients send, IN what members send, in bytes of payload a
second.

Keys: q or Ctrl-C ends it; 1, 2, 3 or Tab choose flows, pins or members; s
takes the next order and r turns it round; / lets in only lines with a text,
and Esc all again; space holds the picture; arrows, PgUp, PgDn and Home move
through it.

Of many flows the first 1,000 in the order are looked at; by rate, those that
have moved a byte last. When no daemon runs, or it ends, top says so and waits
for it.

--once prints the lists once, as they are after one interval, and --json an
object for each interval, until Ctrl-C; both are for scripts, and then exit
code 69 says that no daemon answers. NO_COLOR in the environment turns colours
off.`,
		Example: `  aarptun top
  aarptun top --interval 500ms
  aarptun top --once
  aarptun top --json --once`,
	}
	l := newLook(cmd)
	cmd.Flags().DurationVar(&every, "interval", 2*time.Second, "`TIME` between two looks, 100ms to 1h")
	cmd.Flags().BoolVar(&once, "once", false, "print once and end")
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		if every < 100*time.Millisecond || every > time.Hour {
			return usagef(c, "--interval %v: it must be 100ms to 1h", every)
		}
		s := newSampler(l.client(), every)
		if once || l.json {
			return printTop(c.Context(), c.OutOrStdout(), s, once, l.json)
		}
		if !isTerminal(os.Stdout) || !isTerminal(os.Stdin) {
			return usagef(c, "'%s' needs a terminal: use --once or --json to print", c.CommandPath())
		}
		return watchTop(c.Context(), s)
	}
	return cmd
}

// watchTop shows the screen until it is left by key or ctx ends, which are no
// errors, and gives the terminal back as it was.
func watchTop(ctx context.Context, s *sampler) error {
	program := tea.NewProgram(newTopModel(ctx, s, hasColour()), tea.WithAltScreen(), tea.WithContext(ctx), tea.WithoutSignalHandler())
	_, err := program.Run()
	if ctx.Err() != nil || errors.Is(err, tea.ErrInterrupted) {
		return nil
	}
	return err
}

// hasColour follows no-color.org.
func hasColour() bool { return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" }

// printTop prints what the screen would show, for as long as it is to.
func printTop(ctx context.Context, w io.Writer, s *sampler, once, asJSON bool) error {
	want := want{everything: true, flows: flowSorts[0].query}
	if first := s.look(ctx, want); first.err != nil {
		return unlessEnded(ctx, first.err)
	}
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		seen := s.look(ctx, want)
		if seen.err != nil {
			return unlessEnded(ctx, seen.err)
		}
		flowSorts[0].order(seen.flows, false)
		var err error
		if asJSON {
			err = printJSON(w, seen.json())
		} else {
			err = seen.print(w)
		}
		if err != nil || once {
			return err
		}
	}
}

// unlessEnded makes nothing of an error that is only that of who has ended ctx.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

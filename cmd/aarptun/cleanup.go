package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"aarptun/internal/admin"
	"aarptun/internal/config"
	"aarptun/tun"
	"aarptun/tun/netns"
)

func newCleanup() *cobra.Command {
	cfg := config.Default()
	var dry, asJSON bool
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Take back what a crashed run has left on the host",
		Long: `Cleanup removes the rules, the journal and the admin socket that a run left
behind that was killed or crashed, and prints a line for each. What a run with
--offload has left in the kernel goes too: the flows that it still carries end.
The next run does so by itself. What belongs to a run that lives is left alone.

It works in the network namespace it is called in, or in that of --netns, and
needs CAP_NET_ADMIN. Name the same --netns, --state-dir and --admin-socket as
the dead run had.`,
		Example: `  aarptun cleanup --dry-run    # what is left of a dead run?
  aarptun cleanup`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := cfg.ValidatePaths(); err != nil {
				return err
			}
			report, err := cleanUp(cfg, dry)
			if err != nil {
				return err
			}
			cleanSocket := admin.RemoveStale
			if dry {
				cleanSocket = admin.IsStale
			}
			// The socket of a living run is left alone like all it has.
			stale, err := cleanSocket(cfg.AdminSocket)
			if err != nil && !errors.Is(err, admin.ErrInUse) {
				return err
			}
			if stale {
				report.Removed = append(report.Removed, "socket "+cfg.AdminSocket)
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), report)
			}
			return printReport(c.OutOrStdout(), report, dry)
		},
	}
	cmd.Flags().StringVar(&cfg.Netns, "netns", cfg.Netns, "clean up in network namespace `NAME|PATH|PID`")
	cmd.Flags().StringVar(&cfg.StateDir, "state-dir", cfg.StateDir, "`DIR` of the journals")
	cmd.Flags().StringVar(&cfg.AdminSocket, "admin-socket", cfg.AdminSocket, "`PATH` of the unix socket of the dead run")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would be removed")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// cleanUp undoes what is left in the network namespace that is meant.
func cleanUp(cfg config.Config, dry bool) (report tun.Report, err error) {
	if cfg.Netns == "" {
		return tun.Cleanup(cfg.StateDir, dry)
	}
	ns, err := netns.Open(cfg.Netns)
	if err != nil {
		return tun.Report{}, err
	}
	err = ns.Do(func() (err error) {
		report, err = tun.Cleanup(cfg.StateDir, dry)
		return err
	})
	return report, errors.Join(err, ns.Close())
}

func printReport(w io.Writer, r tun.Report, dry bool) error {
	removed := "removed"
	if dry {
		removed = "would remove"
	}
	lines := 0
	for _, group := range []struct {
		what string
		list []string
	}{{removed, r.Removed}, {"alive, left alone:", r.Live}, {"elsewhere, left alone:", r.Other}} {
		for _, line := range group.list {
			if _, err := fmt.Fprintln(w, group.what, line); err != nil {
				return err
			}
			lines++
		}
	}
	if lines == 0 {
		_, err := fmt.Fprintln(w, "nothing to remove")
		return err
	}
	return nil
}

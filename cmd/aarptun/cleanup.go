package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"aarptun/internal/admin"
	"aarptun/internal/config"
	"aarptun/tun"
)

func newCleanup() *cobra.Command {
	var dir, socket string
	var dry, asJSON bool
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Take back what a crashed run has left on the host",
		Long: `Cleanup removes the rules, the journal and the admin socket that a run left
behind that was killed or crashed. The next run does so by itself. What belongs to a run that lives is
left alone.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			report, err := tun.Cleanup(dir, dry)
			if err != nil {
				return err
			}
			if !dry {
				// The socket of a living run is left alone like all it has.
				removed, err := admin.RemoveStale(socket)
				if err != nil && !errors.Is(err, admin.ErrInUse) {
					return err
				}
				if removed {
					report.Removed = append(report.Removed, "socket "+socket)
				}
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), report)
			}
			for _, group := range []struct {
				what string
				list []string
			}{{"removed", report.Removed}, {"alive, left alone:", report.Live}, {"elsewhere, left alone:", report.Other}} {
				if dry && group.what == "removed" {
					group.what = "would remove"
				}
				for _, line := range group.list {
					if _, err := fmt.Fprintln(c.OutOrStdout(), group.what, line); err != nil {
						return err
					}
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "state-dir", config.Default().StateDir, "directory of the journals")
	cmd.Flags().StringVar(&socket, "admin-socket", config.Default().AdminSocket, "unix socket of the dead run")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would be removed")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

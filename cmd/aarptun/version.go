package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// release is the version of this source; CHANGELOG.md has the same on top.
const release = "0.1.0"

// commit is what a packager's build writes here (-X main.commit=...), which is
// reproducible only if it asks no repository: the commit of a build between two
// releases, or "release".
var commit string

// version is the release and, where the build knows it, the commit.
func version() string {
	switch commit {
	case "":
	case "release":
		return release
	default:
		return release + "+" + commit
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return release
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return release + "+" + s.Value[:12]
		}
	}
	return release
}

// versionText is what `aarptun version` and `aarptun --version` print.
func versionText() string {
	return fmt.Sprintf("aarptun %s %s %s/%s", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func newVersion() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long: `Version prints the release, with the commit it was built from where that is
known, and the Go release and platform it was built for.`,
		Example: `  aarptun version
  aarptun version --json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if asJSON {
				return printJSON(c.OutOrStdout(), map[string]string{
					"version": version(), "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH,
				})
			}
			_, err := fmt.Fprintln(c.OutOrStdout(), versionText())
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

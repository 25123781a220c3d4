package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"aarptun/internal/config"
)

func newCheckConfig() *cobra.Command {
	var a *asked
	var asJSON, reference bool
	cmd := &cobra.Command{
		Use:   "check-config [-c FILE]",
		Short: "Check a configuration, and show what it comes to",
		Long: `Check-config reads a configuration as 'aarptun run' would, with the same flags
and variables, and the files of shared keys that it names, and changes nothing.
If all is right it prints each value that counts, and where it is from: file,
line and column, a variable, a flag, or the default. What it prints is a file.

Exit code 78 says that the file, or a key file, is wrong, 64 that a flag or a
variable is. The message names the place.`,
		Example: `  aarptun check-config
  aarptun check-config -c new.toml --json
  aarptun check-config -c new.toml && systemctl reload aarptun
  aarptun check-config --reference > /etc/aarptun/aarptun.toml    # all keys, to begin with`,
		Args: noArgsBut("--config"),
		RunE: func(c *cobra.Command, _ []string) error {
			if reference {
				_, err := io.WriteString(c.OutOrStdout(), config.Reference)
				return err
			}
			if !c.Flags().Changed("config") && os.Getenv("AARPTUN_CONFIG") == "" {
				a.path = defaultPath
			}
			loaded, err := a.load()
			if err != nil {
				return err
			}
			for _, warning := range loaded.Warnings {
				fmt.Fprintln(c.ErrOrStderr(), "aarptun: warning:", warning)
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), checked{loaded.Path, loaded.Effective(), append([]string{}, loaded.Warnings...)})
			}
			return loaded.WriteTOML(c.OutOrStdout())
		},
	}
	a = newAsked(cmd.Flags())
	cmd.Flags().StringVarP(&a.path, "config", "c", "", "`FILE` to check, if not "+defaultPath+"; '' checks flags and variables alone")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&reference, "reference", false, "print a file with every key, its unit, range and default, and check nothing")
	return cmd
}

// checked is what is printed as JSON.
type checked struct {
	File     string             `json:"file"`
	Values   []config.Effective `json:"values"`
	Warnings []string           `json:"warnings"`
}

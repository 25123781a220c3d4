package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var shells = []string{"bash", "zsh", "fish", "powershell"}

// newCompletion stands for the library's own command of this name, which takes
// an unknown shell for a question about itself.
func newCompletion() *cobra.Command {
	return &cobra.Command{
		Use:   "completion " + strings.Join(shells, "|"),
		Short: "Print the completion script of a shell",
		Long: `Completion prints a script that lets a shell complete the commands and flags of
aarptun. For bash it needs the package bash-completion.`,
		Example: `  source <(aarptun completion bash)                                # this shell only
  aarptun completion bash > /etc/bash_completion.d/aarptun
  aarptun completion zsh > "${fpath[1]}/_aarptun"
  aarptun completion fish > ~/.config/fish/completions/aarptun.fish`,
		ValidArgs:         shells,
		ValidArgsFunction: cobra.FixedCompletions(shells, cobra.ShellCompDirectiveNoFileComp),
		Args:              oneArg("the name of a shell"),
		RunE: func(c *cobra.Command, args []string) error {
			root, out := c.Root(), c.OutOrStdout()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(out)
			}
			return usagef(c, "unknown shell %q: it must be one of %s", args[0], strings.Join(shells, ", "))
		},
	}
}

// completeArgs lets the shell offer what fits behind a command and behind each
// of its flags: the words of a choice, files where a file is wanted, and else
// nothing rather than files.
func completeArgs(c *cobra.Command) {
	if c.ValidArgsFunction == nil && !strings.Contains(c.Use, "FILE") {
		c.ValidArgsFunction = cobra.NoFileCompletions
	}
	c.Flags().VisitAll(func(f *pflag.Flag) {
		complete := cobra.NoFileCompletions
		what, _ := pflag.UnquoteUsage(f)
		if choices := choicesOf(f.Value); len(choices) > 0 {
			complete = cobra.FixedCompletions(choices, cobra.ShellCompDirectiveNoFileComp)
		} else if slices.ContainsFunc(filesWanted, func(name string) bool { return strings.HasSuffix(what, name) }) {
			complete = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
		}
		if err := c.RegisterFlagCompletionFunc(f.Name, complete); err != nil {
			return // the flag has one of its own
		}
	})
	for _, sub := range c.Commands() {
		completeArgs(sub)
	}
}

// filesWanted are the ends of the names of values that are paths.
var filesWanted = []string{"FILE", "PATH", "DIR"}

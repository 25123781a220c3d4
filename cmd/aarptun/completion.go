package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
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

// newHelp stands for the library's own command of this name, which exits 0
// when asked about a command that does not exist.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Explain aarptun, or one command",
		Long:    "Help explains a command, as the command's own --help does.",
		Example: "  aarptun help run",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef(c, "'%s' explains one command at a time, and got %d", c.CommandPath(), len(args))
			}
			return nil
		},
		ValidArgsFunction: func(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			var names []cobra.Completion
			for _, sub := range c.Root().Commands() {
				names = append(names, cobra.CompletionWithDesc(sub.Name(), sub.Short))
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			root := c.Root()
			if len(args) == 0 {
				return root.Help()
			}
			at := slices.IndexFunc(root.Commands(), func(sub *cobra.Command) bool { return sub.Name() == args[0] })
			if at < 0 {
				return unknownCommand(root, args)
			}
			sub := root.Commands()[at]
			sub.InitDefaultHelpFlag() // so that --help is shown as by --help itself
			return sub.Help()
		},
	}
}

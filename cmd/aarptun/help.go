package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// newHelp stands for the library's own command of this name, which exits 0
// when asked about a command that does not exist.
func newHelp() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Explain aarptun, or one command",
		Long: `Help explains a command, as the command's own --help does. With --json it
prints the same for programs, of which the manual pages are made: name, use,
text, examples, flags and commands, and the exit codes.`,
		Example: `  aarptun help run
  aarptun help --json run | jq -r '.flags[].name'`,
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
				return explain(root, asJSON)
			}
			at := slices.IndexFunc(root.Commands(), func(sub *cobra.Command) bool { return sub.Name() == args[0] })
			if at < 0 {
				return unknownCommand(root, args)
			}
			return explain(root.Commands()[at], asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// explain prints the help of a command, or the same as JSON.
func explain(c *cobra.Command, asJSON bool) error {
	if asJSON {
		return printJSON(c.OutOrStdout(), describe(c))
	}
	c.InitDefaultHelpFlag() // so that --help is shown as by --help itself
	return c.Help()
}

// description is a command as `aarptun help --json` tells of it.
type description struct {
	Name      string            `json:"name"` // with the names of those it belongs to
	Use       string            `json:"use"`  // its synopsis
	Short     string            `json:"short"`
	Long      string            `json:"long"`
	Example   string            `json:"example"`
	Flags     []flagDescription `json:"flags"`
	Commands  []description     `json:"commands"`
	ExitCodes []exitMeaning     `json:"exit_codes,omitempty"` // of the root only
}

type flagDescription struct {
	Name      string   `json:"name"`
	Shorthand string   `json:"shorthand,omitempty"`
	Value     string   `json:"value,omitempty"` // what is to be given; none for a switch
	Choices   []string `json:"choices,omitempty"`
	Default   string   `json:"default,omitempty"`
	Usage     string   `json:"usage"`
}

func describe(c *cobra.Command) description {
	d := description{
		Name: c.CommandPath(), Use: synopsis(c), Short: c.Short, Long: c.Long, Example: c.Example,
		Flags: []flagDescription{}, Commands: []description{},
	}
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden && f.Name != "help" {
			d.Flags = append(d.Flags, describeFlag(f))
		}
	})
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() || sub.Name() == "help" {
			d.Commands = append(d.Commands, describe(sub))
		}
	}
	if !c.HasParent() {
		d.ExitCodes = exitMeanings
	}
	return d
}

// synopsis is the use of a command, with its flags where it does not name them.
func synopsis(c *cobra.Command) string {
	switch {
	case !c.HasParent():
		return c.Name() + " COMMAND [FLAGS]"
	case strings.Contains(c.UseLine(), "[flags]"):
		return strings.Replace(c.UseLine(), "[flags]", "[FLAGS]", 1)
	}
	return c.UseLine()
}

func describeFlag(f *pflag.Flag) flagDescription {
	value, usage := pflag.UnquoteUsage(f)
	d := flagDescription{Name: f.Name, Shorthand: f.Shorthand, Value: value, Usage: usage, Default: f.DefValue, Choices: choicesOf(f.Value)}
	if f.Value.Type() == "bool" || d.Default == "[]" || d.Default == "0s" && !strings.Contains(usage, "0s") {
		d.Default = "" // as good as none
	}
	return d
}

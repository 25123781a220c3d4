package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"aarptun/internal/config"
)

// usageError is a wrong command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// usagef makes a usageError that says where the right use is told.
func usagef(c *cobra.Command, format string, args ...any) error {
	return usageError{fmt.Errorf("%w (see '%s --help')", fmt.Errorf(format, args...), c.CommandPath())}
}

// flagError says in our words what is wrong with a flag; the library's name the
// functions it is made of.
func flagError(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var missing *pflag.ValueRequiredError
	var wrong *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown):
		return unknownFlag(c, unknown.GetSpecifiedName(), unknown.GetSpecifiedShortnames())
	case errors.As(err, &missing):
		name, usage := pflag.UnquoteUsage(missing.GetFlag())
		return usagef(c, "--%s needs a value: %s: %s", missing.GetFlag().Name, name, usage)
	case errors.As(err, &wrong):
		return wrongValue(c, wrong.GetFlag(), wrong.GetValue(), wrong.Unwrap())
	}
	return usagef(c, "%w", err)
}

// wrongValue puts a value's own complaint behind the name of its flag.
func wrongValue(c *cobra.Command, f *pflag.Flag, value string, cause error) error {
	want := cause.Error()
	switch f.Value.Type() {
	case "int", "uint16":
		want = "it must be a whole number"
		if errors.Is(cause, strconv.ErrRange) {
			want = "it is out of range"
		}
	case "duration":
		want = "it must be a number with its unit, such as 500ms, 30s or 5m"
	case "bool":
		want = "it must be true or false"
	}
	if errors.Is(cause, config.ErrInvalid) {
		return usagef(c, "--%s: %w", f.Name, cause) // it names the value itself
	}
	return usagef(c, "--%s %q: %s", f.Name, value, want)
}

// unknownFlag refuses --name, or the first letter of -shorts, and says what may
// have been meant.
func unknownFlag(c *cobra.Command, name, shorts string) error {
	written := "--" + name
	if shorts != "" {
		written = "-" + shorts
		if c.Flags().Lookup(shorts) != nil {
			return usagef(c, "unknown flag %s: write it with two dashes, --%s", written, shorts)
		}
		written = "-" + name
	}
	commands := c.Root().Commands()
	if run, _, err := c.Root().Find([]string{"run"}); err == nil {
		commands = slices.Concat([]*cobra.Command{run}, commands) // it is meant most often
	}
	for _, other := range commands {
		if !c.HasParent() && (other.Flags().Lookup(name) != nil || shorts != "" && other.Flags().ShorthandLookup(name) != nil) {
			return usagef(c, "unknown flag %s: it belongs behind a command, as in '%s %s'", written, other.CommandPath(), written)
		}
	}
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := config.Nearest(name, names); shorts == "" && near != "" {
		return usagef(c, "unknown flag %s: did you mean --%s?", written, near)
	}
	return usagef(c, "unknown flag %s", written)
}

// oneCommand is the check of a command that only has commands.
func oneCommand(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return unknownCommand(c, args)
	}
	var names []string
	for _, sub := range c.Commands() {
		names = append(names, sub.Name())
	}
	return usagef(c, "'%s' wants to be told what to do: %s", c.CommandPath(), strings.Join(names, ", "))
}

// unknownCommand is the check of the root's arguments.
func unknownCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if near := config.Nearest(args[0], names); near != "" {
		return usagef(root, "unknown command %q: did you mean '%s %s'?", args[0], root.CommandPath(), near)
	}
	return usagef(root, "unknown command %q", args[0])
}

// noArgs is the check of the commands that take flags only.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usagef(c, "'%s' takes no arguments, and got %q", c.CommandPath(), args[0])
}

// noArgsBut is noArgs for a command whose flag is easily forgotten.
func noArgsBut(flag string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return usagef(c, "'%s' takes no arguments, and got %q: did you mean %s %s?", c.CommandPath(), args[0], flag, args[0])
	}
}

// oneArg is the check of a command that takes one argument, told by what.
func oneArg(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == 1 {
			return nil
		}
		return usagef(c, "'%s' takes one argument, %s, and got %d", c.CommandPath(), what, len(args))
	}
}

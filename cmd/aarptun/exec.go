package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"aarptun/internal/config"
	"aarptun/internal/daemon"
	"aarptun/tun/netns"
)

// The exit codes of a command that could not be executed, as sh(1) has them.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// execKeys are the keys that have a meaning for one command.
var execKeys = []string{
	"prefix", "member-prefix", "static", "psk-file", "pubkey", "stun-port", "mtu", "cache-ttl", "stale", "sticky", "select",
	"unresolved", "drain-timeout", "admin-socket", "log-level",
}

func newExec() *cobra.Command {
	cfg := config.Default()
	cfg.AdminSocket, cfg.LogLevel = "", slog.LevelWarn
	var logFile string
	cmd := &cobra.Command{
		Use:   "exec [-p PREFIX ...] -- CMD [ARGS ...]",
		Short: "Run one command whose flows keep their member, without root",
		Long: `Exec runs CMD in a network namespace of its own whose only way out is aarptun.
It needs no root and changes nothing on the host; when CMD ends, all of it is
gone.

Without -p every address that CMD talks to is asked whether a member stands
behind it, as the draft does. Most are ordinary ones: an address that answers
from itself, or not within 300ms, is talked to itself, which is remembered for
5 minutes. With -p only the addresses of the prefixes are asked, and everything
else is passed straight through.

CMD is what it is without exec: user, directory, environment, files, terminal,
job control and signals. Other groups than the first are not to be seen (they
show as nogroup), setuid programs run without their privilege, and CMD's network
ends with it, also for what it leaves in the background. Its loopback is its
own; names are resolved all the same, also by a name server on the host's.

Needed are /dev/net/tun, user namespaces and ping sockets; if one is forbidden,
exec says which command allows it, and its exit code is 77. The exit code is
else that of CMD, 127 if there is no CMD, 126 if it cannot be executed.`,
		Example: `  aarptun exec -- curl https://api.example.net/
  aarptun exec -p 2001:db8:aa::/64 -- ./client --server api.example.net
  aarptun exec -p 2001:db8:aa::/64 -- bash        # a shell and all it starts
  aarptun exec --log-level debug --log-file aarptun.log -- ./client`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef(c, "no command given: write it behind '--', as in 'aarptun exec -- curl https://api.example.net/'")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if err := cfg.ValidateExec(); err != nil {
				return err
			}
			cfg.Mark = 0 // our own sockets are in another namespace
			plan, carrier, isDaemon, err := netns.Daemon()
			switch {
			case err != nil:
				return err
			case isDaemon:
				return carryCommand(cfg, plan, carrier, logFile)
			}
			return runCommand(cfg, args)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what comes behind CMD is CMD's
	for _, k := range config.Keys() {
		if slices.Contains(execKeys, k.Name) {
			f.VarPF(k.Value(&cfg), k.Name, k.Short, k.Usage)
		}
	}
	f.Lookup("admin-socket").Usage = "`PATH` for a unix socket, where status, flows and pins can be asked for while CMD runs"
	f.Lookup("drain-timeout").Usage = "`TIME` that what CMD has sent may still take after its end, 0 to 1h"
	f.StringVar(&logFile, "log-file", "", "append the log to `FILE` instead of writing it to standard error")
	return cmd
}

// endedError is the end of a command that has said itself what was wrong.
type endedError int

func (e endedError) Error() string {
	return fmt.Sprintf("the command has ended with exit code %d", int(e))
}

// Is keeps it from being said.
func (endedError) Is(target error) bool { return target == errSaid }

// executeError is a command that could not be executed.
type executeError struct {
	error
	code int
}

func (e executeError) Unwrap() error { return e.error }

func runCommand(cfg config.Config, args []string) error {
	path, err := findProgram(args[0])
	if err != nil {
		return err
	}
	plan, err := netns.MakePlan(path, args, cfg.MTU)
	if err != nil {
		return err
	}
	ended, err := netns.Exec(plan, cfg.DrainTimeout)
	if err != nil {
		return err
	}
	if ended.Signal != 0 {
		netns.Die(ended.Signal)
		return endedError(128 + int(ended.Signal))
	}
	if ended.Code != 0 {
		return endedError(ended.Code)
	}
	return nil
}

// findProgram looks for a program as a shell does.
func findProgram(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || errors.Is(err, exec.ErrDot) {
		return path, nil // a directory of $PATH may be a relative one
	}
	if !strings.Contains(name, "/") {
		for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
			if info, statErr := os.Stat(filepath.Join(dir, name)); statErr == nil && info.Mode().IsRegular() {
				return "", executeError{fmt.Errorf("%s: %s is not executable", name, filepath.Join(dir, name)), exitNotExecutable}
			}
		}
		return "", executeError{fmt.Errorf("%s: command not found", name), exitNotFound}
	}
	var lookup *exec.Error
	if errors.As(err, &lookup) {
		err = lookup.Err // it repeats the name
	}
	if errors.Is(err, os.ErrNotExist) {
		return "", executeError{fmt.Errorf("%s: command not found", name), exitNotFound}
	}
	return "", executeError{fmt.Errorf("%s: it cannot be executed: %w", name, err), exitNotExecutable}
}

// carryCommand is the daemon of one command.
func carryCommand(cfg config.Config, plan netns.Plan, carrier *netns.Carrier, logFile string) error {
	out := io.Writer(os.Stderr)
	if logFile != "" {
		file, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return hostError{fmt.Errorf("--log-file: %w", err)}
		}
		defer file.Close() //nolint:errcheck // a log that was cut short tells so itself
		out = file
	}
	device, err := carrier.Device()
	if errors.Is(err, netns.ErrNoCommand) {
		return nil // which has said why
	}
	if err != nil {
		return err
	}
	command := daemon.Command{Device: device, Name: plan.Device.Name, MTU: plan.Device.MTU, Resolvers: plan.Resolvers}
	err = daemon.Exec(cfg, version(), command, newLogger(out, cfg.LogLevel, cfg.LogFormat), carrier.Ready, carrier.Wait)
	if errors.Is(err, netns.ErrNoCommand) {
		return nil
	}
	return err
}

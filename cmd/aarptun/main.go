// Command aarptun gives every flow to an anycast address one server for its
// whole life; run `aarptun --help` for how.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"aarptun/internal/admin"
	"aarptun/internal/capture"
	"aarptun/internal/config"
	"aarptun/internal/daemon"
	"aarptun/internal/metrics"
	"aarptun/resolver"
	"aarptun/resolver/member"
	"aarptun/tun"
	"aarptun/tun/netns"
)

// The exit codes, after sysexits(3).
const (
	exitOK         = 0
	exitFailed     = 1
	exitUsage      = 64 // EX_USAGE: the command line is wrong
	exitNoAnswer   = 69 // EX_UNAVAILABLE: no member or no daemon answered
	exitPermission = 77 // EX_NOPERM
	exitConfig     = 78 // EX_CONFIG: the host is not as it must be
)

// exitMeaning is what an exit code tells a script.
type exitMeaning struct {
	Code    int    `json:"code"`
	Short   string `json:"short"`
	Meaning string `json:"meaning"`
}

var exitMeanings = []exitMeaning{
	{exitOK, "ok", "what was asked for was done"},
	{exitFailed, "failed", "it could not be done, for the reason on standard error; or doctor has found something"},
	{exitUsage, "wrong usage", "the command line or a value is wrong; nothing was done"},
	{exitNoAnswer, "no answer", "no member answered or was believed, or no daemon answers on the admin socket"},
	{exitPermission, "no permission", "the user may not do this: be root, or get the capability that the message names"},
	{exitConfig, "the host is not as it must be", "device, table, socket or port are taken, there is no TUN, a configuration file is wrong, or others can read a key file; the host was left as it was"},
}

func main() {
	if isChild, err := netns.Child(); isChild { // it has not become the command
		os.Exit(max(finish(err), exitFailed))
	}
	os.Exit(run(os.Args[1:]))
}

// finish says what has gone wrong, and returns the exit code for it.
func finish(err error) int {
	if err != nil && !errors.Is(err, errSaid) {
		fmt.Fprintln(os.Stderr, "aarptun:", oneLine(err))
	}
	return exitCode(err)
}

// run is main with its exit code returned, so that deferred calls are made.
func run(args []string) int {
	// The second Ctrl-C ends the program at once: stop takes the handler away
	// as soon as the first has been noticed.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	root := newRoot()
	root.SetArgs(args)
	return finish(root.ExecuteContext(ctx))
}

// errSaid ends the program without another word, because the output has
// already said what is wrong.
var errSaid = errors.New("already said")

// hostError is a fault of the host that no sentinel of a room tells of.
type hostError struct{ error }

func (e hostError) Unwrap() error { return e.error }

func exitCode(err error) int {
	var usage usageError
	var host hostError
	var ended endedError
	var execute executeError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &ended):
		return int(ended)
	case errors.As(err, &execute):
		return execute.code
	case errors.Is(err, netns.ErrNotExecuted):
		return exitNotExecutable
	case errors.Is(err, os.ErrPermission):
		return exitPermission
	case errors.Is(err, config.ErrFile):
		return exitConfig
	case errors.As(err, &usage), errors.Is(err, config.ErrInvalid):
		return exitUsage
	case errors.Is(err, tun.ErrConfig), errors.Is(err, daemon.ErrSandbox), errors.Is(err, admin.ErrInUse), errors.Is(err, admin.ErrPath), errors.Is(err, metrics.ErrListen), errors.Is(err, capture.ErrFile), errors.As(err, &host), errors.Is(err, member.ErrKey), errors.Is(err, syscall.EADDRINUSE):
		return exitConfig
	case errors.Is(err, resolver.ErrNoAnswer), errors.Is(err, resolver.ErrUntrusted), errors.Is(err, resolver.ErrSelfAnswer), errors.Is(err, resolver.ErrDraining),
		errors.Is(err, admin.ErrNotRunning):
		return exitNoAnswer
	}
	return exitFailed
}

// oneLine keeps an error to the one line that logs and scripts expect.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' }), "; ")
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "aarptun",
		Short: "Every flow to an anycast address keeps one server",
		Long: `aarptun gives every flow to an anycast address one server for its whole life.

It routes anycast prefixes into a TUN device, asks by probe which member stands
behind an anycast address (AA), and carries each flow to that member's unicast
address (UA), whatever the network's routes do meanwhile. Programs need no
change and see only AA; the network sees only UA.

Exit codes: 0 ok, 1 failed, 64 wrong usage, 69 no answer, 77 no permission,
78 the host is not as it must be (device, table, socket or port taken, no TUN,
a key file that others can read, a wrong configuration file).`,
		Example: `  aarptun run -p 2001:db8:aa::/64        # as root: carry that prefix until Ctrl-C
  aarptun resolve 2001:db8:aa::1         # which member is it now?
  aarptun exec -- curl https://api.example.net/   # one command, without root
  aarptun flows                          # who talks to which member
  aarptun help run                       # how a command is used`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version(),
		Args:          unknownCommand,
		// A command that only has commands would not have its arguments checked.
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetVersionTemplate(versionText() + "\n")
	root.AddCommand(newRun(), newExec(), newCheckConfig(), newResolve(), newStatus(), newFlows(), newPins(), newTop(), newMember(), newKeygen(), newDoctor(), newCleanup(), newVersion(), newCompletion())
	root.SetHelpCommand(newHelp())
	root.SetFlagErrorFunc(flagError)
	for _, c := range root.Commands() {
		completeArgs(c)
	}
	return root
}

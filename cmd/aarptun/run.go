package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/pprof"

	"github.com/spf13/cobra"

	"aarptun/internal/config"
	"aarptun/internal/daemon"
)

func newRun() *cobra.Command {
	cfg := config.Default()
	var profile string
	cmd := &cobra.Command{
		Use:   "run -p PREFIX [-p PREFIX ...]",
		Short: "Carry anycast prefixes until stopped",
		Long: `Run routes the anycast prefixes into a TUN device and carries every TCP, UDP
and ping flow to one member, in the foreground, until Ctrl-C or SIGTERM. It
prints a line "ready" on standard output once flows are carried; the log goes
to standard error.

A stop lets the flows that exist go on for --drain-timeout, and takes on no new
ones; a second Ctrl-C or SIGTERM cuts them at once.

What it changes on the host: the device, routes in a table of their own, and
one rule per address family. All of it is taken back at the end; after a crash
by the next run, or by 'aarptun cleanup'.

A new flow gets the member that --select says: first is the one that answers a
probe; with rtt and spread the members on up to 16 of the network's equal paths
are looked for, and the nearest is used, or all alike. With --sticky host the
choice holds for all of this host's flows, with source for those of one client
address as long as the member lives, with flow for each by itself. A member that
does not take a flow is passed over, and the flow gets the next one.

With --netns all of that is made in another network namespace, of a container or
a pod, say: its programs are carried, and need no privilege. The members are
asked and reached from this namespace, where nothing is changed. A namespace
that has no address is lent 192.0.0.1 and 100::1, on the device. When it has
neither a name nor a process any more, the run ends, with exit code 0.

It needs root, or CAP_NET_ADMIN and CAP_NET_RAW and access to /dev/net/tun.`,
		Example: `  aarptun run -p 2001:db8:aa::/64
  aarptun run -p 2001:db8:aa::/64 --member-prefix 2001:db8:1000::/36
  aarptun run -p 198.51.100.0/24 --pubkey "$(cat member.pub)"
  aarptun run -p 198.51.100.1/32 --static 198.51.100.1=203.0.113.7
  aarptun run -p 2001:db8:aa::/64 --netns web   # as 'ip netns add web' named it
  aarptun run -p 2001:db8:aa::/64 --netns "$(docker inspect -f '{{.State.Pid}}' web)"`,
		Args: noArgsBut("--prefix"),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := cfg.Validate(); err != nil {
				return err
			}
			log := newLogger(os.Stderr, cfg)
			stop, err := startProfile(profile)
			if err != nil {
				return err
			}
			defer stop()
			return daemon.Run(c.Context(), cfg, version(), log, func() error {
				_, err := fmt.Fprintln(c.OutOrStdout(), "ready")
				return err
			})
		},
	}
	f := cmd.Flags()
	f.VarP(prefixes{&cfg.Prefixes}, "prefix", "p", "anycast prefix to carry; may be repeated")
	f.Var(prefixes{&cfg.MemberPrefixes}, "member-prefix", "accept only members in this prefix (allow-list); may be repeated")
	f.Var(statics{&cfg.Static}, "static", "member UA of AA, not probed; may be repeated")
	f.Var(pskFiles{&cfg.PSKFiles}, "psk-file", "file of the shared keys; answers must show its first one (trust psk); once for each prefix")
	f.Var(publicKeys{&cfg.PublicKeys}, "pubkey", "public key of a member; answers must be signed with one of them (trust ed25519); may be repeated")
	f.Uint16Var(&cfg.STUNPort, "stun-port", cfg.STUNPort, "UDP `PORT` of the members' responders; 0 does not ask them")
	f.StringVar(&cfg.TUN, "tun", cfg.TUN, "`NAME` of the TUN device, 1 to 15 bytes")
	f.IntVar(&cfg.MTU, "mtu", cfg.MTU, "MTU of the device in `BYTES`, 1280 to 65535; 0 takes the uplink's")
	f.Var(choice[config.OffloadGSO]{&cfg.OffloadGSO, []config.OffloadGSO{config.OffloadAuto, config.OffloadOn, config.OffloadOff}}, "offload-gso",
		"let packets of up to 64 KiB cross the device: where a test at the start passes, always, or never")
	f.IntVar(&cfg.Table, "table", cfg.Table, "`NUMBER` of the routing table for the prefixes; nothing else may use it")
	f.Var(mark{&cfg.Mark}, "fwmark", "mark of aarptun's own sockets, which bypass the TUN")
	f.StringVar(&cfg.Netns, "netns", cfg.Netns, "carry the programs of network namespace `NAME|PATH|PID`, by sockets of this one")
	f.DurationVar(&cfg.CacheTTL, "cache-ttl", cfg.CacheTTL, "`TIME` for which an answer is used for new flows, 100ms to 24h")
	f.DurationVar(&cfg.Stale, "stale", cfg.Stale, "`TIME` for which an answer is used beyond that while nobody answers, 0 to 1h")
	f.Var(choice[config.Sticky]{&cfg.Sticky, []config.Sticky{config.StickyHost, config.StickySource, config.StickyFlow}}, "sticky",
		"keep one member for this host, for each client address, or for each flow alone")
	f.Var(choice[config.Select]{&cfg.Select, []config.Select{config.SelectFirst, config.SelectRTT, config.SelectSpread}}, "select",
		"use the member that answers first, the nearest, or all of them alike")
	f.Var(choice[config.Unresolved]{&cfg.Unresolved, []config.Unresolved{config.Direct, config.Reject}}, "unresolved",
		"carry a flow to an address that answers from itself on to it, or refuse it")
	f.DurationVar(&cfg.DrainTimeout, "drain-timeout", cfg.DrainTimeout, "`TIME` that flows may go on for after a stop, 0 to 1h")
	f.StringVar(&cfg.AdminSocket, "admin-socket", cfg.AdminSocket, "`PATH` of the unix socket for status, flows and pins")
	f.StringVar(&cfg.StateDir, "state-dir", cfg.StateDir, "`DIR` of the journal of changes to the host")
	f.StringVar(&profile, "cpu-profile", "", "write what took CPU time to `FILE`, for 'go tool pprof'")
	f.Var(logLevel{&cfg.LogLevel}, "log-level", "debug, info, warn or error")
	f.Var(choice[string]{&cfg.LogFormat, []string{"text", "json"}}, "log-format", "form of the log")
	return cmd
}

func newLogger(w io.Writer, cfg config.Config) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.LogLevel}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// startProfile writes a CPU profile to path, if it has one, until it is stopped.
func startProfile(path string) (stop func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	file, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("--cpu-profile: %w", err)
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, errors.Join(fmt.Errorf("--cpu-profile: %w", err), file.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		if err := file.Close(); err != nil {
			fmt.Fprintf(os.Stderr, "aarptun: --cpu-profile: %v\n", err)
		}
	}, nil
}

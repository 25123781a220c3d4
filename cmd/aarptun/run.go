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
	var a *asked
	cmd := &cobra.Command{
		Use:   "run [-c FILE] [-p PREFIX ...]",
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

With --offload nft the kernel carries the flows to addresses that are pinned
when they begin, by nftables; all others go through the device. Such a flow
keeps its member though aarptun is killed or, with --keep-flows, stopped; the
next run takes over, or 'aarptun cleanup' ends them. The kernel tries no second
member for a flow and knows no limits for a client. On a gateway that holds for
the flows of the hosts behind it too (docs/howto/offload.md).

--metrics-listen shows Prometheus what is counted, and no addresses; the metrics
are in docs/metrics.md. --pcap writes what crosses the device to a new file that
only its owner may read, or in place of a regular one of this user's; one that
is full, or cannot keep up, stops no traffic. What is not written is counted.

What to do is said by flags, by AARPTUN_* variables and by a file, in this
order: a flag counts before the variable of its name (--cache-ttl,
AARPTUN_CACHE_TTL; in a list there are commas), and that before the key of its
name in the file (cache-ttl = "30s"). No file is read unless -c names one, or
AARPTUN_CONFIG; a service has /etc/aarptun/aarptun.toml. 'aarptun check-config'
checks a file, with --reference it prints one with all keys.

On a gateway the flows of the hosts behind it are carried too; 'aarptun doctor'
says what must be set for that. Members see them come from the gateway, or with
--preserve-source, for TCP and UDP, from each client's own address. Then what
members send to the clients must come through the gateway, and no address
translation may be on the way; a table of nftables, and the routing table and
mark that follow --table and --fwmark, lead it to aarptun.

It needs root, or CAP_NET_ADMIN and CAP_NET_RAW and access to /dev/net/tun. Once
it is set up it keeps CAP_NET_ADMIN alone, for all that it runs as root, and
opens no files but its own and those a reload reads (--sandbox;
docs/operations.md).`,
		Example: `  aarptun run -p 2001:db8:aa::/64
  aarptun run -p 2001:db8:aa::/64 --member-prefix 2001:db8:1000::/36
  aarptun run -p 198.51.100.0/24 --pubkey "$(cat member.pub)"
  aarptun run -p 198.51.100.1/32 --static 198.51.100.1=203.0.113.7
  aarptun run -p 2001:db8:aa::/64 --metrics-listen 127.0.0.1:9470
  aarptun run -p 2001:db8:aa::/64 --pcap /var/tmp/aa.pcapng --pcap-size 1G
  aarptun run -p 2001:db8:aa::/64 --offload nft --keep-flows
  aarptun run -p 2001:db8:aa::/64 --netns web   # as 'ip netns add web' named it
  aarptun run -p 2001:db8:aa::/64 --netns "$(docker inspect -f '{{.State.Pid}}' web)"
  aarptun run -p 2001:db8:aa::/64 --sticky source --preserve-source   # on a gateway
  aarptun run -c /etc/aarptun/aarptun.toml --log-level debug`,
		Args: noArgsBut("--prefix"),
		RunE: func(c *cobra.Command, _ []string) error {
			loaded, err := a.load()
			if err != nil {
				return err
			}
			cfg := loaded.Config
			level := new(slog.LevelVar)
			level.Set(cfg.LogLevel)
			log := newLogger(os.Stderr, level, cfg.LogFormat)
			for _, warning := range loaded.Warnings {
				log.Warn(warning)
			}
			stop, err := startProfile(cfg.CPUProfile)
			if err != nil {
				return err
			}
			defer stop()
			return daemon.Run(c.Context(), cfg, version(), log, func() error {
				_, err := fmt.Fprintln(c.OutOrStdout(), "ready")
				return err
			}, daemon.Reload{File: loaded.Path, Level: level, Load: func() (config.Config, error) {
				loaded, err := a.load()
				return loaded.Config, err
			}})
		},
	}
	a = newAsked(cmd.Flags())
	cmd.Flags().StringVarP(&a.path, "config", "c", "", "`FILE` with what the flags do not say, such as "+defaultPath)
	return cmd
}

func newLogger(w io.Writer, level slog.Leveler, format string) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
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

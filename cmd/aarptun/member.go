package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"aarptun/internal/config"
	"aarptun/resolver/member"
)

func newMember() *cobra.Command {
	var joins []string
	cmd := &cobra.Command{
		Use:   "member --join AA%DEV [--join AA%DEV ...]",
		Short: "Be a member of an anycast address",
		Long: `Member joins anycast addresses on interfaces of this host, so that its kernel
answers the probes for them, and holds them until Ctrl-C or SIGTERM. It prints a
line "joined AA%DEV" for each. Bringing the traffic for AA to this host is the
routing's job; serving it is that of the programs that listen on this host.`,
		Example: "  aarptun member --join 2001:db8:aa::1%eth0",
		Args:    noArgsBut("--join"),
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if len(joins) == 0 {
				return usagef(c, "no anycast address given: name at least one, such as --join 2001:db8:aa::1%%eth0")
			}
			for _, join := range joins {
				m, joinErr := joinOne(c, join)
				if joinErr != nil {
					return joinErr
				}
				defer func() { err = errors.Join(err, m.Close()) }()
			}
			<-c.Context().Done()
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&joins, "join", nil, "anycast address and interface to join it on, as `AA%DEV`; may be repeated")
	return cmd
}

func joinOne(c *cobra.Command, join string) (*member.Membership, error) {
	aa, dev, err := parseJoin(join)
	if err != nil {
		return nil, usageError{err}
	}
	m, err := member.Join(aa, dev)
	if err != nil {
		return nil, hostError{err} // aa and dev are well formed, so the host is not as they need it
	}
	for _, w := range member.Warnings(aa) {
		fmt.Fprintf(c.ErrOrStderr(), "aarptun: warning: %s; mend it with: %s\n", w.Finding, w.Remedy)
	}
	if _, err := fmt.Fprintln(c.OutOrStdout(), "joined", m); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func parseJoin(s string) (netip.Addr, string, error) {
	left, dev, found := strings.Cut(s, "%")
	if !found || dev == "" {
		return netip.Addr{}, "", fmt.Errorf("--join %q: write AA%%DEV, such as 2001:db8:aa::1%%eth0", s)
	}
	aa, err := config.ParseAnycast(left)
	if err != nil {
		return netip.Addr{}, "", fmt.Errorf("--join %q: %w", s, err)
	}
	if !aa.Is6() {
		return netip.Addr{}, "", fmt.Errorf("--join %q: only IPv6 has anycast addresses that a host can join", s)
	}
	return aa, dev, nil
}

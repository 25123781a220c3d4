package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"aarptun/internal/config"
	"aarptun/resolver/member"
)

// serving is what the flags of member say.
type serving struct {
	joins, anycast, unicast []string
	pskFile, ed25519File    string
	check, checkTCP         string
	drain                   bool
	responder               member.ResponderConfig
	port                    uint16
	logging                 config.Config // LogLevel and LogFormat
}

func newMember() *cobra.Command {
	s := serving{port: member.DefaultPort, logging: config.Default()}
	cmd := &cobra.Command{
		Use:   "member {--anycast AA | --join AA%DEV} ...",
		Short: "Be a member of an anycast address",
		Long: `Member lets clients find this host as a member of anycast addresses, until
Ctrl-C or SIGTERM. There are two ways, which may be used together:

--anycast AA answers the clients that ask AA by STUN (UDP port 3478) with this
host's unicast address. It is for addresses that are configured as ordinary
ones, on lo for example, for IPv4, and wherever an answer is to be proved. It
needs no privilege. It prints "answering AA" for each.

--join AA%DEV joins an IPv6 address as anycast, so that the kernel answers the
echo requests for it. It needs root. It prints "joined AA%DEV" for each.

Bringing the traffic for AA to this host is the routing's job; serving it is
that of the programs that listen on this host. They must listen on its unicast
addresses too, for that is where clients are sent.

A member that is unhealthy (--check, --check-tcp) or draining says so to clients
that ask, and new flows go elsewhere, or nowhere if there is no other member.
The flows it has stay. It drains while the file --drain-file is there, and from
SIGUSR1 to SIGUSR2.

Proof: with --psk-file only clients that show one of its keys are answered, and
each answer shows that key; with --ed25519-file each answer is signed with the
first key of that file. 'aarptun keygen' makes both.`,
		Example: `  aarptun member --anycast 192.0.2.1 --check-tcp 443
  aarptun member --anycast 2001:db8:aa::1 --ed25519-file /etc/aarptun/member.key
  aarptun member --anycast 192.0.2.1 --check 'curl -fsS http://localhost/health'
  aarptun member --join 2001:db8:aa::1%eth0`,
		Args: noArgsBut("--anycast"),
		RunE: func(c *cobra.Command, _ []string) error { return s.run(c) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&s.joins, "join", nil, "anycast address and interface to join it on, as `AA%DEV`; may be repeated")
	f.StringSliceVar(&s.anycast, "anycast", nil, "anycast address `AA` to answer for; may be repeated")
	f.StringSliceVar(&s.unicast, "unicast", nil, "unicast address `UA` to name, one of each family; without it the one on the route back to the client")
	f.Uint16Var(&s.port, "port", s.port, "UDP `PORT` to answer on")
	f.StringVar(&s.pskFile, "psk-file", "", "`FILE` of the shared keys of which clients must show one")
	f.BoolVar(&s.responder.Keyless, "keyless", false, "with --psk-file, answer clients without a key as well")
	f.StringVar(&s.ed25519File, "ed25519-file", "", "`FILE` of the private key to sign answers with")
	f.DurationVar(&s.responder.Lifetime, "lifetime", member.DefaultLifetime, "`TIME` for which clients may use an answer, 1s to 24h")
	f.IntVar(&s.responder.Rate, "rate", member.DefaultRate, "`NUMBER` of answers a second for each client; an IPv6 client is its /64")
	f.StringVar(&s.check, "check", "", "`COMMAND` that finds this host healthy, by status 0")
	f.StringVar(&s.checkTCP, "check-tcp", "", "TCP `PORT`, or ADDRESS:PORT, that must accept connections")
	f.DurationVar(&s.responder.Interval, "check-interval", member.DefaultInterval, "`TIME` between two checks")
	f.DurationVar(&s.responder.Timeout, "check-timeout", member.DefaultTimeout, "`TIME` in which a check must end")
	f.BoolVar(&s.drain, "drain", false, "begin draining; SIGUSR2 ends it")
	f.StringVar(&s.responder.DrainFile, "drain-file", "", "drain while this `FILE` is there")
	f.Var(config.LogLevel(&s.logging.LogLevel), "log-level", "debug, info, warn or error")
	f.Var(config.Word(&s.logging.LogFormat, "text", "json"), "log-format", "form of the log")
	return cmd
}

func (s *serving) run(c *cobra.Command) (err error) {
	if len(s.joins)+len(s.anycast) == 0 {
		return usagef(c, "no anycast address given: name at least one, such as --anycast 192.0.2.1 or --join 2001:db8:aa::1%%eth0")
	}
	responder, err := s.listen(c)
	if err != nil {
		return err
	}
	for _, join := range s.joins {
		m, joinErr := joinOne(c, join)
		if joinErr != nil {
			if responder != nil {
				joinErr = errors.Join(joinErr, responder.Close())
			}
			return joinErr
		}
		defer func() { err = errors.Join(err, m.Close()) }()
	}
	if responder == nil {
		<-c.Context().Done()
		return nil
	}
	return s.answer(c, responder)
}

// answer runs the responder, and drains it when told so.
func (s *serving) answer(c *cobra.Command, r *member.Responder) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)
	r.Drain(s.drain)
	ctx, cancel := context.WithCancel(c.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	for _, aa := range s.responder.Anycast {
		if _, err := fmt.Fprintln(c.OutOrStdout(), "answering", aa); err != nil {
			cancel()
			return errors.Join(err, <-done)
		}
	}
	for {
		select {
		case sig := <-signals:
			r.Drain(sig == syscall.SIGUSR1)
		case err := <-done:
			return err
		}
	}
}

// listen returns the responder that the flags ask for, or nil.
func (s *serving) listen(c *cobra.Command) (*member.Responder, error) {
	if len(s.anycast) == 0 {
		return nil, s.onlyAnycast(c)
	}
	if err := s.read(); err != nil {
		return nil, err
	}
	s.responder.Log = newLogger(c.ErrOrStderr(), s.logging.LogLevel, s.logging.LogFormat)
	r, err := member.Listen(s.responder)
	if errors.Is(err, member.ErrInvalid) {
		return nil, usageError{err}
	}
	if err == nil {
		s.warn(s.responder.Log)
	}
	return r, err
}

// onlyAnycast refuses the flags that do nothing without --anycast.
func (s *serving) onlyAnycast(c *cobra.Command) error {
	for _, name := range []string{"unicast", "port", "psk-file", "keyless", "ed25519-file", "lifetime", "rate", "check", "check-tcp", "check-interval", "check-timeout", "drain", "drain-file"} {
		if c.Flags().Changed(name) {
			return usageError{fmt.Errorf("--%s is about the answers of --anycast, which is not given", name)}
		}
	}
	return nil
}

// read fills in the responder's configuration.
func (s *serving) read() (err error) {
	r := &s.responder
	if r.Anycast, err = parseAddrs("--anycast", s.anycast); err != nil {
		return err
	}
	if r.Unicast, err = parseAddrs("--unicast", s.unicast); err != nil {
		return err
	}
	if s.port == 0 {
		return usageError{errors.New("--port 0: it must be 1 to 65535")}
	}
	switch { // here 0 would stand for the default
	case r.Rate < 1:
		return usageError{fmt.Errorf("--rate %d: it must be more than 0", r.Rate)}
	case r.Lifetime == 0:
		return usageError{errors.New("--lifetime 0s: it must be 1s to 24h")}
	case r.Interval <= 0:
		return usageError{fmt.Errorf("--check-interval %v: it must be more than 0", r.Interval)}
	case r.Timeout <= 0:
		return usageError{fmt.Errorf("--check-timeout %v: it must be more than 0", r.Timeout)}
	}
	r.Port = s.port
	if s.pskFile != "" {
		if r.PSKs, err = member.ReadPSKs(s.pskFile); err != nil {
			return err
		}
	} else if r.Keyless {
		return usageError{errors.New("--keyless: without --psk-file nobody needs a key")}
	}
	if s.ed25519File != "" {
		keys, err := member.ReadPrivateKeys(s.ed25519File)
		if err != nil {
			return err
		}
		r.Signer = keys[0]
	}
	r.Check, err = s.parseCheck()
	return err
}

// parseCheck returns the check that the flags ask for, or nil.
func (s *serving) parseCheck() (member.Check, error) {
	switch {
	case s.check != "" && s.checkTCP != "":
		return nil, usageError{errors.New("--check and --check-tcp: give one of them")}
	case s.check != "":
		return member.Command(s.check), nil
	case s.checkTCP == "":
		return nil, nil
	}
	if port, err := strconv.ParseUint(s.checkTCP, 10, 16); err == nil && port != 0 {
		if len(s.responder.Unicast) > 0 {
			return member.Connect(uint16(port), s.responder.Unicast...), nil
		}
		return member.ConnectLocal(uint16(port), s.responder.Anycast), nil
	}
	to, err := netip.ParseAddrPort(s.checkTCP)
	if err != nil || to.Port() == 0 {
		return nil, usageError{fmt.Errorf("--check-tcp %q: write a port, such as 443, or an address with a port, such as 127.0.0.1:443 or [::1]:443", s.checkTCP)}
	}
	return member.Connect(to.Port(), to.Addr()), nil
}

// warn tells of an address that no question can come to yet.
func (s *serving) warn(log *slog.Logger) {
	own := member.Locals()
	for _, aa := range s.responder.Anycast {
		joined := slices.ContainsFunc(s.joins, func(j string) bool { return strings.HasPrefix(j, aa.String()+"%") })
		if !joined && !slices.Contains(own, aa) {
			log.Warn("the anycast address is not configured on this host yet: questions will come once it is, by 'ip addr add' on lo, say, or --join", "anycast", aa)
		}
	}
	for _, ua := range s.responder.Unicast {
		if !slices.Contains(own, ua) {
			log.Warn("the unicast address is none of this host's: clients that are sent there must reach this host", "unicast", ua)
		}
	}
}

func parseAddrs(flag string, list []string) (addrs []netip.Addr, err error) {
	for _, s := range list {
		a, err := config.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
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

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"aarptun/internal/admin"
	"aarptun/internal/config"
)

// level is how bad a finding is.
type level string

const (
	fine    level = "ok"
	warning level = "warning"
	problem level = "problem"
)

// finding is what one check has found.
type finding struct {
	Check   string     `json:"check"`
	Level   level      `json:"level"`
	Anycast netip.Addr `json:"anycast,omitzero"` // if it is about one
	Finding string     `json:"finding"`          // what is so, and what comes of it
	Remedy  string     `json:"remedy,omitempty"` // the command that mends it
}

// doctor is one examination.
type doctor struct {
	asking   asking
	cfg      config.Config // AdminSocket and Table
	daemon   *admin.Status // nil if none is running
	gateway  bool          // hosts behind this one are to be carried
	clients  []netip.Addr  // some of those
	findings []finding
}

func (d *doctor) say(check string, l level, remedy, format string, args ...any) {
	d.findings = append(d.findings, finding{Check: check, Level: l, Finding: fmt.Sprintf(format, args...), Remedy: remedy})
}

func newDoctor() *cobra.Command {
	d := &doctor{cfg: config.Default(), asking: asking{mark: config.Default().Mark, stunPort: config.Default().STUNPort}}
	cmd := &cobra.Command{
		Use:   "doctor [AA ...]",
		Short: "Look for what keeps aarptun from working here",
		Long: `Doctor looks at this host, as a client and as a member, and says of each thing
whether it is well, and if not, what comes of it and which command mends it: the
TUN device, capabilities, ping sockets, settings of the kernel, rules, routes, a
running daemon, the clock. For each anycast address AA that is given it also
asks the members by every method, and looks at the ways to AA and to the member.

With --gateway, or where the kernel forwards packets already, it also looks for
what keeps hosts behind this one from being carried; --client names one of them,
to look at the way to it.

It changes nothing. Run it as root to see what a daemon would; a running daemon
that was given --fwmark or --table is to be named by the same flags.

Exit code 1 says that there is a problem; a warning alone does not.`,
		Example: `  aarptun doctor
  aarptun doctor 2001:db8:aa::1
  aarptun doctor --gateway
  aarptun doctor --client 192.0.2.7
  aarptun doctor --json 2001:db8:aa::1 192.0.2.1`,
		RunE: func(c *cobra.Command, args []string) error {
			var aas []netip.Addr
			for _, arg := range args {
				aa, err := config.ParseAnycast(arg)
				if err != nil {
					return err
				}
				aas = append(aas, aa)
			}
			if d.asking.timeout < time.Millisecond || d.asking.timeout > time.Minute {
				return usagef(c, "--timeout %v: it must be 1ms to 1m", d.asking.timeout)
			}
			if err := d.cfg.ValidatePaths(); err != nil {
				return err
			}
			return d.run(c, aas)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&d.asking.json, "json", false, "print JSON, one object a finding")
	f.BoolVar(&d.gateway, "gateway", false, "this host is to carry the flows of a LAN behind it")
	f.Func("client", "`ADDR` of a host behind this one; may be repeated", func(s string) error {
		client, err := config.ParseAddr(s)
		d.clients = append(d.clients, client)
		return err
	})
	f.DurationVar(&d.asking.timeout, "timeout", 2*time.Second, "`TIME` to wait for answers, 1ms to 1m")
	f.Var(config.Mark(&d.asking.mark), "fwmark", "mark of the daemon's sockets")
	f.IntVar(&d.cfg.Table, "table", d.cfg.Table, "`NUMBER` of the daemon's routing table")
	f.StringVar(&d.cfg.AdminSocket, "admin-socket", d.cfg.AdminSocket, "`PATH` of the daemon's unix socket")
	f.Var(config.Prefixes(&d.asking.members), "member-prefix", "believe only members in this prefix; may be repeated")
	f.StringVar(&d.asking.pskFile, "psk-file", "", "`FILE` of the shared keys; believe only answers that show its first one")
	f.Var(config.PublicKeys(&d.asking.public), "pubkey", "public key of a member; believe only answers signed with one of them; may be repeated")
	f.Uint16Var(&d.asking.stunPort, "stun-port", d.asking.stunPort, "UDP `PORT` of the members' responders; 0 does not ask them")
	return cmd
}

func (d *doctor) run(c *cobra.Command, aas []netip.Addr) error {
	d.checkDevice()
	d.checkCapabilities()
	d.checkPing()
	d.checkDaemon(c.Context())
	d.checkRules(aas)
	d.checkSettings()
	d.checkGateway()
	d.checkMember(aas)
	d.checkClock()
	for _, aa := range aas {
		before := len(d.findings)
		if err := d.checkAnycast(c, aa); err != nil {
			return err
		}
		for i := range d.findings[before:] {
			d.findings[before+i].Anycast = aa
		}
	}
	return d.report(c.OutOrStdout())
}

// checkDaemon finds out whether a daemon runs, which other checks need.
func (d *doctor) checkDaemon(ctx context.Context) {
	status, err := admin.NewClient(d.cfg.AdminSocket).Status(ctx)
	switch {
	case err == nil:
		d.daemon = &status
		d.say("daemon", fine, "", "it runs as process %d and carries %v into %s", status.PID, spaced(status.Prefixes), status.Device)
	case errors.Is(err, admin.ErrNotRunning):
		d.say("daemon", fine, "", "none is running at %s", d.cfg.AdminSocket)
	default:
		d.say("daemon", warning, "", "it cannot be asked, so what it does is not known here: %v", err)
	}
}

func (d *doctor) report(w io.Writer) error {
	problems := 0
	for _, f := range d.findings {
		if f.Level == problem {
			problems++
		}
		if d.asking.json {
			if err := printJSON(w, f); err != nil {
				return err
			}
			continue
		}
		about := f.Check
		if f.Anycast.IsValid() {
			about = f.Anycast.String() + " " + about
		}
		text := fmt.Sprintf("%-8s %s: %s\n", f.Level, about, f.Finding)
		if f.Remedy != "" {
			text += fmt.Sprintf("%-8s   mend it: %s\n", "", f.Remedy)
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
	}
	switch problems {
	case 0:
		return nil
	case 1:
		return errors.New("there is a problem")
	}
	return fmt.Errorf("there are %d problems", problems)
}

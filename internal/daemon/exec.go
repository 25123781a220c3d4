package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"aarptun/internal/config"
	"aarptun/nat"
	"aarptun/tun"
)

// Command is what a command's namespace has.
type Command struct {
	Device *os.File // of its TUN device; Exec owns it
	Name   string   // of the device
	MTU    int      // bytes
	// Resolvers are the addresses that stand there for name servers which only
	// our own namespace can reach.
	Resolvers map[netip.Addr]netip.Addr
}

// Exec carries what a command sends, until ended returns, and then for
// cfg.DrainTimeout at most what it has sent and nobody has got yet. ready is called
// once, when flows are carried. cfg must be valid for it.
//
// The process is to end when Exec has returned: sockets that still have something to
// send are left to the kernel, as the command's own would have been. To end the
// rooms would reset them.
func Exec(cfg config.Config, version string, c Command, log *slog.Logger, ready func() error, ended func()) error {
	raiseFiles(cfg)
	p := place{name: c.Name, mtu: c.MTU, everything: true, resolvers: c.Resolvers}
	var err error
	if p.device, p.offload, err = tun.Adopt(c.Device, offloads[cfg.OffloadGSO]); err != nil {
		return err
	}
	h, err := build(cfg, version, p, log, Reload{})
	if err != nil {
		return err
	}
	life, end := context.WithCancel(context.Background())
	defer end()
	group, failed := errgroup.WithContext(life)
	rooms := []func(context.Context) error{h.ping.Run, h.kernel.Run, h.resolver.Run, h.translator.Run, h.stack.Run, h.giveBack}
	if h.member != nil {
		rooms = append(rooms, h.member.Run)
	}
	if h.admin != nil {
		rooms = append(rooms, h.admin.Run)
	}
	for _, room := range rooms {
		group.Go(func() error { return room(failed) })
	}
	if err := ready(); err != nil {
		end()
		return errors.Join(err, group.Wait())
	}
	over := make(chan struct{})
	go func() { // ends with the command, which the caller waits for as we do
		defer close(over)
		ended()
	}()
	select {
	case <-over:
	case <-failed.Done():
		return group.Wait()
	}
	h.flush(cfg.DrainTimeout)
	if h.admin != nil {
		return h.admin.Close()
	}
	return nil
}

const (
	// flushLook is the time between two looks at what is still on its way, and
	// flushQuiet how many of them in a row must find nothing.
	flushLook  = 2 * time.Millisecond
	flushQuiet = 2
)

// flush waits until what a command has sent before it ended is on its way: no
// packet waits, no flow waits for its member, and each TCP flow has passed on the
// command's FIN. Its kernel sends that for every socket that was left open.
func (h *house) flush(patience time.Duration) {
	packets, quiet := h.stack.Stats().PacketsIn, 0
	for deadline := time.Now().Add(patience); quiet < flushQuiet && time.Now().Before(deadline); time.Sleep(flushLook) {
		now := h.stack.Stats().PacketsIn
		quiet++
		if now != packets || h.isSending() {
			packets, quiet = now, 0
		}
	}
}

// isSending says whether a flow has something of the client's that is not yet
// with the kernel.
func (h *house) isSending() bool {
	for _, f := range h.translator.Flows() {
		switch {
		case f.State < nat.Established,
			f.Proto == nat.TCP && f.State != nat.ClientClosed,
			f.Proto == nat.UDP && f.Sent == 0:
			return true
		}
	}
	return false
}

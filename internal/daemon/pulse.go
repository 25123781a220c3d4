package daemon

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// statusEvery is how often systemd is told how things stand, if they have changed.
const statusEvery = 10 * time.Second

// pulse tells systemd that the rooms live, and how things stand, as long as they
// do. A room that hangs holds it up, and then systemd hears nothing: that is how
// its watchdog finds out (WatchdogSec=, systemd.service(5)).
type pulse struct {
	watchdog time.Duration // within which systemd must hear of us; 0 if it does not watch
	rooms    []beat
	packets  packetLoop
	status   func() string
	log      *slog.Logger

	said  string // the last status
	stuck bool   // and it was logged
}

// beat is a question that a room which lives answers at once.
type beat struct {
	room string
	ask  func()
}

// packetLoop is what can be seen of the loop that reads packets.
type packetLoop struct {
	waiting func() bool   // there are packets to read
	moved   func() uint64 // how many were read

	before  uint64
	waited  bool
	started bool
}

// stands reports whether packets wait that waited at the last look too, and none
// was read since.
func (l *packetLoop) stands() bool {
	moved, waiting := l.moved(), l.waiting()
	stands := l.started && waiting && l.waited && moved == l.before
	l.started, l.before, l.waited = true, moved, waiting
	return stands
}

func (h *house) newPulse() *pulse {
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		h.log.Warn("systemd's watchdog is not served: WATCHDOG_USEC or WATCHDOG_PID cannot be read", "err", err)
	}
	return &pulse{
		watchdog: watchdog, log: h.log, status: h.statusText,
		rooms: []beat{
			{"translator", func() { h.translator.Stats() }}, {"resolver", func() { h.resolver.Stats() }},
			{"stack", func() { h.stack.Stats() }}, {"host", func() { _ = h.host.Missing() }}, // what it finds, Watch says
		},
		packets: packetLoop{waiting: h.host.Device().Waiting, moved: func() uint64 {
			s := h.stack.Stats()
			return s.PacketsIn + s.ReadErrors
		}},
	}
}

// live tells systemd from when flows are carried until ctx ends.
func (h *house) live(ctx context.Context) error {
	select {
	case <-h.carries:
	case <-ctx.Done():
	}
	return h.newPulse().run(ctx)
}

func (h *house) statusText() string {
	n, r := h.translator.Stats(), h.resolver.Stats()
	text := fmt.Sprintf("carrying %d flows, %d pins", n.Flows, r.Pins)
	if h.host.Stats().Contest {
		text += "; another program keeps taking away routes or rules"
	}
	return text
}

// run tells systemd until ctx ends. Without a systemd it only waits.
func (p *pulse) run(ctx context.Context) error {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		<-ctx.Done()
		return nil
	}
	every := cmp.Or(min(p.watchdog/3, statusEvery), statusEvery)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		p.beat(every)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// beat asks every room, and tells systemd if all have answered. It does not return
// while one hangs.
func (p *pulse) beat(patience time.Duration) {
	for _, b := range p.rooms {
		late := time.AfterFunc(patience, func() { p.complain(b.room + " does not answer") })
		b.ask()
		late.Stop()
	}
	if p.packets.stands() {
		if !p.stuck {
			p.stuck = true
			p.complain("packets wait at the device, and none is read")
		}
		return
	}
	p.stuck = false
	if p.watchdog > 0 {
		notify(p.log, daemon.SdNotifyWatchdog)
	}
	if text := p.status(); text != p.said {
		p.said = text
		notify(p.log, "STATUS="+text)
	}
}

func (p *pulse) complain(what string) {
	p.log.Error("a room hangs: systemd's watchdog hears nothing of us, and will start aarptun again if it is set", "what", what)
}

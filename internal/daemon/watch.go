package daemon

import (
	"log/slog"

	"aarptun/internal/capture"
	"aarptun/internal/config"
	"aarptun/internal/metrics"
	"aarptun/stack"
)

// tapped returns the device, behind a tap if what crosses it is to be written.
func (h *house) tapped(cfg config.Config, version string) (stack.Device, error) {
	device := h.place.device
	if cfg.Pcap == "" {
		return device, nil
	}
	var err error
	h.capture, err = capture.Open(device, capture.Config{
		Path: cfg.Pcap, Size: cfg.PcapSize, Device: h.place.name, Version: version, Log: h.log,
	})
	return h.capture, err
}

// listenMetrics opens the listener for Prometheus, if there is to be one.
func (h *house) listenMetrics(cfg config.Config, version string, log *slog.Logger) (err error) {
	if cfg.MetricsListen == "" {
		return nil
	}
	if h.metrics, err = metrics.Listen(cfg.MetricsListen, figures{h}, version, log); err == nil {
		log.Info("metrics can be asked for", "listen", h.metrics.Addr())
	}
	return err
}

// figures is where the metrics come from.
type figures struct{ house *house }

// Figures implements [metrics.Source].
func (s figures) Figures() metrics.Figures {
	h := s.house
	f := metrics.Figures{NAT: h.translator.Stats(), Resolver: h.resolver.Stats(), Ping: h.ping.Stats(), Stack: h.stack.Stats(), TUN: h.host.Stats()}
	config := h.configStatus()
	f.Config = metrics.Config{Loaded: config.Loaded, ReloadFailed: config.Error != ""}
	if h.member != nil {
		f.STUN = h.member.Stats()
	}
	if h.offload != nil {
		f.Offload = h.offload.figures()
	}
	if h.capture != nil {
		f.Capture = h.capture.Stats()
	}
	return f
}

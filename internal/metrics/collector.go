package metrics

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"aarptun/internal/capture"
	"aarptun/nat"
	"aarptun/resolver"
	"aarptun/resolver/member"
	"aarptun/resolver/ping"
	"aarptun/stack"
	"aarptun/tun"
)

// Source is where the figures come from. It is asked at each scrape.
type Source interface {
	Figures() Figures
}

// Figures are the Stats of the rooms at one moment. Those of a room that is not
// used are zero.
type Figures struct {
	NAT      nat.Stats
	Resolver resolver.Stats
	Ping     ping.Stats
	STUN     member.ProberStats
	Stack    stack.Stats
	TUN      tun.Stats
	Capture  capture.Stats
	Config   Config
	Offload  Offload
}

// Offload is what the kernel carries by itself.
type Offload struct {
	TCP, UDP, Echo int // flows now
	Pins           int // that it knows
	Rebuilds       uint64
	Failures       uint64
}

// Config is how the configuration stands.
type Config struct {
	Loaded       time.Time // when it was read
	ReloadFailed bool      // the last reload changed nothing
}

const namespace = "aarptun_"

// family is one metric with all its series.
type family struct {
	name, help string
	kind       prometheus.ValueType // 0 for a histogram
	label      string               // "" if it has but one series
	series     func(Figures) []sample
	times      func(Figures) map[string]histogram // of a histogram, by label
}

// sample is the value of one series.
type sample struct {
	label string
	value float64
}

// histogram is what the rooms' own have in common.
type histogram struct {
	bounds []time.Duration
	counts []uint64
	sum    time.Duration
}

// counted makes a family of one counter.
func counted(name, help string, of func(Figures) uint64) family {
	return family{name: name, help: help, kind: prometheus.CounterValue, series: func(f Figures) []sample {
		return []sample{{value: float64(of(f))}}
	}}
}

// gauged makes a family of one gauge.
func gauged(name, help string, of func(Figures) int) family {
	return family{name: name, help: help, kind: prometheus.GaugeValue, series: func(f Figures) []sample {
		return []sample{{value: float64(of(f))}}
	}}
}

// by makes a family of counters that a label tells apart.
func by(label, name, help string, series func(Figures) []sample) family {
	return family{name: name, help: help, kind: prometheus.CounterValue, label: label, series: series}
}

func (f family) describe() *prometheus.Desc {
	var labels []string
	if f.label != "" {
		labels = []string{f.label}
	}
	return prometheus.NewDesc(namespace+f.name, f.help, labels, nil)
}

// collector implements [prometheus.Collector].
type collector struct {
	source Source
	all    []family
	descs  []*prometheus.Desc
}

func newCollector(s Source) *collector {
	c := &collector{source: s, all: families()}
	for _, f := range c.all {
		c.descs = append(c.descs, f.describe())
	}
	return c
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		descs <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(metrics chan<- prometheus.Metric) {
	figures := c.source.Figures()
	for i, f := range c.all {
		labels := func(label string) []string {
			if f.label == "" {
				return nil
			}
			return []string{label}
		}
		if f.times != nil {
			for label, h := range f.times(figures) {
				metrics <- h.metric(c.descs[i], labels(label))
			}
			continue
		}
		for _, s := range f.series(figures) {
			metrics <- prometheus.MustNewConstMetric(c.descs[i], f.kind, s.value, labels(s.label)...)
		}
	}
}

func (h histogram) metric(desc *prometheus.Desc, labels []string) prometheus.Metric {
	buckets, total := make(map[float64]uint64, len(h.bounds)), uint64(0)
	for i, n := range h.counts {
		total += n
		if i < len(h.bounds) {
			buckets[h.bounds[i].Seconds()] = total
		}
	}
	return prometheus.MustNewConstHistogram(desc, total, h.sum.Seconds(), buckets, labels...)
}

// newRegistry has all that is shown.
func newRegistry(s Source, version string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: namespace + "build_info", Help: "Which aarptun this is; always 1.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	r.MustRegister(newCollector(s), build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

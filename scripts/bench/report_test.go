package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// found is a run of two repetitions: the second was on a machine that was half
// as fast, one peer failed, and another has half of the rows only.
func found() *results {
	r := &results{
		Date: "2026-01-02", Commit: "abc1234", Command: "scripts/bench.sh --reps 2", Reps: 2, Scale: fullScale,
		Machine: machine{CPU: "Test <CPU>", Cores: 2, Memory: 4, Kernel: "6.18.0", Arch: "amd64", Go: "go1.26.3", Others: 0.02},
		Variants: []shown{
			{Name: "direct", What: "routing alone"}, {Name: "pasta", What: "a peer", Peer: true}, {Name: "slirp4netns", What: "another", Peer: true},
			{Name: aarptunOn, What: "aarptun"}, {Name: aarptunKernel, What: "the kernel"},
		},
		LeftOut:  []leftOut{{"nft", "there is no nft: apt-get install nftables"}},
		Settings: []string{"ulimit -n = 20000"},
	}
	for rep := 1; rep <= 2; rep++ {
		speed := 1 / float64(rep)
		add := func(variant, row string, v values, err string) {
			r.Samples = append(r.Samples, sample{Rep: rep, Variant: variant, Row: row, Values: v, Error: err})
		}
		tcp := func(gbps, cpu, own float64) values {
			return values{"gbps": gbps * speed, "cpu_machine": cpu / speed, "cpu_translator": own / speed}
		}
		add("direct", "tcp.up1", tcp(8, 1, 0), "")
		add("pasta", "tcp.up1", tcp(2, 4, 3), "")
		add("slirp4netns", "tcp.up1", nil, errCarriedNothing.Error())
		add(aarptunOn, "tcp.up1", tcp(6.4, 1.9, 1.2), "")
		add(aarptunKernel, "tcp.up1", tcp(8.1, 1.2, 0), "")
		add(aarptunKernel, "idle", values{"kb": 0.004, "after": 1, "settled": 0.1, "before_mb": 24, "during_mb": 24, "after_mb": 24}, "")
		if rep == 1 {
			add("pasta", "udp.paced", values{"mbps": 298, "loss": 0.75}, "")
			add("slirp4netns", "udp.paced", nil, "no datagram was answered")
		} else {
			add("pasta", "udp.paced", nil, "not a datagram arrived")
			add("slirp4netns", "udp.paced", nil, "no datagram was answered")
		}
		add("direct", "udp.paced", values{"mbps": 300, "loss": 0.25}, "")
		add(aarptunOn, "udp.paced", values{"mbps": 299, "loss": 0.5}, "")
		add("direct", "connect", values{"rate": 13000 * speed, "p50": 0.1, "p99": 1}, "")
		add("pasta", "connect", values{"rate": 5000 * speed, "p50": 0.5, "p99": 2}, "")
		add(aarptunOn, "connect", values{"rate": 7150 * speed, "p50": 0.6, "p99": 3}, "")
		add("pasta", "idle", values{"kb": 0.1, "after": 1, "settled": 0.1, "before_mb": 20, "during_mb": 21, "after_mb": 20}, "")
		add(aarptunOn, "idle", values{"kb": 11.5, "after": 1.04, "settled": 3, "before_mb": 20, "during_mb": 123.5, "after_mb": 20.8}, "")
	}
	return r
}

func TestPage(t *testing.T) {
	var page bytes.Buffer
	writePage(&page, found(), "performance")
	golden(t, "page.md", page.Bytes())
}

func TestChart(t *testing.T) {
	for _, c := range charts {
		svg := c.draw(found())
		if c.name == "tcp" {
			golden(t, "tcp.svg", []byte(svg))
		}
		d := xml.NewDecoder(strings.NewReader(svg))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s is no XML: %v", c.name, err)
			}
		}
	}
}

// Each chart must be of something, and each figure that names a chart be shown
// by one.
func TestChartsAndRowsFit(t *testing.T) {
	shown := map[string]bool{}
	for _, c := range charts {
		if shown[c.name] = true; len(c.panels(groups)) == 0 {
			t.Errorf("no figure is shown by chart %s", c.name)
		}
	}
	names := map[string]bool{}
	for _, g := range groups {
		for _, r := range g.rows {
			if names[r.name] {
				t.Errorf("two rows are called %s", r.name)
			}
			names[r.name] = true
			if len(r.metrics) != len(g.rows[0].metrics) {
				t.Errorf("%s has not the figures of its group", r.name)
			}
			for _, m := range r.metrics {
				if m.chart != "" && !shown[m.chart] {
					t.Errorf("%s, %s: there is no chart %s", r.name, m.key, m.chart)
				}
			}
		}
	}
}

func TestChartOfNothingIsNone(t *testing.T) {
	for _, c := range charts {
		if svg := c.draw(&results{}); svg != "" {
			t.Errorf("%s: %s", c.name, svg)
		}
	}
}

// What is written can be read, and gives the same page.
func TestResultsComeBack(t *testing.T) {
	file := filepath.Join(t.TempDir(), "samples.json")
	if err := found().write(file); err != nil {
		t.Fatal(err)
	}
	r, err := readResults(file)
	if err != nil {
		t.Fatal(err)
	}
	var before, after bytes.Buffer
	writePage(&before, found(), "")
	if writePage(&after, r, ""); before.String() != after.String() {
		t.Errorf("%s\nis not\n%s", &after, &before)
	}
}

func TestNumber(t *testing.T) {
	for want, got := range map[string]string{
		"0": number(0.4, 0), "1,234,567": number(1234567, 0), "999": number(999, 0), "12,345.68": number(12345.678, 2),
		"-1,000": number(-1000, 0), "0.00": number(-0.001, 2), "-0.25": number(-0.25, 2),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s has changed (go test -update writes it anew):\n%s", file, got)
	}
}

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// results are all that a run has found, as it is kept in JSON.
type results struct {
	Date     string        `json:"date"`
	Commit   string        `json:"commit"`
	Command  string        `json:"command"` // to repeat it
	Machine  machine       `json:"machine"`
	Reps     int           `json:"reps"`
	Scale    scale         `json:"scale"`
	Variants []shown       `json:"variants"`
	LeftOut  []leftOut     `json:"left_out,omitempty"`
	Settings []string      `json:"settings,omitempty"` // of the kernel and the limits
	Samples  []sample      `json:"samples"`
	Took     time.Duration `json:"took_ns"`
}

// machine is what the figures depend on most.
type machine struct {
	CPU    string  `json:"cpu"`
	Cores  int     `json:"cores"`
	Memory float64 `json:"memory_gib"`
	Kernel string  `json:"kernel"`
	Arch   string  `json:"arch"`
	Go     string  `json:"go"`
	// Others is how many cores other programs kept busy just before the run.
	Others float64 `json:"others_cores"`
}

// shown is a variant as the page shows it.
type shown struct {
	Name string `json:"name"`
	What string `json:"what"`
	Peer bool   `json:"peer,omitempty"`
}

// sample is one row of one variant in one repetition.
type sample struct {
	Rep     int    `json:"rep"`
	Variant string `json:"variant"`
	Row     string `json:"row"`
	Values  values `json:"values,omitempty"`
	Usage   usage  `json:"usage"`
	Error   string `json:"error,omitempty"`
	Remark  string `json:"remark,omitempty"`
}

// describeMachine takes a second.
func describeMachine() (machine, error) {
	m := machine{Cores: runtime.NumCPU(), Go: runtime.Version(), Arch: runtime.GOARCH}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return m, err
	}
	m.Kernel = unix.ByteSliceToString(name.Release[:])
	m.CPU = field("/proc/cpuinfo", "model name")
	var kib float64
	_, _ = fmt.Sscan(field("/proc/meminfo", "MemTotal"), &kib) // 0 is shown as such
	m.Memory = kib / (1 << 20)
	quiet, err := startMeter(0)
	if err != nil {
		return m, err
	}
	time.Sleep(time.Second)
	u, err := quiet.stop()
	m.Others = u.Machine / u.Wall
	return m, err
}

// field returns what stands after a name and a colon in a file of /proc.
func field(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func readResults(file string) (*results, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var r results
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &r, nil
}

func (r *results) write(file string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// byRep returns a figure of a variant by repetition.
func (r *results) byRep(variant, row, key string) map[int]float64 {
	found := map[int]float64{}
	for _, s := range r.Samples {
		if v, ok := s.Values[key]; ok && s.Variant == variant && s.Row == row && s.Error == "" {
			found[s.Rep] = v
		}
	}
	return found
}

// errorOf returns the worst error of a variant in a row, or nothing: that it was
// bypassed, or else the first.
func (r *results) errorOf(variant, row string) string {
	bypassed := r.said(variant, row, func(s sample) string {
		if s.Error == errCarriedNothing.Error() {
			return s.Error
		}
		return ""
	})
	return cmp.Or(bypassed, r.said(variant, row, func(s sample) string { return s.Error }))
}

// errors returns in how many samples a variant has failed in a row.
func (r *results) errors(variant, row string) (n int) {
	for _, s := range r.Samples {
		if s.Variant == variant && s.Row == row && s.Error != "" {
			n++
		}
	}
	return n
}

// remarkOf returns the first remark of a variant in a row, or nothing.
func (r *results) remarkOf(variant, row string) string {
	return r.said(variant, row, func(s sample) string { return s.Remark })
}

func (r *results) said(variant, row string, what func(sample) string) string {
	for _, s := range r.Samples {
		if s.Variant == variant && s.Row == row && what(s) != "" {
			return what(s)
		}
	}
	return ""
}

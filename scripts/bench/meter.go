package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// userHZ is the unit of /proc/stat: the kernel's ABI, whatever its own tick is.
const userHZ = 100

// usage is what a load took: seconds of the wall clock, and of CPU of the whole
// machine and of the translator's process.
type usage struct {
	Wall       float64 `json:"wall"`
	Machine    float64 `json:"machine"`
	Translator float64 `json:"translator"`
	GB         float64 `json:"gb,omitempty"` // that arrived by TCP
}

// What a translator uses at least while it carries a load: a share of the
// machine's CPU, or of a core, for others may keep the machine busy; or seconds
// for each GB, for a flow may stall. Those here use twenty times that; one that
// is bypassed, next to none.
const (
	carriedPart  = 0.01
	carriedPerGB = 0.02
)

// carried reports whether the translator can have carried the load.
func (u usage) carried() bool {
	if u.Translator <= 0 {
		return false
	}
	return u.Translator >= carriedPart*min(u.Wall, u.Machine) || u.GB > 0 && u.Translator >= carriedPerGB*u.GB
}

// meter measures from its start to its stop.
type meter struct {
	pid    int // the translator's, 0 if there is none
	at     time.Time
	before usage
}

func startMeter(pid int) (*meter, error) {
	before, err := readCPU(pid)
	return &meter{pid: pid, at: time.Now(), before: before}, err
}

func (m *meter) stop() (usage, error) {
	wall := time.Since(m.at).Seconds()
	after, err := readCPU(m.pid)
	return usage{Wall: wall, Machine: after.Machine - m.before.Machine, Translator: after.Translator - m.before.Translator}, err
}

func readCPU(pid int) (u usage, err error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return u, err
	}
	if u.Machine, err = busySeconds(stat); err != nil || pid == 0 {
		return u, err
	}
	// The process's own clock: the sum over its threads, dead ones too, in
	// nanoseconds. utime and stime in /proc/PID/stat are the same in ticks.
	const sched = 2 // CPUCLOCK_SCHED; see MAKE_PROCESS_CPUCLOCK in linux/posix-timers.h
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil {
		return u, fmt.Errorf("the CPU clock of the translator, process %d: %w", pid, err)
	}
	u.Translator = time.Duration(ts.Nano()).Seconds()
	return u, nil
}

// busySeconds returns the CPU time of the whole machine from /proc/stat: user,
// nice, system, irq and softirq. Stolen time is not ours, and guest time is
// within user.
func busySeconds(stat []byte) (float64, error) {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	fields := strings.Fields(string(line))
	if len(fields) < 8 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	ticks := 0.0
	for _, i := range []int{1, 2, 3, 6, 7} {
		n, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		ticks += n
	}
	return ticks / userHZ, nil
}

// residentBytes returns the resident memory of a process.
func residentBytes(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			return kib * 1024, err
		}
	}
	return 0, errors.New("a process without VmRSS: it has ended")
}

package daemon

import (
	"bytes"
	"context"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"aarptun/internal/config"
	"aarptun/nat"
)

// ownUse tells what this process holds: goroutines, file descriptors, bytes of
// memory in RAM. What the kernel does not tell is -1.
func ownUse() (goroutines, files int, resident int64) {
	return runtime.NumGoroutine(), openDescriptors(), residentBytes()
}

// openDescriptors counts the entries of /proc/self/fd (proc(5)), but for the
// descriptor that is open only to read them.
func openDescriptors() int {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return -1
	}
	defer func() { _ = dir.Close() }() // nothing was written
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return -1
	}
	return len(names) - 1
}

// raiseFiles lets the process open as many files as the limits want, if it is
// privileged enough (CAP_SYS_RESOURCE); if not, it carries fewer flows, which is
// said.
func raiseFiles(cfg config.Config) {
	var limit syscall.Rlimit
	want := uint64(max(nat.EnoughFiles, askedLimits(cfg).Files()))
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil && limit.Max < want {
		limit.Cur, limit.Max = want, want
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) // as it was
	}
}

// giveBackAfter is how long after most flows have gone their memory is given back:
// the others may be about to go too.
const giveBackAfter = 2 * time.Second

// giveBack returns the memory of flows that have gone to the host, which the Go
// runtime would do over many minutes, and with a ticker of its own.
func (h *house) giveBack(ctx context.Context) error {
	for {
		select {
		case <-h.translator.Fewer():
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(giveBackAfter):
			runtime.GC() // what is in pools goes in the second collection
			debug.FreeOSMemory()
		case <-ctx.Done():
			return nil
		}
	}
}

// mayOpen is how many files the process may have open. The Go runtime has raised
// it to what the host allows.
func mayOpen() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > math.MaxInt32 {
		return math.MaxInt32
	}
	return int(limit.Cur)
}

// residentBytes reads the second field of /proc/self/statm, which counts pages.
func residentBytes() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return -1
	}
	fields := bytes.Fields(text)
	if len(fields) < 2 {
		return -1
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return -1
	}
	return pages * int64(os.Getpagesize())
}

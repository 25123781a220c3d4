package tun

import (
	"flag"
	"os"
	"runtime"
	"testing"

	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The main thread is kept for the main goroutine. A test then never changes
// the namespace of the thread that /proc/self speaks of, and that cannot end.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	if step := os.Getenv(childStep); step != "" {
		os.Exit(childMain(step))
	}
	goleak.VerifyTestMain(m)
}

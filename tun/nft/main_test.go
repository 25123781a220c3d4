package nft

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The main thread is kept for the main goroutine, so that no test changes the
// namespace of the thread that /proc/self speaks of, and that cannot end.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// isolate moves the test into a network namespace of its own. It belongs to the
// thread, which ends with the test's goroutine.
func isolate(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		skip(t, "it needs nft(8) to see what is there: install nftables")
	}
	runtime.LockOSThread() // and never unlocked: nobody else may get this thread
	switch err := unix.Unshare(unix.CLONE_NEWNET); {
	case errors.Is(err, unix.EPERM):
		skip(t, "it needs a network namespace of its own: run as root, or with 'unshare --user --map-root-user --net'")
	case err != nil:
		t.Fatal(err)
	}
	run(t, "ip", "link", "set", "lo", "up")
	showBridged(t, 0)
}

// showBridged has bridges show what they only pass on, or not. A kernel without
// the setting does not.
func showBridged(t testing.TB, value int) {
	t.Helper()
	run(t, "sh", "-c", fmt.Sprintf("for f in /proc/sys/net/bridge/bridge-nf-call-ip*; do [ ! -e $f ] || echo %d >$f; done", value))
}

// skip is for what the machine does not allow; where it must, it fails.
func skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("AARPTUN_TEST_NO_SKIP") != "" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// run runs a command in the namespace of the test's thread.
func run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// ruleset is all of nftables in the namespace.
func ruleset(t *testing.T) string {
	t.Helper()
	return run(t, "nft", "list", "ruleset")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var jsonLeft = regexp.MustCompile(`"(expires|handle)": [0-9]+`)

// left is what passes with time.
var left = regexp.MustCompile(`(timeout|expires) [0-9hdms]+`)

// goldenVersion is of the nft(8) that has written the golden files. Others say
// the same in other words.
const goldenVersion = "nftables v1.0.6 "

// golden compares got with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	if !strings.HasPrefix(run(t, "nft", "--version"), goldenVersion) {
		t.Logf("%s is not compared: it needs %s", name, goldenVersion)
		return
	}
	path := filepath.Join("testdata", name)
	if *update {
		must(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if got != string(want) {
		t.Errorf("%s\n--- want\n%s--- got\n%s", name, want, got)
	}
}

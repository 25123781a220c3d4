package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const testDevice = "aarptun0"

var (
	testPrefix6 = netip.MustParsePrefix("2001:db8:aa::/64")
	testPrefix4 = netip.MustParsePrefix("198.51.100.0/24")
	testAA      = netip.MustParseAddr("2001:db8:aa::1")
)

// isolate moves the test into network and mount namespaces of its own. They
// belong to the thread, which ends with the test's goroutine. A subtest has a
// goroutine of its own and must call it too.
func isolate(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: nobody else may get this thread
	switch err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); {
	case errors.Is(err, unix.EPERM):
		skip(t, "it needs a network namespace of its own: run as root, or with 'unshare --user --map-root-user --net --mount'")
	case err != nil:
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	ip(t, "link", "set", "lo", "up")
}

// isolateTUN is isolate for a test that makes a device.
func isolateTUN(t *testing.T) {
	t.Helper()
	isolate(t)
	fd, err := unix.Open(clonePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV):
		skip(t, fmt.Sprintf("it needs %s: %v", clonePath, err))
	case err != nil:
		t.Fatal(err)
	}
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
}

// skip is for what the machine does not allow; where it must, it fails.
func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("AARPTUN_TEST_NO_SKIP") != "" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// ip runs ip(8) in the namespace of the test's thread.
func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// networkState is all that aarptun could have changed, as text.
func networkState(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, args := range []string{
		"-6 rule", "-4 rule", "-6 route show table all", "-4 route show table all", "-d link show", "addr show",
	} {
		fmt.Fprintf(&all, "# ip %s\n%s", args, ip(t, strings.Fields(args)...))
	}
	return all.String()
}

// unchanged fails the test if the state is not what it was.
func unchanged(t *testing.T, before string) {
	t.Helper()
	if after := networkState(t); after != before {
		t.Errorf("the host is not as it was\n--- before\n%s--- after\n%s", before, after)
	}
}

// openFiles counts the descriptors of the process.
func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// filesIn names what a directory holds.
func filesIn(t *testing.T, dir string) []string {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, file := range files {
		names = append(names, file.Name())
	}
	return names
}

func testConfig(dir string) Config {
	return Config{Name: testDevice, Prefixes: []netip.Prefix{testPrefix6, testPrefix4}, Dir: dir}
}

// mustOpen opens a Host and closes it with the test.
func mustOpen(t *testing.T, c Config) *Host {
	t.Helper()
	h, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { must(t, h.Close()) })
	return h
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testJournal is where the journal of the test's device is.
func testJournal(t *testing.T, dir, device string) string {
	t.Helper()
	namespace, err := namespaceID()
	must(t, err)
	return journalPath(dir, device, namespace)
}

// sysctl sets a setting of the test's network namespace.
func sysctl(t *testing.T, name, value string) {
	t.Helper()
	path := filepath.Join("/proc/sys", filepath.FromSlash(strings.ReplaceAll(name, ".", "/")))
	err := os.WriteFile(path, []byte(value), 0o644)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EROFS) || errors.Is(err, os.ErrPermission) {
		skip(t, err.Error())
	}
	must(t, err)
}

var (
	trailing = regexp.MustCompile(`(?m)[ \t]+$`)
	// What a link is, without what differs between kernels and versions of
	// ip(8): its index, the queues, and the sizes of what it is given at once.
	linkFacts = regexp.MustCompile(`<[A-Z,_]+>|\bmtu \d+|\bstate \w+|link/\w+|\btun type \w+ pi \w+ vnet_hdr \w+ persist \w+|\baddrgenmode \w+`)
)

// golden compares got with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	got = trailing.ReplaceAllString(got, "")
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

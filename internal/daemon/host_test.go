package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"aarptun/internal/config"
)

// The tests of this room run a whole daemon on a host of their own: TestMain
// starts the test binary again in network and mount namespaces that are new,
// so that all its threads are there.

const insideVariable = "AARPTUN_DAEMON_TEST"

// patience is long for anything that these tests wait for.
const patience = 20 * time.Second

// notInside is why there is no host of our own, "" if there is one.
var notInside string

func TestMain(m *testing.M) {
	switch os.Getenv(insideVariable) {
	case confinedRole:
		if err := liveConfined(); err != nil {
			fmt.Fprintln(os.Stderr, "confined:", err)
			os.Exit(1)
		}
		os.Exit(0)
	case memberRole:
		fmt.Fprintln(os.Stderr, "the member:", serveAsMember())
		os.Exit(1)
	case "":
		code, err := runInside()
		switch {
		case err == nil:
			os.Exit(code)
		case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.ENOSPC): // ENOSPC: user.max_*_namespaces
			notInside = err.Error()
		default:
			fmt.Fprintln(os.Stderr, "make a host for the tests:", err)
			os.Exit(1)
		}
	default:
		if err := errors.Join(setUpHost(), startMember()); err != nil {
			fmt.Fprintln(os.Stderr, "set the host up:", err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

// runInside runs the tests in new namespaces, and returns an error if there
// can be none.
func runInside() (code int, err error) {
	// The death signal comes when the thread that started the child ends.
	runtime.LockOSThread()
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	c := exec.Command(self, os.Args[1:]...)
	c.Env = append(os.Environ(), insideVariable+"=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if uid := os.Geteuid(); uid != 0 {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	if err := c.Start(); err != nil {
		return 0, err
	}
	var exit *exec.ExitError
	if err := c.Wait(); err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	return c.ProcessState.ExitCode(), nil
}

// The network: an uplink to the member, and to an address that takes what it is
// sent and says nothing.
const (
	testAA      = "198.51.100.1" // static: testMember
	testDeadAA  = "198.51.100.2" // static: testDead
	testAA6     = "2001:db8:aa::1"
	testMember  = "192.0.2.9"
	testDead    = "192.0.2.10"
	testMember6 = "2001:db8:1::9"
	testUplink  = "192.0.2.2"
	testUplink6 = "2001:db8:1::2"
	testPrefix4 = "198.51.100.0/24"
	testPrefix6 = "2001:db8:aa::/64"
	testPort    = 9999
)

func setUpHost() error {
	// No link-local addresses, which would change the host while it is looked at.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/addr_gen_mode", []byte("1"), 0); err != nil {
		return err
	}
	for _, command := range []string{
		"link set lo up", "link add v0 type veth peer name v1", "link set v0 up",
		"addr add " + testUplink + "/24 dev v0", "addr add " + testUplink6 + "/64 dev v0 nodad",
		"neigh add " + testDead + " lladdr 02:00:00:00:00:10 dev v0 nud permanent",
		"route add default via " + testMember, "-6 route add default via " + testMember6,
	} {
		if err := ipCommand(command); err != nil {
			return err
		}
	}
	return nil
}

func ipCommand(command string) error {
	if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", command, err, out)
	}
	return nil
}

func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %v: %v: %s", args, err, out)
	}
	return string(out)
}

// onHost skips a test that has no host of its own, and wants everything to be
// as before when it ends: the network, the directory of the state, open files
// and goroutines.
func onHost(t *testing.T) config.Config {
	t.Helper()
	if notInside != "" {
		t.Skipf("no network namespace can be made here: %s", notInside)
	}
	file, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
		t.Skipf("no TUN can be made here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Prefixes = []netip.Prefix{netip.MustParsePrefix(testPrefix4), netip.MustParsePrefix(testPrefix6)}
	cfg.Static = map[netip.Addr][]netip.Addr{
		netip.MustParseAddr(testAA):     {netip.MustParseAddr(testMember)},
		netip.MustParseAddr(testDeadAA): {netip.MustParseAddr(testDead)},
	}
	cfg.StateDir = t.TempDir()
	cfg.AdminSocket = filepath.Join(cfg.StateDir, "admin.sock")
	cfg.DrainTimeout = 0
	cfg.Sandbox = config.SandboxOff // this process goes on to other tests
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	unchanged(t, cfg.StateDir)
	return cfg
}

// unchanged wants what is there now to be there when the test has ended.
func unchanged(t *testing.T, dir string) {
	t.Helper()
	host, files, entries := hostState(t), openFiles(t), list(t, dir)
	t.Cleanup(func() {
		if now := hostState(t); now != host {
			t.Errorf("the host was changed\n--- before\n%s--- after\n%s", host, now)
		}
		if now := openFiles(t); len(now) != len(files) {
			t.Errorf("files are open\n--- before\n%s\n--- after\n%s", strings.Join(files, "\n"), strings.Join(now, "\n"))
		}
		if now := list(t, dir); !slices.Equal(now, entries) {
			t.Errorf("the state directory had %v, and now has %v", entries, now)
		}
		goleak.VerifyNone(t)
	})
}

func hostState(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, args := range [][]string{{"rule"}, {"-6", "rule"}, {"route", "show", "table", "all"}, {"-6", "route", "show", "table", "all"}, {"addr"}} {
		all.WriteString(ip(t, args...))
	}
	return all.String()
}

// openFiles lists what this process has open.
func openFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, fd := range list(t, "/proc/self/fd") {
		target, err := os.Readlink("/proc/self/fd/" + fd)
		if errors.Is(err, os.ErrNotExist) {
			continue // the directory itself, while it was being listed
		}
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, target)
	}
	return files
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

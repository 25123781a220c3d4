package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"aarptun/internal/config"
	"aarptun/tun"
)

// confinedRole is that of a child which is confined for good, and says what it
// still can do: one line for each thing.
const (
	confinedRole = "confined"
	confinedDir  = "AARPTUN_CONFINED_DIR"
	confinedAs   = "AARPTUN_CONFINED_SANDBOX"
)

// confinedConfig has all its files in directories of their own under dir.
func confinedConfig(dir string) config.Config {
	cfg := config.Default()
	cfg.StateDir, cfg.AdminSocket = filepath.Join(dir, "state"), filepath.Join(dir, "admin", "admin.sock")
	cfg.PSKFiles = config.PerPrefix[string]{config.AllPrefixes: filepath.Join(dir, "keys", "link")}
	return cfg
}

func liveConfined() error {
	dir := os.Getenv(confinedDir)
	cfg := confinedConfig(dir)
	cfg.Sandbox = config.Sandbox(os.Getenv(confinedAs))
	// Threads that exist already, and that are not the one which confines.
	hold := make(chan struct{})
	var threads sync.WaitGroup
	defer threads.Wait()
	defer close(hold)
	for range 5 {
		ready := make(chan struct{})
		threads.Go(func() {
			runtime.LockOSThread()
			close(ready)
			<-hold
		})
		<-ready
	}
	c, err := confine(cfg, []string{filepath.Join(dir, "config", "file")})
	if err != nil {
		return err
	}
	c.tell(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err := sayStatus(); err != nil {
		return err
	}
	say := func(what string, err error) {
		switch {
		case err == nil:
			fmt.Println(what, "ok")
		case errors.Is(err, os.ErrPermission):
			fmt.Println(what, "refused")
		default:
			fmt.Println(what, err)
		}
	}
	read := func(path string) error { _, err := os.ReadFile(path); return err }
	say("read another file", read(filepath.Join(dir, "other", "file")))
	say("read /etc/passwd", read("/etc/passwd"))
	say("write a file of the state", os.WriteFile(filepath.Join(dir, "state", "new"), nil, 0o600))
	say("remove a file of the state", os.Remove(filepath.Join(dir, "state", "file")))
	say("remove the admin socket", os.Remove(filepath.Join(dir, "admin", "file")))
	say("remove another file", os.Remove(filepath.Join(dir, "other", "file")))
	say("read the key", read(filepath.Join(dir, "keys", "link")))
	say("read another key", read(filepath.Join(dir, "keys", "file")))
	say("read the configuration", read(filepath.Join(dir, "config", "file")))
	say("write the key", os.WriteFile(filepath.Join(dir, "keys", "file"), nil, 0o600))
	say("run a program", exec.Command("/bin/true").Run())
	_, files, resident := ownUse()
	fmt.Println("own use", files > 0, resident > 0)
	dialer := net.Dialer{Control: tun.Control(0xaa)}
	conn, err := dialer.Dial("udp", net.JoinHostPort(testMember, "9"))
	say("mark a socket", err)
	if err == nil {
		err = conn.Close()
	}
	raw, rawErr := syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_ICMP)
	say("open a raw socket", rawErr)
	if rawErr == nil {
		err = errors.Join(err, syscall.Close(raw))
	}
	return errors.Join(err, c.close())
}

// sayStatus prints what is the same for all threads, and that it is not where it
// is not.
func sayStatus() error {
	kept := regexp.MustCompile(`(?m)^(Cap\w+|NoNewPrivs):\s+(\w+)$`)
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(tasks) < 6 {
		return fmt.Errorf("%d threads: %w", len(tasks), err)
	}
	first := ""
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			return err
		}
		var lines strings.Builder
		for _, m := range kept.FindAllStringSubmatch(string(text), -1) {
			fmt.Fprintln(&lines, m[1], m[2])
		}
		if first == "" {
			first = lines.String()
		}
		if lines.String() != first {
			return fmt.Errorf("one thread has %s, %s has %s", first, task, &lines)
		}
	}
	fmt.Print(first)
	return nil
}

// confined runs the child, and returns what it says.
func confined(t *testing.T, sandbox config.Sandbox) (said []string, log string) {
	t.Helper()
	if notInside != "" {
		t.Skip(notInside)
	}
	dir := t.TempDir()
	for _, name := range []string{"state", "admin", "other", "keys", "linked", "config"} {
		if err := errors.Join(os.Mkdir(filepath.Join(dir, name), 0o777), os.WriteFile(filepath.Join(dir, name, "file"), nil, 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../linked/file", filepath.Join(dir, "keys", "link")); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), insideVariable+"="+confinedRole, confinedDir+"="+dir, confinedAs+"="+string(sandbox))
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v: %s%s", err, out, &stderr)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n"), stderr.String()
}

// wants compares what was said.
func wants(t *testing.T, said []string, want ...string) {
	t.Helper()
	if got := strings.Join(said, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("said\n%s\n\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

var keptByAll = []string{
	"CapInh 0000000000000000", "CapPrm 0000000000001000", "CapEff 0000000000001000", // CAP_NET_ADMIN
	"CapBnd 0000000000000000", "CapAmb 0000000000000000", "NoNewPrivs 1",
}

func TestConfined(t *testing.T) {
	said, log := confined(t, config.SandboxAuto)
	if !strings.Contains(log, "cap_net_admin=ep") {
		t.Errorf("the log says %s", log)
	}
	if strings.Contains(log, "but for the access to files") {
		t.Log("this kernel has no Landlock")
		said = said[:len(keptByAll)]
		wants(t, said, keptByAll...)
		return
	}
	wants(t, said, append(keptByAll,
		"read another file refused", "read /etc/passwd refused", "write a file of the state refused", "remove a file of the state ok",
		"remove the admin socket ok", "remove another file refused", "read the key ok", "read another key ok", "read the configuration ok", "write the key refused",
		"run a program refused", "own use true true", "mark a socket ok", "open a raw socket refused")...)
}

func TestNotConfined(t *testing.T) {
	said, log := confined(t, config.SandboxOff)
	if log != "" {
		t.Errorf("the log says %s", log)
	}
	for _, line := range said {
		if strings.HasSuffix(line, " refused") || line == "NoNewPrivs 1" || line == "CapEff 0000000000001000" {
			t.Errorf("with --sandbox off: %s", line)
		}
	}
}

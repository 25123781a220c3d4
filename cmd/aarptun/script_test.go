package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts type what a user types. Each has a host of its own, network and
// mount namespaces with an empty /run, which its commands enter by the word
// "in". What a script can say besides testscript's own commands:
//
//	[netns]                     whether there are such namespaces
//	[tun]                       whether /dev/net/tun may be opened
//	in PROGRAM ...              behind exec: run it on the script's host
//	fails CODE REGEXP PROGRAM   it exits with CODE, prints nothing, says one
//	                            line, and leaves the host as it was
//	snapshot, unchanged         remember the host; compare it
//	eventually REGEXP PROGRAM   run it until its output matches
//	term WORDS, hup WORDS       SIGTERM, SIGHUP to the background program so started
//	notify, notified STATE      be systemd; wait for what it is told
//	json KEY...                 the last output is JSON objects with these keys

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Setup: setup,
		Condition: func(name string) (bool, error) {
			switch name {
			case "netns":
				return mayMakeNamespaces(), nil
			case "tun":
				return mayOpenTUN(), nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fails": fails, "snapshot": snapshot, "unchanged": unchanged, "eventually": eventually, "term": signals(syscall.SIGTERM), "hup": signals(syscall.SIGHUP),
			"notify": notify, "notified": notified, "json": isJSON,
		},
	})
}

// patience is long for anything that these tests wait for.
const patience = 20 * time.Second

// hostScript makes the host of a script, in namespaces that are new already.
// Its devices get no link-local addresses, which would change the host while it
// is looked at. It ends when its standard input does.
const hostScript = `mount --make-rprivate / && mount -t tmpfs tmpfs /run && ip link set lo up &&
echo 1 >/proc/sys/net/ipv6/conf/default/addr_gen_mode && echo up && exec cat >/dev/null`

func namespaces(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if uid := os.Geteuid(); uid != 0 {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
}

func mayMakeNamespaces() bool {
	c := exec.Command("sh", "-c", "mount --make-rprivate /")
	namespaces(c)
	return c.Run() == nil
}

func mayOpenTUN() bool {
	file, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	return file.Close() == nil
}

func setup(env *testscript.Env) error {
	bin := filepath.Join(env.WorkDir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	env.Values[systemd{}] = new(*net.UnixConn)
	env.Setenv("GORACE", "atexit_sleep_ms=0") // else each command takes a second to end
	env.Setenv("PATH", bin+":"+env.Getenv("PATH")+":/usr/sbin:/sbin")
	enter := `exec "$@"`
	if mayMakeNamespaces() {
		pid, err := startHost(env)
		if err != nil {
			return err
		}
		enter = fmt.Sprintf(`exec nsenter --target %d --net --mount --wd="$PWD" -- "$@"`, pid)
		if os.Geteuid() != 0 {
			enter = fmt.Sprintf(`exec nsenter --target %d --user --preserve-credentials --net --mount --wd="$PWD" -- "$@"`, pid)
		}
	}
	return os.WriteFile(filepath.Join(bin, "in"), []byte("#!/bin/sh\n"+enter+"\n"), 0o755)
}

// startHost starts the process that keeps the script's namespaces alive.
func startHost(env *testscript.Env) (pid int, err error) {
	host := exec.Command("sh", "-c", hostScript)
	namespaces(host)
	host.Stderr = os.Stderr
	hold, err := host.StdinPipe()
	if err != nil {
		return 0, err
	}
	said, err := host.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := host.Start(); err != nil {
		return 0, err
	}
	env.Defer(func() {
		_ = hold.Close()
		_ = host.Wait() // killed or not: it is gone, and its namespaces with it
	})
	if up := make([]byte, 3); !readFull(said, up) || string(up) != "up\n" {
		return 0, errors.New("the script's namespaces could not be set up")
	}
	return host.Process.Pid, nil
}

func readFull(r io.Reader, p []byte) bool {
	_, err := io.ReadFull(r, p)
	return err == nil
}

// showHost prints all that aarptun could change. The directory of the state
// stays once it is there.
const showHost = `ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; ip addr
find /run -mindepth 1 ! -path /run/aarptun -printf "%p %y %m\n"`

func hostState(ts *testscript.TestScript) string {
	if err := ts.Exec("in", "sh", "-c", showHost); err != nil {
		ts.Fatalf("show the host: %v", err)
	}
	return ts.ReadFile("stdout")
}

// snapshot remembers the host.
func snapshot(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Check(os.WriteFile(ts.MkAbs(".host"), []byte(hostState(ts)), 0o644))
}

// unchanged compares the host with the snapshot.
func unchanged(ts *testscript.TestScript, neg bool, _ []string) {
	before, now := ts.ReadFile(ts.MkAbs(".host")), hostState(ts)
	if same := before == now; same == neg {
		ts.Fatalf("the host is the same as before: %v\n--- before\n%s--- now\n%s", same, before, now)
	}
}

func fails(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: fails CODE REGEXP PROGRAM ARGS...")
	}
	code, err := strconv.Atoi(args[0])
	ts.Check(err)
	before := hostState(ts)
	err = ts.Exec("in", args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code {
		ts.Fatalf("%v: %v, want exit code %d", args[2:], err, code)
	}
	stdout, stderr := ts.ReadFile("stdout"), ts.ReadFile("stderr")
	if stdout != "" {
		ts.Fatalf("it printed %q", stdout)
	}
	line, rest, _ := strings.Cut(stderr, "\n")
	if rest != "" || !strings.HasPrefix(line, "aarptun: ") || !regexp.MustCompile(args[1]).MatchString(line) {
		ts.Fatalf("it said %q, want one line that begins with \"aarptun: \" and matches %q", stderr, args[1])
	}
	if again := repeated(line); again != "" {
		ts.Fatalf("it says %q twice: %s", again, line)
	}
	if after := hostState(ts); before != after {
		ts.Fatalf("the host was changed\n--- before\n%s--- after\n%s", before, after)
	}
}

// repeated returns a part of an error, of more than a word, that says again
// what another has said.
func repeated(line string) string {
	parts := strings.Split(line, ": ")
	for i, part := range parts {
		if strings.Contains(part, " ") && slices.Contains(parts[:i], part) {
			return part
		}
	}
	return ""
}

func eventually(ts *testscript.TestScript, _ bool, args []string) {
	want := regexp.MustCompile(args[0])
	for deadline := time.Now().Add(patience); ; {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v does not print %q: %v: %s", args[1:], args[0], err, ts.ReadFile("stdout"))
		}
		time.Sleep(20 * time.Millisecond) // between two looks
	}
}

// signals does what testscript's kill does not know.
func signals(signal syscall.Signal) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) {
		for _, c := range ts.BackgroundCmds() {
			if strings.Contains(strings.Join(c.Args, " "), args[0]) {
				ts.Check(c.Process.Signal(signal))
				return
			}
		}
		ts.Fatalf("no %q runs in the background", args[0])
	}
}

// notify makes the socket on which systemd would be told.
func notify(ts *testscript.TestScript, _ bool, _ []string) {
	path := ts.MkAbs("notify.sock")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	ts.Check(err)
	ts.Defer(func() { _ = conn.Close() })
	ts.Setenv("NOTIFY_SOCKET", path)
	*ts.Value(systemd{}).(**net.UnixConn) = conn
}

// systemd is the key of the script's notification socket.
type systemd struct{}

// notified waits for the next thing that systemd is told, apart from how things
// stand.
func notified(ts *testscript.TestScript, _ bool, args []string) {
	conn := *ts.Value(systemd{}).(**net.UnixConn)
	ts.Check(conn.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		ts.Check(err)
		state, _, _ := strings.Cut(string(buf[:n]), "STATUS=")
		state = strings.Join(strings.Fields(monotonic.ReplaceAllString(state, "MONOTONIC_USEC=N")), " ")
		if state == args[0] {
			return
		} else if state != "" {
			ts.Fatalf("told %q, want %q", buf[:n], args[0])
		}
	}
}

// monotonic is a time that is another at every run.
var monotonic = regexp.MustCompile(`MONOTONIC_USEC=[0-9]+`)

func isJSON(ts *testscript.TestScript, _ bool, keys []string) {
	objects := 0
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			ts.Fatalf("no JSON: %v: %s", err, line)
		}
		for _, key := range keys {
			if object[key] == nil {
				ts.Fatalf("no %q in %s", key, line)
			}
		}
		objects++
	}
	if objects == 0 {
		ts.Fatalf("there is no JSON")
	}
}

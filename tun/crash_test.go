package tun

import (
	"bufio"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	rule6 = "ip -6 rule not fwmark 0xaa lookup 170 priority 17000 protocol 170"
	rule4 = "ip -4 rule not fwmark 0xaa lookup 170 priority 17000 protocol 170"
)

// eachStep runs a test for a run that is killed at each step of its life.
func eachStep(t *testing.T, test func(t *testing.T, s step)) {
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			isolateTUN(t)
			test(t, s)
		})
	}
}

// wantLeft is what Cleanup says of what a run has left that was killed.
func wantLeft(t *testing.T, s step, dir string) []string {
	t.Helper()
	return append([]string{rule6, rule4}[:s.rules:s.rules], "journal "+testJournal(t, dir, testDevice))
}

func mustCleanUp(t *testing.T, dir string, dry bool) Report {
	t.Helper()
	r, err := Cleanup(dir, dry)
	must(t, err)
	return r
}

// check compares a part of a report.
func check(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s\n got %q\nwant %q", what, got, want)
	}
}

func TestCleanupAfterACrash(t *testing.T) {
	eachStep(t, func(t *testing.T, s step) {
		dir := t.TempDir()
		before := networkState(t)
		run := startChild(t, s, dir, testDevice)
		if !s.locksDirectory() {
			alive := networkState(t)
			r := mustCleanUp(t, dir, false)
			check(t, "removed from a living run", r.Removed)
			check(t, "alive", r.Live, testDevice)
			unchanged(t, alive)
		}
		run.kill(t)

		dead := networkState(t)
		if strings.Contains(dead, testDevice) || strings.Count(dead, "lookup 170") != s.rules {
			t.Fatalf("left by the dead run:\n%s", dead)
		}
		want := wantLeft(t, s, dir)
		r := mustCleanUp(t, dir, true)
		check(t, "would remove", r.Removed, want...)
		check(t, "alive", r.Live)
		unchanged(t, dead)
		check(t, "files", filesIn(t, dir), strings.TrimPrefix(testJournal(t, dir, testDevice), dir+"/"))

		check(t, "removed", mustCleanUp(t, dir, false).Removed, want...)
		unchanged(t, before)
		check(t, "files", filesIn(t, dir))
		check(t, "removed again", mustCleanUp(t, dir, false).Removed)
	})
}

func TestOpenAfterACrash(t *testing.T) {
	eachStep(t, func(t *testing.T, s step) {
		dir := t.TempDir()
		before := networkState(t)
		startChild(t, s, dir, testDevice).kill(t)
		h, err := Open(testConfig(dir))
		must(t, err)
		if now := networkState(t); strings.Contains(now, "lookup 170") {
			t.Errorf("what was left leads into the new device before AddRoutes:\n%s", now)
		}
		must(t, h.AddRoutes())
		golden(t, "both.txt", changed(t))
		must(t, h.Close())
		unchanged(t, before)
		check(t, "files", filesIn(t, dir))
	})
}

// Another device may take the dead run's place: its table and its rules. The
// dead run's journal then names what is the living one's.
func TestAnotherDeviceTakesTheDeadRunsPlace(t *testing.T) {
	eachStep(t, func(t *testing.T, s step) {
		dir := t.TempDir()
		before := networkState(t)
		startChild(t, s, dir, testDevice).kill(t)
		c := testConfig(dir)
		c.Name = "aarptun1"
		h := mustOpen(t, c)
		must(t, h.AddRoutes())
		alive := networkState(t)

		left := []string{"journal " + testJournal(t, dir, testDevice)}
		check(t, "would remove", mustCleanUp(t, dir, true).Removed, left...)
		if _, err := Open(testConfig(dir)); !errors.Is(err, ErrTableTaken) {
			t.Errorf("Open: %v, want %v", err, ErrTableTaken)
		}
		unchanged(t, alive)
		if s.name == "lock" {
			left = nil // Open took an empty journal with it
		}
		r := mustCleanUp(t, dir, false)
		check(t, "removed", r.Removed, left...)
		check(t, "alive", r.Live, "aarptun1")
		unchanged(t, alive)
		must(t, h.Close())
		unchanged(t, before)
	})
}

// Runs that start at the same moment with one table, as units of systemd do at
// boot, do not end up sharing it.
func TestOneOfManyStartsGetsTheTable(t *testing.T) {
	isolateTUN(t)
	dir := t.TempDir()
	var lines []*bufio.Reader
	for i := range 4 {
		cmd := childCommand("device", dir, fmt.Sprintf("aarptun%d", i))
		stdin, err := cmd.StdinPipe()
		must(t, err)
		stdout, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		t.Cleanup(func() {
			_ = stdin.Close()
			_ = cmd.Wait() // what it had to say, it has said
		})
		lines = append(lines, bufio.NewReader(stdout))
	}
	ready := 0
	for _, lines := range lines {
		switch line, err := lines.ReadString('\n'); {
		case line == "ready\n":
			ready++
		case !strings.Contains(line, "has table 170"):
			t.Errorf("a run says %q (%v)", line, err)
		}
	}
	if devices := strings.Count(ip(t, "link", "show"), "aarptun"); ready != 1 || devices != 1 {
		t.Errorf("%d runs are ready and %d have a device, want 1", ready, devices)
	}
}

// The dead run may have had another table, and its rules another mark.
func TestOpenUndoesWhatTheJournalNames(t *testing.T) {
	isolateTUN(t)
	dir := t.TempDir()
	before := networkState(t)
	ip(t, "-6", "rule", "add", "not", "fwmark", "0xbb", "lookup", "171", "priority", "17001", "protocol", "170")
	left := testRecord
	left.Rules = []ruleSpec{{Family: unix.AF_INET6, Table: 171, Priority: 17001, Mark: 0xbb}}
	content(recordText(t, left))(t, testJournal(t, dir, testDevice))
	h, err := Open(testConfig(dir))
	must(t, err)
	must(t, h.Close())
	unchanged(t, before)
}

func TestALivingRunIsNamed(t *testing.T) {
	isolateTUN(t)
	dir := t.TempDir()
	run := startChild(t, steps[len(steps)-1], dir, testDevice)
	before := networkState(t)
	_, err := Open(testConfig(dir))
	if want := fmt.Sprintf("process %d has the device %s", run.cmd.Process.Pid, testDevice); !errors.Is(err, ErrBusy) || !strings.Contains(fmt.Sprint(err), want) {
		t.Errorf("Open: %v, want %v: %s", err, ErrBusy, want)
	}
	c := testConfig(dir)
	c.Name = "aarptun1"
	_, err = Open(c)
	if want := fmt.Sprintf("process %d has table 170", run.cmd.Process.Pid); !errors.Is(err, ErrTableTaken) || !strings.Contains(fmt.Sprint(err), want) {
		t.Errorf("Open: %v, want %v: %s", err, ErrTableTaken, want)
	}
	unchanged(t, before)
	c.Table, c.Priority = 171, 17001
	mustOpen(t, c) // side by side
}

// A run whose device was set down has a rule and no routes, as a dead one has.
func TestALivingRunWithoutRoutesKeepsItsRules(t *testing.T) {
	isolateTUN(t)
	dir := t.TempDir()
	h := mustOpen(t, testConfig(dir))
	must(t, h.AddRoutes())
	all := networkState(t)
	ip(t, "link", "set", testDevice, "down")
	down := networkState(t)
	check(t, "removed from a living run", mustCleanUp(t, dir, false).Removed)
	unchanged(t, down)
	c := testConfig(dir)
	c.Name = "aarptun1"
	if _, err := Open(c); !errors.Is(err, ErrTableTaken) {
		t.Errorf("Open: %v, want %v", err, ErrTableTaken)
	}
	unchanged(t, down)
	ip(t, "link", "set", testDevice, "up")
	must(t, h.AddRoutes())
	unchanged(t, all)
}

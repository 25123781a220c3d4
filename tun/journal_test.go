package tun

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var testRecord = record{Version: 1, PID: 7, Device: testDevice, Rules: []ruleSpec{
	{Family: unix.AF_INET6, Table: 170, Priority: 17000, Mark: 0xaa},
	{Family: unix.AF_INET, Table: 170, Priority: 17000, Mark: 0xaa},
}}

func recordText(t *testing.T, r record) string {
	t.Helper()
	text, err := json.Marshal(r)
	must(t, err)
	return string(text) + "\n"
}

func TestJournalKeepsWhatIsWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.1.journal")
	must(t, os.WriteFile(path, []byte(strings.Repeat("an older and longer one ", 100)), journalMode))
	j, _, err := lockJournal(path, true)
	must(t, err)
	must(t, j.write(testRecord))
	must(t, j.leave())
	j, text, err := lockJournal(path, false)
	must(t, err)
	if string(text) != recordText(t, testRecord) {
		t.Errorf("it holds %q", text)
	}
	if r, err := parseRecord(text); err != nil || !reflect.DeepEqual(r, testRecord) {
		t.Errorf("it says %+v (%v)", r, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != journalMode {
		t.Errorf("mode %v (%v)", info.Mode(), err)
	}
	must(t, j.remove())
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestLockJournal(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(t *testing.T, path string)
		create  bool
		holds   string
		want    error
		says    string
	}{
		"none, to be made": {func(*testing.T, string) {}, true, "", nil, ""},
		"none":             {func(*testing.T, string) {}, false, "", os.ErrNotExist, "x.1.journal"},
		"stale":            {content(recordText(t, testRecord)), false, recordText(t, testRecord), nil, ""},
		"garbage":          {content("\x00\xff{{{"), true, "\x00\xff{{{", nil, ""},
		"half-written":     {content(`{"version":1,"pi`), true, `{"version":1,"pi`, nil, ""},
		"huge":             {content(strings.Repeat("[", 1<<20)), true, strings.Repeat("[", journalLimit), nil, ""},
		"locked":           {lockedWith(recordText(t, testRecord)), true, "", ErrBusy, "process 7 has the device x: stop it"},
		"locked, half-written": {lockedWith(`{"version":1,"pi`), false, "", ErrBusy,
			"a process has the device x: stop it"},
		"locked, empty":   {lockedWith(""), true, "", ErrBusy, "a process has the device x"},
		"symlink":         {func(t *testing.T, path string) { must(t, os.Symlink("/dev/null", path)) }, true, "", ErrConfig, "symbolic links"},
		"dangling":        {func(t *testing.T, path string) { must(t, os.Symlink(path+"0", path)) }, true, "", ErrConfig, "symbolic links"},
		"pipe":            {func(t *testing.T, path string) { must(t, unix.Mkfifo(path, journalMode)) }, true, "", ErrConfig, "no regular file"},
		"directory":       {func(t *testing.T, path string) { must(t, os.Mkdir(path, dirMode)) }, true, "", ErrConfig, "is a directory"},
		"socket":          {func(t *testing.T, path string) { must(t, unix.Mknod(path, unix.S_IFSOCK|0o600, 0)) }, true, "", ErrConfig, unix.ENXIO.Error()},
		"missing parents": {func(t *testing.T, path string) { must(t, os.Remove(filepath.Dir(path))) }, true, "", ErrConfig, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.1.journal")
			test.prepare(t, path)
			files := openFiles(t)
			j, text, err := lockJournal(path, test.create)
			if !errors.Is(err, test.want) || !strings.Contains(fmt.Sprint(err), test.says) || string(text) != test.holds {
				t.Errorf("%q, %v; want %q, %v with %q", text, err, test.holds, test.want, test.says)
			}
			if err == nil {
				must(t, j.leave())
			}
			if n := openFiles(t); n > files {
				t.Errorf("%d descriptors are open, were %d", n, files)
			}
		})
	}
}

func content(text string) func(*testing.T, string) {
	return func(t *testing.T, path string) { must(t, os.WriteFile(path, []byte(text), journalMode)) }
}

// lockedWith is a journal that somebody holds until the test ends.
func lockedWith(text string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		content(text)(t, path)
		file, err := os.Open(path)
		must(t, err)
		t.Cleanup(func() { must(t, file.Close()) })
		must(t, unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	}
}

// A journal whose owner removes it while we wait at its door is none.
func TestLockJournalNoticesThatItWasReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.1.journal")
	content("old")(t, path)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer func() { must(t, file.Close()) }()
	for _, want := range []bool{true, false, false} {
		if _, current, err := lockAndRead(file, path); err != nil || current != want {
			t.Errorf("current is %v (%v), want %v", current, err, want)
		}
		if want {
			must(t, os.Remove(path))
		} else {
			content("new")(t, path)
		}
	}
}

// What a journal cannot tell, its rules do: they are known by themselves.
func TestJournalsThatCannotBeRead(t *testing.T) {
	whole := recordText(t, testRecord)
	for name, text := range map[string]string{
		"empty": "", "half-written": whole[:len(whole)/2], "garbage": "\x00\xff", "null": "null", "list": "[]",
		"another version": strings.Replace(whole, `"version":1`, `"version":2`, 1),
		"huge":            strings.Repeat(" ", 1<<20) + whole,
		"hostile":         strings.Replace(whole, `"table":170`, `"table":254`, 2),
	} {
		t.Run(name, func(t *testing.T) {
			isolateTUN(t)
			dir := t.TempDir()
			path := testJournal(t, dir, testDevice)
			before := networkState(t)

			content(text)(t, path)
			addOurs(t)
			check(t, "removed", mustCleanUp(t, dir, false).Removed, "journal "+path, rule6, rule4)
			unchanged(t, before)

			content(text)(t, path)
			addOurs(t)
			h, err := Open(testConfig(dir))
			must(t, err)
			must(t, h.AddRoutes())
			golden(t, "both.txt", changed(t))
			must(t, h.Close())
			unchanged(t, before)
			check(t, "files", filesIn(t, dir))
		})
	}
}

// What is in the way of one journal is said, and the others are undone.
func TestCleanupGoesOnAfterAnError(t *testing.T) {
	isolate(t)
	dir := t.TempDir()
	before := networkState(t)
	must(t, os.Symlink("/dev/null", testJournal(t, dir, "a")))
	content(recordText(t, testRecord))(t, testJournal(t, dir, testDevice))
	content("none of ours")(t, filepath.Join(dir, "notes.journal"))
	addOurs(t)
	r, err := Cleanup(dir, false)
	if !errors.Is(err, ErrConfig) || !strings.Contains(fmt.Sprint(err), testJournal(t, dir, "a")) {
		t.Errorf("Cleanup: %v, want %v that names the symlink", err, ErrConfig)
	}
	check(t, "removed", r.Removed, rule6, rule4, "journal "+testJournal(t, dir, testDevice))
	check(t, "files", filesIn(t, dir), filepath.Base(testJournal(t, dir, "a")), "notes.journal")
	unchanged(t, before)
}

func TestJournalNames(t *testing.T) {
	for name, want := range map[string]string{
		"aarptun0.4026531840.journal": "aarptun0 4026531840", "a.b.1.journal": "a.b 1", "x.0.journal": "x 0",
		"x.journal": "", ".1.journal": "", "x.1": "", "x..journal": "", "x.y.journal": "", "x.01.journal": "",
		"x.+1.journal": "", "x.-1.journal": "", "x.18446744073709551616.journal": "", "x.1.journal~": "",
		"sixteen-bytes-xx.1.journal": "", "x y.1.journal": "", "journal": "", ".journal": "", "": "",
	} {
		got := ""
		if device, namespace, ok := namespaceOf(name); ok {
			got = fmt.Sprint(device, " ", namespace)
		}
		if got != want {
			t.Errorf("%q is of %q, want %q", name, got, want)
		}
	}
}

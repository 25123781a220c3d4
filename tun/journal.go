package tun

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	journalSuffix = ".journal"
	journalLimit  = 64 << 10 // bytes; ours are a few hundred
	dirMode       = 0o755
	journalMode   = 0o600
)

// record is the journal's content: what is to be undone when its owner is
// gone. The device is not in it, for it goes with the owner.
type record struct {
	Version int        `json:"version"` // 1
	PID     int        `json:"pid"`     // for messages only
	Device  string     `json:"device"`
	Rules   []ruleSpec `json:"rules"`
}

func (r record) validate() error {
	if r.Version != 1 {
		return fmt.Errorf("version %d is not known", r.Version)
	}
	for _, rule := range r.Rules {
		if rule.Mark == 0 || rule.Table <= 0 || rule.Priority <= 0 || len(r.Rules) > 2 {
			return errors.New("a rule in it is none of ours")
		}
	}
	return nil
}

func parseRecord(text []byte) (record, error) {
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return record{}, err
	}
	return r, r.validate()
}

// journal is a locked file. The lock is the sign that its owner lives.
type journal struct {
	file *os.File
	path string
}

// namespaceID names the network namespace of the calling thread, so that runs
// in several namespaces can share one directory.
func namespaceID() (uint64, error) {
	var stat unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &stat); err != nil {
		return 0, fmt.Errorf("tun: which network namespace is this? %w", err)
	}
	return stat.Ino, nil
}

func journalPath(dir, device string, namespace uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%s.%d%s", device, namespace, journalSuffix))
}

// namespaceOf is the inverse of journalPath; ok is false for other files.
func namespaceOf(name string) (device, namespace string, ok bool) {
	name, ok = strings.CutSuffix(name, journalSuffix)
	dot := strings.LastIndexByte(name, '.')
	if !ok || dot < 1 {
		return "", "", false
	}
	return name[:dot], name[dot+1:], true
}

// lockJournal opens and locks the journal at path, making it if need be, and
// returns what it holds. It fails with ErrBusy when its owner lives.
func lockJournal(path string) (*journal, []byte, error) {
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return nil, nil, noStateDir(err)
	}
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, journalMode)
		if err != nil {
			return nil, nil, noStateDir(err)
		}
		text, current, err := lockAndRead(file, path)
		if err == nil && current {
			return &journal{file, path}, text, nil
		}
		if closeErr := file.Close(); err != nil || closeErr != nil {
			return nil, nil, errors.Join(err, closeErr)
		}
		// Its owner removed the file between our open and our lock: again.
	}
}

func noStateDir(err error) error {
	return fmt.Errorf("%w: no journal can be kept: %w: choose another directory with --state-dir", ErrConfig, err)
}

func lockAndRead(file *os.File, path string) (text []byte, current bool, err error) {
	lockErr := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if text, err = io.ReadAll(io.LimitReader(file, journalLimit)); err != nil {
		return nil, false, fmt.Errorf("tun: read %s: %w", path, err)
	}
	if errors.Is(lockErr, unix.EWOULDBLOCK) {
		r, _ := parseRecord(text) // a half-written one only has no names to tell
		return nil, false, fmt.Errorf("%w: process %d has the device %s: stop it, or choose another name with --tun", ErrBusy, r.PID, r.Device)
	}
	if lockErr != nil {
		return nil, false, fmt.Errorf("tun: lock %s: %w", path, lockErr)
	}
	opened, err := file.Stat()
	if err != nil {
		return nil, false, fmt.Errorf("tun: %w", err)
	}
	named, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("tun: %w", err)
	}
	return text, os.SameFile(opened, named), nil
}

// write replaces the content and has it on the disk before it returns.
func (j *journal) write(r record) error {
	text, err := json.Marshal(r)
	if err == nil {
		err = j.file.Truncate(0)
	}
	if err == nil {
		_, err = j.file.WriteAt(append(text, '\n'), 0)
	}
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("tun: write %s: %w", j.path, err)
	}
	return nil
}

// remove ends the journal: there is nothing left to undo.
func (j *journal) remove() error {
	err := os.Remove(j.path)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err := errors.Join(err, j.file.Close()); err != nil {
		return fmt.Errorf("tun: %w", err)
	}
	return nil
}

// leave gives the lock back and keeps the file: something is left to undo.
func (j *journal) leave() error { return j.file.Close() }

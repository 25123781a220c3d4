package tun

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
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

	Returns *returnsSpec `json:"returns,omitempty"` // if that was asked for
	Carried bool         `json:"carried,omitempty"` // the kernel carries flows: there may be the table of tun/nft
}

// uses reports whether a table of routes is the record's.
func (r record) uses(table int) bool {
	return r.Returns != nil && r.Returns.Table == table || slices.ContainsFunc(r.Rules, func(s ruleSpec) bool { return s.Table == table })
}

func (r record) validate() error {
	if r.Version != 1 {
		return fmt.Errorf("version %d is not known", r.Version)
	}
	if err := checkName(r.Device); err != nil {
		return err
	}
	if len(r.Rules) > 2 { // one for each family
		return fmt.Errorf("it has %d rules", len(r.Rules))
	}
	for _, rule := range r.Rules {
		family := rule.Family == netlink.FAMILY_V4 || rule.Family == netlink.FAMILY_V6
		if !family || rule.Mark == 0 || !isUint32(rule.Table) || !isUint32(rule.Priority) {
			return errors.New("a rule in it is none of ours")
		}
	}
	if r.Returns != nil {
		return r.Returns.validate()
	}
	return nil
}

// isUint32 reports whether n, not 0, is a number as the kernel keeps them.
func isUint32(n int) bool { return n > 0 && uint64(n) <= math.MaxUint32 }

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
	return filepath.Join(dir, journalName(device, namespace))
}

func journalName(device string, namespace uint64) string {
	return fmt.Sprintf("%s.%d%s", device, namespace, journalSuffix)
}

// namespaceOf is the inverse of journalName; ok is false for other files.
func namespaceOf(name string) (device string, namespace uint64, ok bool) {
	stem := strings.TrimSuffix(name, journalSuffix)
	dot := strings.LastIndexByte(stem, '.')
	if dot < 0 {
		return "", 0, false
	}
	device = stem[:dot]
	namespace, err := strconv.ParseUint(stem[dot+1:], 10, 64)
	if err != nil || checkName(device) != nil || journalName(device, namespace) != name {
		return "", 0, false
	}
	return device, namespace, true
}

// maxReplaced bounds how often a journal may be replaced while it is locked.
const maxReplaced = 100

// lockJournal opens and locks the journal at path, making it if create is set,
// and returns what it holds. It fails with ErrBusy when its owner lives. The
// directory must be locked.
func lockJournal(path string, create bool) (*journal, []byte, error) {
	// A pipe that somebody put there must not hold us up.
	flags := os.O_RDWR | unix.O_NOFOLLOW | unix.O_NONBLOCK
	if create {
		flags |= os.O_CREATE
	}
	for range maxReplaced {
		file, err := os.OpenFile(path, flags, journalMode)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: journal: %w: choose another directory with --state-dir", ErrConfig, err)
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
	return nil, nil, fmt.Errorf("%w: journal %s is replaced as often as it is opened", ErrConfig, path)
}

func lockAndRead(file *os.File, path string) (text []byte, current bool, err error) {
	lockErr := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	text, opened, err := readJournal(file)
	if err != nil {
		return nil, false, err
	}
	if errors.Is(lockErr, unix.EWOULDBLOCK) {
		return nil, false, busy(path, text)
	}
	if lockErr != nil {
		return nil, false, fmt.Errorf("tun: lock %s: %w", path, lockErr)
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

// readJournal reads what a journal holds, up to the limit: what is longer is
// none of ours.
func readJournal(file *os.File) (text []byte, info os.FileInfo, err error) {
	if info, err = file.Stat(); err != nil {
		return nil, nil, fmt.Errorf("tun: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%w: journal %s is no regular file: remove it, or choose another --state-dir", ErrConfig, file.Name())
	}
	if text, err = io.ReadAll(io.LimitReader(file, journalLimit)); err != nil {
		return nil, nil, fmt.Errorf("tun: read %s: %w", file.Name(), err)
	}
	return text, info, nil
}

// busy names the owner of a journal.
func busy(path string, text []byte) error {
	device, _, _ := namespaceOf(filepath.Base(path)) // path is of our making
	owner := "a process"
	if r, err := parseRecord(text); err == nil {
		owner = fmt.Sprintf("process %d", r.PID)
	}
	return fmt.Errorf("%w: %s has the device %s: stop it, or choose another name with --tun", ErrBusy, owner, device)
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
		return fmt.Errorf("%w: no journal can be written: %w: make room, or choose another directory with --state-dir", ErrConfig, err)
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

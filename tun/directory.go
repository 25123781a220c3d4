package tun

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lockPatience = 5 * time.Second // a start or a clean-up takes milliseconds
	lockPause    = 10 * time.Millisecond
)

// directory is where the journals are. Its lock is held by one start or
// clean-up at a time, so that none takes another's journal, that is held for a
// moment only, for a living run's.
type directory struct {
	file      *os.File
	namespace uint64
}

// lockDirectory opens and locks the journals' directory, for the network
// namespace of the calling thread. It makes the directory if create is set.
func lockDirectory(dir string, create bool) (*directory, error) {
	namespace, err := namespaceID()
	if err != nil {
		return nil, err
	}
	if create {
		if err := os.MkdirAll(dir, dirMode); err != nil {
			return nil, fmt.Errorf("%w: no journal can be kept: %w: choose another directory with --state-dir", ErrConfig, err)
		}
	}
	file, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: no journals can be read: %w: name the directory of the dead run with --state-dir", ErrConfig, err)
	}
	if err := flockPatiently(file, lockPatience); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &directory{file, namespace}, nil
}

// flockPatiently locks a file that others hold for a moment only.
func flockPatiently(file *os.File, patience time.Duration) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(lockPause) {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("tun: lock %s: %w", file.Name(), err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: another start or clean-up holds %s for more than %v: see what hangs with 'fuser %s'", ErrBusy, file.Name(), patience, file.Name())
		}
	}
}

// unlock ends the use of the directory.
func (d *directory) unlock() { _ = d.file.Close() } // it was only read: nothing is lost

// path is where the journal of a device is.
func (d *directory) path(device string) string {
	return journalPath(d.file.Name(), device, d.namespace)
}

// entry is a journal in the directory.
type entry struct {
	path, device string
	namespace    uint64
}

// foreign reports whether e is of another network namespace.
func (d *directory) foreign(e entry) bool { return e.namespace != d.namespace }

// entries lists the journals, of all namespaces.
func (d *directory) entries() ([]entry, error) {
	files, err := os.ReadDir(d.file.Name())
	if err != nil {
		return nil, fmt.Errorf("%w: directory of the journals: %w", ErrConfig, err)
	}
	var all []entry
	for _, file := range files {
		if device, namespace, ok := namespaceOf(file.Name()); ok {
			all = append(all, entry{filepath.Join(d.file.Name(), file.Name()), device, namespace})
		}
	}
	return all, nil
}

// living returns what the runs that live in this namespace have written; own is
// the journal that the caller holds itself.
func (d *directory) living(own string) ([]record, error) {
	entries, err := d.entries()
	if err != nil {
		return nil, err
	}
	var all []record
	for _, e := range entries {
		if d.foreign(e) || e.path == own {
			continue
		}
		r, alive, err := readLiving(e.path)
		if err != nil {
			return nil, err
		}
		if alive {
			all = append(all, r)
		}
	}
	return all, nil
}

// readLiving reads the journal at path, if somebody else holds it.
func readLiving(path string) (_ record, alive bool, err error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return record{}, false, nil // just ended, or none of ours
	}
	if err != nil {
		return record{}, false, fmt.Errorf("%w: journal: %w", ErrConfig, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		return record{}, false, nil // nobody's; closing unlocks
	}
	text, _, err := readJournal(file)
	if err != nil {
		return record{}, false, err
	}
	r, err := parseRecord(text)
	if err != nil {
		return record{}, false, nil // whoever holds it, it names no rules
	}
	return r, true, nil
}

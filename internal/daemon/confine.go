package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/landlock-lsm/go-landlock/landlock"
	lsyscall "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"aarptun/internal/config"
)

// ErrSandbox says that the kernel does not offer what --sandbox on asks for.
var ErrSandbox = errors.New("daemon: the process cannot be confined")

// prSetNoNewPrivs is PR_SET_NO_NEW_PRIVS of prctl(2), which package syscall lacks.
const prSetNoNewPrivs = 38

// confinement is what the process has kept. Close lets go of what it takes to
// have kept it.
type confinement struct {
	caps     string // as capabilities(7) names them
	landlock int    // the version of the kernel's interface; 0 if files are not restricted
	why      string // they are not
	pins     []*os.File
}

// tell logs it.
func (c *confinement) tell(log *slog.Logger) {
	switch {
	case c.landlock > 0:
		log.Info("privileges were dropped", "kept", c.caps, "landlock", c.landlock)
	case c.why != "":
		log.Info("privileges were dropped, but for the access to files", "kept", c.caps, "why", c.why)
	}
}

// confine gives up, for every thread and for good, what a daemon whose rooms are
// built needs no more: capabilities, what it could get by execve(2), and the file
// system but for a few places: its own, and those of the files that cfg and reads
// name.
func confine(cfg config.Config, reads []string) (*confinement, error) {
	c := &confinement{}
	if cfg.Sandbox == config.SandboxOff {
		return c, nil
	}
	_, _ = time.Now().Zone() // reads /etc/localtime, once
	if err := c.restrictFiles(cfg, reads); err != nil {
		return c, errors.Join(err, c.close())
	}
	if err := c.dropCapabilities(cfg); err != nil {
		return c, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *confinement) close() error {
	var errs []error
	for _, pin := range c.pins {
		errs = append(errs, pin.Close())
	}
	c.pins = nil
	return errors.Join(errs...)
}

// needed are the capabilities that a running daemon needs: to mark sockets, to
// bear clients' addresses, and to put routes and rules back and take them away. To
// see whether another namespace still has a process takes one more.
func needed(cfg config.Config) []cap.Value {
	if cfg.Netns != "" {
		return []cap.Value{cap.NET_ADMIN, cap.SYS_PTRACE}
	}
	return []cap.Value{cap.NET_ADMIN}
}

// dropCapabilities keeps the needed ones of those that the process has.
func (c *confinement) dropCapabilities(cfg config.Config) error {
	had, kept := cap.GetProc(), cap.NewSet()
	for _, value := range needed(cfg) {
		if has, err := had.GetFlag(cap.Permitted, value); err != nil || !has {
			continue
		}
		if err := errors.Join(kept.SetFlag(cap.Permitted, true, value), kept.SetFlag(cap.Effective, true, value)); err != nil {
			return fmt.Errorf("daemon: drop capabilities: %w", err)
		}
	}
	if err := cap.ResetAmbient(); err != nil {
		return fmt.Errorf("daemon: empty the ambient set: %w", err)
	}
	// Without CAP_SETPCAP the bounding set stays as whoever started us has left
	// it. It is about execve(2), which gives nothing from here on.
	if may, err := had.GetFlag(cap.Effective, cap.SETPCAP); err == nil && may {
		if err := dropBounding(); err != nil {
			return err
		}
	}
	if err := kept.SetProc(); err != nil {
		return fmt.Errorf("daemon: drop capabilities: %w", err)
	}
	if _, err := cap.Prctlw(prSetNoNewPrivs, 1, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("daemon: set no_new_privs: %w", err)
	}
	c.caps = kept.String()
	return nil
}

func dropBounding() error {
	for value := cap.Value(0); value < cap.MaxBits(); value++ {
		if there, err := cap.GetBound(value); err != nil || !there {
			continue
		}
		if err := cap.DropBound(value); err != nil {
			return fmt.Errorf("daemon: take %v out of the bounding set: %w", value, err)
		}
	}
	return nil
}

// What Landlock lets be done at a place (landlock(7)).
const (
	mayRead   = landlock.AccessFSSet(lsyscall.AccessFSReadFile | lsyscall.AccessFSReadDir)
	mayRemove = landlock.AccessFSSet(lsyscall.AccessFSRemoveFile | lsyscall.AccessFSReadDir)
)

// restrictFiles keeps the process from everything in the file system but what a
// running daemon opens or removes. What is open already is not concerned.
func (c *confinement) restrictFiles(cfg config.Config, reads []string) error {
	abi, err := lsyscall.LandlockGetABIVersion()
	switch {
	case cfg.Netns != "":
		c.why = "with --netns the processes of others are looked at"
	case err != nil || abi < 1:
		c.why = "this kernel has no Landlock, or it is not in its list of security modules (lsm=)"
	}
	if c.why != "" && cfg.Sandbox == config.SandboxOn {
		return fmt.Errorf("%w: %s: use --sandbox auto", ErrSandbox, c.why)
	}
	if c.why != "" {
		return nil
	}
	// What is in /proc has another inode, of which Landlock knows nothing, as soon
	// as the kernel has forgotten it; not while it is open.
	var proc []string
	for _, path := range []string{"/proc/self", "/proc/stat"} {
		if file, err := os.Open(path); err == nil {
			c.pins = append(c.pins, file)
			proc = append(proc, path)
		}
	}
	own := []string{cfg.StateDir, filepath.Dir(cfg.AdminSocket)}
	if filepath.IsAbs(cfg.MetricsListen) {
		own = append(own, filepath.Dir(cfg.MetricsListen))
	}
	// V5 is the last version that has rules for files and none for the sockets by
	// which systemd is told.
	err = landlock.V5.BestEffort().RestrictPaths(
		landlock.PathAccess(mayRemove, own...).IgnoreIfMissing(),
		landlock.PathAccess(mayRead, readAgain(cfg, reads)...).IgnoreIfMissing(),
		landlock.PathAccess(mayRead, proc[:min(1, len(proc))]...),
		landlock.PathAccess(lsyscall.AccessFSReadFile, proc[min(1, len(proc)):]...),
	)
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("%w: Landlock: %w", ErrSandbox, err)
	}
	c.landlock = abi
	return err
}

// readAgain are the directories of what a reload reads: a file that is replaced
// is another one under its name.
func readAgain(cfg config.Config, reads []string) []string {
	files := slices.Clone(reads)
	for _, path := range cfg.PSKFiles {
		files = append(files, path)
	}
	var dirs []string
	for _, path := range files {
		if path == "" {
			continue
		}
		if absolute, err := filepath.Abs(path); err == nil {
			dirs = append(dirs, filepath.Dir(absolute))
		}
		// What a link leads to may lie elsewhere.
		if there, err := filepath.EvalSymlinks(path); err == nil && !strings.HasPrefix(there, "/proc/") {
			if absolute, err := filepath.Abs(there); err == nil {
				dirs = append(dirs, filepath.Dir(absolute))
			}
		}
	}
	return dirs
}

package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"aarptun/tun"
)

// nameDir is where ip-netns(8) keeps the names of namespaces.
const nameDir = "/run/netns"

// Namespace is an open network namespace. It exists for as long as it is open,
// whatever becomes of those who live there.
type Namespace struct {
	ref  string // as the user wrote it
	path string
	file *os.File
	id   identity
}

// identity tells namespaces apart: device and inode of the file that stands for
// one (namespaces(7)).
type identity struct{ dev, inode uint64 }

func identityOf(stat unix.Stat_t) identity { return identity{stat.Dev, stat.Ino} }

// PathOf returns the file that ref stands for: a path if it has a slash, the
// namespace of a process if it is a number, else a name under /run/netns.
func PathOf(ref string) string {
	switch {
	case strings.Contains(ref, "/"):
		return ref
	case ref != "" && strings.Trim(ref, "0123456789") == "":
		return filepath.Join("/proc", ref, "ns/net")
	}
	return filepath.Join(nameDir, ref)
}

// Open opens the namespace that ref names; see [PathOf]. Our own is refused, for
// sockets that are to be outside of it would be inside. What the operator can
// mend is [tun.ErrConfig] or [os.ErrPermission].
func Open(ref string) (*Namespace, error) {
	n := &Namespace{ref: ref, path: PathOf(ref)}
	var err error
	if n.file, err = os.OpenFile(n.path, os.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
		return nil, n.explain(err)
	}
	if err := n.check(); err != nil {
		return nil, errors.Join(err, n.file.Close())
	}
	return n, nil
}

func (n *Namespace) explain(err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("netns: the namespace %s belongs to another user: run this as root: %w", n.ref, err)
	case errors.Is(err, os.ErrNotExist) && filepath.Dir(n.path) == nameDir:
		return fmt.Errorf("%w: there is no network namespace %q: 'ip netns list' names those that have a name; for a container give a process of it", tun.ErrConfig, n.ref)
	case errors.Is(err, os.ErrNotExist) && !strings.Contains(n.ref, "/"):
		return fmt.Errorf("%w: no process %s runs, so it has no network namespace", tun.ErrConfig, n.ref)
	}
	return fmt.Errorf("%w: network namespace %s: %w", tun.ErrConfig, n.ref, err)
}

func (n *Namespace) check() error {
	kind, err := unix.IoctlRetInt(int(n.file.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%w: %s is no network namespace: give a name under %s, a path such as /proc/PID/ns/net, or a process", tun.ErrConfig, n.path, nameDir)
	}
	var stat, own unix.Stat_t
	if err := unix.Fstat(int(n.file.Fd()), &stat); err != nil {
		return fmt.Errorf("netns: %s: %w", n.path, err)
	}
	if err := unix.Stat("/proc/thread-self/ns/net", &own); err != nil {
		return fmt.Errorf("netns: which network namespace is this? %w", err)
	}
	n.id = identityOf(stat)
	if n.id == identityOf(own) {
		return fmt.Errorf("%w: %s is the network namespace that aarptun itself runs in: leave it out, or run aarptun outside of it", tun.ErrConfig, n.ref)
	}
	return nil
}

// Do runs f in the namespace, on a thread that nobody else gets, and waits for
// it. What f opens stays in the namespace; goroutines that it starts do not.
func (n *Namespace) Do(f func() error) error {
	ended := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if err := netns.Set(netns.NsHandle(n.file.Fd())); err != nil {
			if errors.Is(err, os.ErrPermission) {
				err = fmt.Errorf("netns: the kernel does not let us into the namespace %s: run as root (CAP_SYS_ADMIN): %w", n.ref, err)
			} else {
				err = fmt.Errorf("netns: enter %s: %w", n.ref, err)
			}
			ended <- err
			return
		}
		ended <- f()
	}()
	return <-ended
}

// Close gives the namespace up.
func (n *Namespace) Close() error {
	if err := n.file.Close(); err != nil {
		return fmt.Errorf("netns: %w", err)
	}
	return nil
}

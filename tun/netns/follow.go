package netns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lookEvery is how often the namespace is looked for. Nobody can use one that
// has gone, so it only matters to who waits for us to end.
const lookEvery = time.Second

// ErrGone is the cause of the end of a context that followed a namespace.
var ErrGone = errors.New("the network namespace has gone")

// Follow returns a context that ends with ctx, or, with the cause [ErrGone],
// when nobody but us has the namespace any more. stop ends it and waits until
// nothing of it is left.
func (n *Namespace) Follow(ctx context.Context) (followed context.Context, stop func()) {
	followed, cancel := context.WithCancelCause(ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		n.follow(followed, cancel)
	}()
	return followed, func() {
		cancel(context.Canceled)
		<-over
	}
}

func (n *Namespace) follow(ctx context.Context, gone context.CancelCauseFunc) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if !n.alive() {
				gone(fmt.Errorf("%w: %s has neither a name nor a process", ErrGone, n.ref))
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// alive says whether somebody else has the namespace. What it was opened by is
// looked at first, and is all that is looked at for as long as it is there.
func (n *Namespace) alive() bool {
	return n.isAt(n.path) || n.hasName() || n.hasProcess()
}

// isAt says whether path stands for the namespace. Who may not know is told yes.
func (n *Namespace) isAt(path string) bool {
	var stat unix.Stat_t
	switch err := unix.Stat(path, &stat); {
	case err == nil:
		return identityOf(stat) == n.id
	case path == n.path:
		return errors.Is(err, os.ErrPermission)
	}
	return false
}

// hasName says whether the namespace is mounted anywhere that we can see: its
// entry in mountinfo (proc(5)) has net:[INODE] for its root.
func (n *Namespace) hasName() bool {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return true // not to be told
	}
	defer file.Close() //nolint:errcheck // only read
	root := fmt.Sprintf("net:[%d]", n.id.inode)
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if slices.Contains(strings.Fields(lines.Text()), root) {
			return true
		}
	}
	return false
}

// hasProcess says whether any process lives in the namespace.
func (n *Namespace) hasProcess() bool {
	proc, err := os.Open("/proc")
	if err != nil {
		return true // not to be told
	}
	defer proc.Close() //nolint:errcheck // only read
	names, err := proc.Readdirnames(-1)
	return err != nil || slices.ContainsFunc(names, func(name string) bool {
		_, err := strconv.Atoi(name)
		return err == nil && n.isAt(filepath.Join("/proc", name, "ns/net"))
	})
}

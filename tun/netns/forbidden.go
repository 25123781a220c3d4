package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// sysctls is where the kernel's settings are.
const sysctls = "/proc/sys"

// switches are the settings that forbid a plain user to make namespaces, each
// with the value that does, and the command that allows it.
var switches = []struct{ path, forbids, remedy string }{
	{"user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"},
	{"user/max_net_namespaces", "0", "sysctl -w user.max_net_namespaces=10000"},
	{"user/max_mnt_namespaces", "0", "sysctl -w user.max_mnt_namespaces=10000"},
	{"kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"},
	{"kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
}

// forbidden says which setting is the reason of an error, made when namespaces
// were to be made or used, if one is; dir is where the settings are.
func forbidden(err error, dir string) error {
	if !errors.Is(err, os.ErrPermission) && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EUSERS) {
		return err
	}
	for _, s := range switches {
		value, readErr := os.ReadFile(filepath.Join(dir, s.path))
		if readErr == nil && strings.TrimSpace(string(value)) == s.forbids {
			return fmt.Errorf("netns: this user may not make namespaces, because %s is %s: allow it with '%s': %w",
				strings.ReplaceAll(s.path, "/", "."), s.forbids, s.remedy, os.ErrPermission)
		}
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("netns: this user may not make namespaces, and no setting of the kernel says why: a container's seccomp filter or a chroot does so: run it outside of that, or as root: %w", err)
	}
	return fmt.Errorf("netns: this user has as many namespaces as there may be: allow more with 'sysctl -w user.max_user_namespaces=10000 user.max_net_namespaces=10000': %w: %w", os.ErrPermission, err)
}

package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"aarptun/tun"
)

// ErrNotExecuted says that the program is there and cannot be executed.
var ErrNotExecuted = errors.New("cannot be executed")

// errAlone says that the daemon has ended first, and has said why.
var errAlone = errors.New("netns: the daemon has ended")

// Child becomes the command, if this process was started to, and else returns
// false. It is to be called before anything else is done. When it returns, it has
// failed; the error is nil if another process has said why.
func Child() (bool, error) {
	p, ok, err := planFor(childVariable)
	if !ok || err != nil {
		return ok, err
	}
	runtime.LockOSThread() // its capabilities and its mask are this thread's
	err = p.enter()
	if errors.Is(err, errAlone) {
		return true, nil
	}
	return true, err
}

// enter furnishes the namespaces that this process was started in, hands the
// device to the daemon, and becomes the program when that is ready.
func (p Plan) enter() error {
	unix.CloseOnExec(p.Socket)
	if err := checkDevice(); err != nil {
		return err
	}
	device, err := tun.Furnish(p.Device)
	if err != nil {
		return forbidden(err, sysctls)
	}
	if err := p.showResolvConf(); err != nil {
		return forbidden(err, sysctls)
	}
	// So that ping(8) works, which finds neither a capability nor a setuid bit of
	// use here (icmp(7)).
	own := fmt.Sprintf("%d %d", os.Getgid(), os.Getgid())
	_ = os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte(own), 0) // without it only that does not
	if err := unix.Sendmsg(p.Socket, []byte{0}, unix.UnixRights(int(device.Fd())), nil, 0); err != nil {
		return errAlone
	}
	if err := device.Close(); err != nil {
		return fmt.Errorf("netns: %w", err)
	}
	var said [1]byte
	if n, err := readEINTR(p.Socket, said[:]); err != nil || n != 1 {
		return errAlone
	}
	if err := dropPrivileges(); err != nil {
		return err
	}
	return p.become()
}

// dropPrivileges sees to it that a plain user's program gets none of what made
// its namespaces. Those that are merely effective go with execve(2), but for root.
func dropPrivileges() error {
	err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err == nil {
		err = unix.Capget(&header, &data[0])
	}
	if err == nil && os.Geteuid() != 0 {
		data[0].Inheritable, data[1].Inheritable = 0, 0
		err = unix.Capset(&header, &data[0])
	}
	if err != nil {
		return fmt.Errorf("netns: give the privileges up: %w", err)
	}
	return nil
}

// checkDevice says in one command's words what the device's file wants.
func checkDevice() error {
	file, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("netns: this user may not open /dev/net/tun: allow it with 'chmod 0666 /dev/net/tun': %w", os.ErrPermission)
	}
	if err == nil {
		err = file.Close()
	}
	if err != nil {
		return fmt.Errorf("%w: %w: load the module with 'modprobe tun', or give the container that device", tun.ErrNoTUN, err)
	}
	return nil
}

// become is execve(2), as execvp(3) does it: what is neither a program nor names
// its interpreter is a shell script.
func (p Plan) become() error {
	err := syscall.Exec(p.Path, p.Args, os.Environ())
	if errors.Is(err, unix.ENOEXEC) {
		err = syscall.Exec("/bin/sh", append([]string{"sh", p.Path}, p.Args[1:]...), os.Environ())
	}
	return fmt.Errorf("%s: %w: %w", p.Args[0], ErrNotExecuted, err)
}

// showResolvConf puts what resolv.conf is to say in the place of what it says, in
// this process's own mount namespace. The file is on a file system that nobody
// else has, and that goes with the namespace.
func (p Plan) showResolvConf() error {
	if p.ResolvConf == "" {
		return nil
	}
	// What is mounted later elsewhere is still to come here, and nothing from here
	// to go there.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("netns: keep mounts to ourselves: %w", err)
	}
	dir, err := somewhere()
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=64k,mode=0755"); err != nil {
		return fmt.Errorf("netns: mount a file system at %s: %w", dir, err)
	}
	made := dir + "/resolv.conf"
	err = os.WriteFile(made, []byte(p.ResolvConf), 0o644)
	if err == nil {
		err = unix.Mount(made, resolvConf, "", unix.MS_BIND, "")
	}
	// The file stays, by its other mount.
	if err := errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH)); err != nil {
		return fmt.Errorf("netns: put another %s in its place: %w", resolvConf, err)
	}
	return nil
}

// somewhere is a directory that nothing has to be in for a moment.
func somewhere() (string, error) {
	for _, dir := range []string{"/tmp", "/mnt", "/run", "/var"} {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%w: to put another %s in its place takes a directory /tmp, /mnt, /run or /var: make one", tun.ErrConfig, resolvConf)
}

func readEINTR(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

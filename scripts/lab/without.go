package main

import (
	"errors"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// withoutNetfilter runs a command as on a kernel that was built without the
// netlink of nftables and of connection tracking (CONFIG_NETFILTER_NETLINK): a
// socket of that protocol is refused in the same way.
func withoutNetfilter(args []string) error {
	if len(args) == 0 {
		return errors.New("a command is wanted")
	}
	program, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	filter, err := refuseNetlink(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the filter is that of the thread, and of what it becomes
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(filter)), 0, 0); err != nil {
		return err
	}
	return syscall.Exec(program, args, syscall.Environ())
}

// refuseNetlink makes a filter for seccomp(2), by which there are no netlink
// sockets of a protocol. It does not look at the architecture: the command is of
// the one that it was made for.
func refuseNetlink(protocol uint32) (*unix.SockFprog, error) {
	// Where struct seccomp_data has the number of the call, and the lower halves of
	// its first and third argument on a little-endian machine.
	const number, family, third = 0, 16, 32
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: number, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_SOCKET, SkipTrue: 5},
		bpf.LoadAbsolute{Off: family, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.AF_NETLINK, SkipTrue: 3},
		bpf.LoadAbsolute{Off: third, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protocol, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW},
	})
	if err != nil {
		return nil, err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}, nil
}

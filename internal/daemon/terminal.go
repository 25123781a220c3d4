package daemon

import (
	"os"
	"syscall"
	"unsafe"
)

// terminal is the one that the daemon was started on. Without one, SIGHUP asks for
// a reload; when it has gone, it means what it meant at first.
type terminal struct{ file *os.File } // nil if there is none

// openTerminal opens the controlling terminal, if there is one (tty(4)).
func openTerminal() terminal {
	file, err := os.OpenFile("/dev/tty", os.O_RDONLY|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return terminal{}
	}
	return terminal{file}
}

// gone reports whether it was hung up on: then it does not know its size any more.
func (t terminal) gone() bool {
	if t.file == nil {
		return false
	}
	var size [4]uint16 // struct winsize (ioctl_tty(2))
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, t.file.Fd(), syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&size)))
	return errno != 0
}

func (t terminal) close() {
	if t.file != nil {
		_ = t.file.Close() // nothing was written
	}
}

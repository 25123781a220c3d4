package ping

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxMessage = 65535 + 60 // a packet, with IPv4's longest header
	maxControl = 512        // bytes; an error's is 16 and an address
	batch      = 256        // messages read between two looks whether the socket is closed
	maxFaults  = 64         // receives in a row that may fail before it is a fault
	faultPause = 10 * time.Millisecond
)

// receive reads replies and ICMP errors until the socket is closed.
func (s *Socket) receive(f *family) {
	r := receiver{s: s, f: f, message: make([]byte, maxMessage), control: make([]byte, maxControl)}
	for {
		closed := f.events.wait(func() (again bool) {
			again = true // if the socket is closed, to find that out
			_ = f.conn.Control(func(fd uintptr) { again = r.read(int(fd)) })
			return again
		})
		if closed {
			return
		}
		if r.faults >= maxFaults {
			// It keeps a lasting fault from taking a core.
			s.stats.errors.Add(1)
			r.faults = 0
			select {
			case <-s.closed:
			case <-time.After(faultPause):
			}
		}
	}
}

type receiver struct {
	s       *Socket
	f       *family
	message []byte
	control []byte
	faults  int // receives in a row that have failed for no reason to be found
}

// read takes what is there. It returns false to be called again when there is
// more, true to be called again at once.
func (r *receiver) read(fd int) bool {
	for range batch {
		n, from, err := unix.Recvfrom(fd, r.message, unix.MSG_DONTWAIT)
		switch {
		case err == nil:
			r.faults = 0
			r.s.deliver(r.f, r.message[:n], addrOf(from), time.Now())
		case errors.Is(err, unix.EAGAIN):
			r.faults = 0
			if !r.readErrors(fd) {
				return false
			}
		default: // about an earlier request; the queue says more
			if !r.readErrors(fd) {
				r.faults++
			}
			if r.faults >= maxFaults {
				return true
			}
		}
	}
	return true
}

// readErrors takes what is in the error queue, and says whether it was
// anything.
func (r *receiver) readErrors(fd int) (any bool) {
	for range batch {
		n, controls, _, about, err := unix.Recvmsg(fd, r.message, r.control, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err != nil {
			break // EAGAIN: there is nothing more
		}
		any = true
		if e := parseExtended(r.control[:controls]); e != nil {
			r.s.deliverError(r.f, r.message[:n], addrOf(about), e)
		}
	}
	return any
}

func addrOf(a unix.Sockaddr) netip.Addr {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(a.Addr)
	}
	return netip.Addr{}
}

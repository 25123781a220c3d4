package nat

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"testing"
)

// errQueueMessage is a control message as the kernel writes it.
func errQueueMessage(level, kind int32, data []byte) []byte {
	b := make([]byte, syscall.CmsgSpace(len(data)))
	binary.NativeEndian.PutUint64(b, uint64(syscall.CmsgLen(len(data))))
	binary.NativeEndian.PutUint32(b[8:], uint32(level))
	binary.NativeEndian.PutUint32(b[12:], uint32(kind))
	copy(b[syscall.CmsgLen(0):], data)
	return b
}

func extendedError(errno syscall.Errno, origin, kind, code byte, info uint32, offender []byte) []byte {
	b := make([]byte, sockExtendedErr, sockExtendedErr+len(offender))
	binary.NativeEndian.PutUint32(b, uint32(errno))
	b[4], b[5], b[6] = origin, kind, code
	binary.NativeEndian.PutUint32(b[8:], info)
	return append(b, offender...)
}

func TestParseExtendedError(t *testing.T) {
	router6 := append([]byte{syscall.AF_INET6, 0, 0, 0, 0, 0, 0, 0}, testU1.AsSlice()...)
	binary.NativeEndian.PutUint16(router6, syscall.AF_INET6)
	v6 := func(data []byte) []byte { return errQueueMessage(syscall.IPPROTO_IPV6, syscall.IPV6_RECVERR, data) }
	v4 := func(data []byte) []byte { return errQueueMessage(syscall.IPPROTO_IP, syscall.IP_RECVERR, data) }
	for _, tc := range []struct {
		name string
		oob  []byte
		v4   bool
		want *ICMP
	}{
		{"policy failed", v6(extendedError(syscall.EACCES, originICMP6, 1, 5, 0, router6)), false, &ICMP{testU1, 1, 5, 0}},
		{"too big", v6(extendedError(syscall.EMSGSIZE, originICMP6, 2, 0, 1300, router6)), false, &ICMP{testU1, 2, 0, 1300}},
		{"no offender", v4(extendedError(syscall.EHOSTUNREACH, originICMP, 3, 1, 0, nil)), true, &ICMP{netip.Addr{}, 3, 1, 0}},
		{"our own kernel, too big", v6(extendedError(syscall.EMSGSIZE, originLocal, 0, 0, 1400, nil)), false, &ICMP{Type: 2, Info: 1400}},
		{"our own kernel, too big, IPv4", v4(extendedError(syscall.EMSGSIZE, originLocal, 0, 0, 1400, nil)), true, &ICMP{Type: 3, Code: 4, Info: 1400}},
		{"a time stamp", v6(extendedError(syscall.ENOMSG, 4, 0, 0, 0, nil)), false, nil},
		{"the other family", v4(extendedError(syscall.EHOSTUNREACH, originICMP, 3, 1, 0, nil)), false, nil},
		{"cut off", v6(extendedError(syscall.EACCES, originICMP6, 1, 5, 0, nil)[:12]), false, nil},
		{"something else", errQueueMessage(syscall.SOL_SOCKET, 1, make([]byte, 32)), false, nil},
		{"nothing", nil, false, nil},
	} {
		got := parseExtendedError(tc.oob, tc.v4)
		switch {
		case (got == nil) != (tc.want == nil):
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		case got != nil && got.icmp != *tc.want:
			t.Errorf("%s: %+v, want %+v", tc.name, got.icmp, *tc.want)
		}
	}
}

func FuzzParseExtendedError(f *testing.F) {
	f.Add(errQueueMessage(syscall.IPPROTO_IPV6, syscall.IPV6_RECVERR, extendedError(syscall.EACCES, originICMP6, 1, 5, 0, make([]byte, 28))), false)
	f.Add(errQueueMessage(syscall.IPPROTO_IP, syscall.IP_RECVERR, extendedError(syscall.EMSGSIZE, originLocal, 0, 0, 9, nil)), true)
	f.Fuzz(func(t *testing.T, oob []byte, v4 bool) {
		if e := parseExtendedError(oob, v4); e != nil && e.errno == 0 && e.icmp == (ICMP{}) && e.datagram == nil {
			t.Errorf("an error that says nothing: %+v", e)
		}
		received(oob)
	})
}

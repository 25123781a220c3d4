package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// The router's ICMP errors of any type and code: what is routed to this device
// is answered with the one that the last two numbers of its destination name,
// and an IPv4 address of any other prefix with "administratively prohibited".

// device is the name of the router's device for them; the sources are addresses
// behind it.
const device = "err0"

var (
	source6 = netip.MustParseAddr("2001:db8:ee::ffff")
	source4 = netip.MustParseAddr("198.19.255.1")
)

// answerErrors runs until it is killed, in the router's namespace.
func answerErrors([]string) (int, error) {
	fd, err := openTUN(device)
	if err != nil {
		return 1, err
	}
	fmt.Println("answering")
	return 1, carry(fd, fd, answerTo)
}

// answerTo is the error about a packet, or nil if there is none to be had: an
// error is never answered (RFC 4443 section 2.4 e, RFC 1122 section 3.2.2).
func answerTo(b []byte) []byte {
	switch {
	case len(b) >= 40 && b[0]>>4 == 6:
		if b[6] == 58 && len(b) > 40 && b[40] < 128 {
			return nil
		}
		return answer6(b)
	case len(b) >= 20 && b[0]>>4 == 4:
		if size := int(b[0]&15) * 4; b[9] == 1 && len(b) > size && b[size] != 8 {
			return nil
		}
		return answer4(b)
	}
	return nil
}

func answer6(b []byte) []byte {
	quote := b[:min(len(b), 1280-40-8)] // RFC 4443 section 2.4 c
	a := make([]byte, 48, 48+len(quote))
	a[0], a[6], a[7] = 0x60, 58, 64
	binary.BigEndian.PutUint16(a[4:], uint16(8+len(quote)))
	copy(a[8:24], source6.AsSlice())
	copy(a[24:40], b[8:24])
	a[40], a[41] = b[37], b[39]
	a = append(a, quote...)
	pseudo := make([]byte, 40, 40+len(a)) // RFC 8200 section 8.1
	copy(pseudo, a[8:40])
	binary.BigEndian.PutUint32(pseudo[32:], uint32(len(a)-40))
	pseudo[39] = 58
	binary.BigEndian.PutUint16(a[42:], onesComplement(append(pseudo, a[40:]...)))
	return a
}

func answer4(b []byte) []byte {
	quote := b[:min(len(b), 576-20-8)] // RFC 1812 section 4.3.2.3
	a := make([]byte, 28, 28+len(quote))
	a[0], a[8], a[9] = 0x45, 64, 1
	binary.BigEndian.PutUint16(a[2:], uint16(28+len(quote)))
	copy(a[12:16], source4.AsSlice())
	copy(a[16:20], b[12:16])
	a[20], a[21] = 3, 13
	if b[16] == 198 && b[17] == 19 {
		a[20], a[21] = b[18], b[19]
	}
	a = append(a, quote...)
	binary.BigEndian.PutUint16(a[10:], onesComplement(a[:20]))
	binary.BigEndian.PutUint16(a[22:], onesComplement(a[20:]))
	return a
}

package netns

import (
	"net/netip"
	"strings"
)

// standInPrefix is RFC 7335's, in which no host on a network can be.
var standInPrefix = netip.MustParsePrefix("192.0.0.0/29")

// maxResolvers is how many name servers the C library uses (resolv.conf(5),
// MAXNS).
const maxResolvers = 3

// standIns returns a resolv.conf that names an address of its own for each name
// server which the other namespace cannot reach under its true one, and what each
// stands for. The text is "" if there is none.
func standIns(text string) (changed string, stands map[netip.Addr]netip.Addr) {
	next := standInPrefix.Addr().Next() // the device's
	var b strings.Builder
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[0] == "nameserver" && len(stands) < maxResolvers {
			if server, err := netip.ParseAddr(fields[1]); err == nil && isHere(server) {
				if stands == nil {
					stands = map[netip.Addr]netip.Addr{}
				}
				next = next.Next()
				stands[next] = server
				line = "nameserver " + next.String() + "\n"
			}
		}
		b.WriteString(line)
	}
	if len(stands) == 0 {
		return "", nil
	}
	return b.String(), stands
}

// isHere says whether an address means something else in another namespace.
// 0.0.0.0 means the loopback.
func isHere(a netip.Addr) bool {
	return a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast()
}

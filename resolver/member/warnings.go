package member

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Warning is a setting of this host that keeps clients from finding it.
type Warning struct {
	Finding string // what is set, and what comes of it
	Remedy  string // the command that mends it
}

const sysctlRoot = "/proc/sys/net/ipv6"

// breaking are the settings under which an echo to AA is not answered from UA.
var breaking = []struct{ name, bad, effect string }{
	{"anycast_src_echo_reply", "1", "echo replies come from AA itself and name no member"},
	{"icmp/echo_ignore_anycast", "1", "echo requests to AA are not answered"},
	{"icmp/echo_ignore_all", "1", "no echo request is answered"},
}

// Warnings returns what on this host breaks resolving of aa by ICMPv6 echo, in
// the network namespace of the calling thread.
func Warnings(aa netip.Addr) []Warning {
	var found []Warning
	for _, setting := range breaking {
		value, err := os.ReadFile(filepath.Join(sysctlRoot, setting.name))
		if err != nil || strings.TrimSpace(string(value)) != setting.bad {
			continue // a kernel without the setting does not have the fault
		}
		key := "net.ipv6." + strings.ReplaceAll(setting.name, "/", ".")
		found = append(found, Warning{
			Finding: key + "=" + setting.bad + ": " + setting.effect,
			Remedy:  "sysctl -w " + key + "=0",
		})
	}
	if own, dev := ownAddress(aa); dev != "" {
		found = append(found, Warning{
			Finding: aa.String() + " is also an ordinary address of this host, so it answers from itself and names no member",
			Remedy:  "ip -6 addr del " + own.String() + " dev " + dev,
		})
	}
	return found
}

// ownAddress returns the interface that has a as an ordinary address, "" if
// none has.
func ownAddress(a netip.Addr) (own netip.Prefix, dev string) {
	links, err := net.Interfaces()
	if err != nil {
		return own, "" // without the list there is nothing to warn of
	}
	for _, link := range links {
		addrs, err := link.Addrs()
		if err != nil {
			continue // the interface has gone
		}
		for _, addr := range addrs {
			if own, err := netip.ParsePrefix(addr.String()); err == nil && own.Addr() == a {
				return own, link.Name
			}
		}
	}
	return own, ""
}

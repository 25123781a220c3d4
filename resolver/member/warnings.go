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

// Warnings returns what on this host breaks resolving of aa by ICMPv6 echo.
func Warnings(aa netip.Addr) []Warning { return warnings(sysctlRoot, aa, interfaceAddrs()) }

func warnings(root string, aa netip.Addr, own []netip.Prefix) []Warning {
	var found []Warning
	for _, setting := range breaking {
		value, err := os.ReadFile(filepath.Join(root, setting.name))
		if err != nil || strings.TrimSpace(string(value)) != setting.bad {
			continue // a kernel without the setting does not have the fault
		}
		key := "net.ipv6." + strings.ReplaceAll(setting.name, "/", ".")
		found = append(found, Warning{
			Finding: key + "=" + setting.bad + ": " + setting.effect,
			Remedy:  "sysctl -w " + key + "=0",
		})
	}
	for _, p := range own {
		if p.Addr() == aa {
			found = append(found, Warning{
				Finding: aa.String() + " is also an ordinary address of this host, so it answers from itself and names no member",
				Remedy:  "ip -6 addr del " + p.String() + " dev DEV",
			})
		}
	}
	return found
}

func interfaceAddrs() []netip.Prefix {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil // without the list there is nothing to warn of
	}
	var own []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, p)
		}
	}
	return own
}

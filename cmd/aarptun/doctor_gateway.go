package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"aarptun/tun"
)

const (
	forwarding6 = "ipv6.conf.all.forwarding"
	forwarding4 = "ipv4.ip_forward"

	// routeByAdvertisement is RTF_ADDRCONF (linux/ipv6_route.h): the route was
	// learned from a router.
	routeByAdvertisement = 0x00040000
)

// checkGateway looks at what counts for the flows of hosts behind this one.
func (d *doctor) checkGateway() {
	on6, on4 := setting(forwarding6) == "1", setting(forwarding4) == "1"
	d.gateway = d.gateway || len(d.clients) > 0 || d.daemon != nil && d.daemon.PreserveSource
	if !d.gateway && !on6 && !on4 {
		return // nobody has said that it is one
	}
	before := len(d.findings)
	v6, v4 := d.familiesCarried()
	if v6 && !on6 {
		d.checkAdvertisedRoutes()
	}
	if v6 && !on6 {
		d.say("gateway", d.gatewayLevel(), "sysctl -w net."+forwarding6+"=1",
			"net.%s=%s: no packet of another host is forwarded into the TUN, nor an answer out of it", forwarding6, setting(forwarding6))
	}
	if v4 && !on4 {
		d.say("gateway", d.gatewayLevel(), "sysctl -w net."+forwarding4+"=1",
			"net.%s=%s: no IPv4 packet of another host is forwarded into the TUN, nor an answer out of it", forwarding4, setting(forwarding4))
	}
	if d.daemon != nil {
		d.checkGatewayDevice(v4 && on4)
	}
	if d.gateway && v6 && setting("bridge.bridge-nf-call-ip6tables") == "1" && hasBridge() {
		d.say("gateway", warning, "sysctl -w net.bridge.bridge-nf-call-ip6tables=0",
			"net.bridge.bridge-nf-call-ip6tables=1: where the kernel puts fragments together, for --preserve-source or to track connections, those that come over a bridge stay so: an IPv6 datagram that is larger than the way to the member then never gets there")
	}
	for _, client := range d.clients {
		d.checkWayToClient(client)
	}
	if !slices.ContainsFunc(d.findings[before:], func(f finding) bool { return f.Check == "gateway" }) {
		d.say("gateway", fine, "", "the kernel forwards packets of other hosts; a firewall must let them pass from the LAN to the TUN and back")
	}
}

// hasBridge reports whether there is a bridge.
func hasBridge() bool {
	bridges, err := filepath.Glob("/sys/class/net/*/bridge")
	return err == nil && len(bridges) > 0
}

// gatewayLevel is how bad it is that packets are not forwarded.
func (d *doctor) gatewayLevel() level {
	if d.gateway {
		return problem
	}
	return warning
}

// familiesCarried is what the daemon carries; both where that is not known.
func (d *doctor) familiesCarried() (v6, v4 bool) {
	if d.daemon == nil {
		return true, true
	}
	for _, p := range d.daemon.Prefixes {
		v4 = v4 || p.Addr().Is4()
		v6 = v6 || p.Addr().Is6()
	}
	return v6, v4
}

// checkGatewayDevice looks at the settings of the daemon's device, which has them
// from net.*.conf.default, and of all devices where the kernel takes either.
func (d *doctor) checkGatewayDevice(v4 bool) {
	device := d.daemon.Device
	if v4 && setting("ipv4.conf."+device+".forwarding") == "0" {
		d.say("gateway", d.gatewayLevel(), "sysctl -w net.ipv4.conf."+device+".forwarding=1",
			"net.ipv4.conf.%s.forwarding=0: what comes out of the TUN does not reach other hosts", device)
	}
	if v4 && setting("ipv4.conf."+device+".rp_filter") == strictFilter {
		d.say("gateway", warning, "sysctl -w net.ipv4.conf."+device+".rp_filter=2",
			"net.ipv4.conf.%s.rp_filter=1: that a packet's TTL has ended at a router comes out of the TUN from that router, and is dropped: traceroute shows no hops", device)
	}
	if !d.daemon.PreserveSource || !v4 {
		return
	}
	for _, name := range settingsOfDevices("ipv4", "src_valid_mark") {
		if setting(name) == "1" {
			d.say("gateway", problem, "sysctl -w net."+name+"=0",
				"net.%s=1, and --preserve-source: the kernel takes what members send to clients for forged, and drops it", name)
		}
	}
}

// settingsOfDevices names a setting of all devices.
func settingsOfDevices(family, name string) (names []string) {
	devices, err := os.ReadDir("/proc/sys/net/" + family + "/conf")
	if err != nil {
		return nil
	}
	for _, device := range devices {
		if device.Name() != "default" {
			names = append(names, family+".conf."+device.Name()+"."+name)
		}
	}
	return names
}

// checkAdvertisedRoutes looks for a default route that will go: the kernel removes
// those learned from routers at the moment that it begins to forward, and takes no
// more of them, unless it is told to (accept_ra=2).
func (d *doctor) checkAdvertisedRoutes() {
	routes, err := os.ReadFile("/proc/net/ipv6_route")
	if err != nil {
		return // there is no IPv6
	}
	for _, device := range advertisedDefaults(string(routes)) {
		name := "ipv6.conf." + device + ".accept_ra"
		if setting(name) == "1" {
			d.say("gateway", d.gatewayLevel(), "sysctl -w net."+name+"=2",
				"the default route by %s was learned from a router, and net.%s=1 has it go when net.%s=1 is set: mend this first", device, name, forwarding6)
		}
	}
}

// advertisedDefaults lists the devices of default routes that were learned from
// routers. A line of /proc/net/ipv6_route has the destination and its length
// first, the flags and the device last.
func advertisedDefaults(routes string) (devices []string) {
	for line := range strings.Lines(routes) {
		fields := strings.Fields(line)
		if len(fields) < 10 || strings.Trim(fields[0], "0") != "" || fields[1] != "00" {
			continue
		}
		flags, err := strconv.ParseUint(fields[8], 16, 64)
		if err == nil && flags&routeByAdvertisement != 0 {
			devices = append(devices, fields[9])
		}
	}
	return devices
}

// checkWayToClient wants an answer to a client of a LAN to be sent there, and not
// back into the TUN.
func (d *doctor) checkWayToClient(client netip.Addr) {
	way, err := tun.WayTo(client, 0)
	switch {
	case err != nil:
		d.say("client", problem, "ip route get "+client.String(), "there is no route to the client %v: %v", client, err)
	case d.daemon != nil && way.Device == d.daemon.Device:
		d.say("client", problem, "aarptun run with a prefix that does not hold it", "answers to the client %v would be led into %s", client, way.Device)
	default:
		d.say("client", fine, "", "answers to the client %v leave by %s", client, way.Device)
	}
}

package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"aarptun/resolver/member"
	"aarptun/resolver/ping"
	"aarptun/tun"
)

const (
	tunDevice = "/dev/net/tun"

	// Capabilities by number (linux/capability.h).
	capNetAdmin = 12
	capNetRaw   = 13

	// What adjtimex(2) says of a clock that nothing keeps right
	// (linux/timex.h).
	timeError    = 5
	staUnsynced  = 0x40
	strictFilter = "1" // rp_filter (RFC 3704 section 2.2)
)

func (d *doctor) checkDevice() {
	file, err := os.OpenFile(tunDevice, os.O_RDWR, 0)
	switch {
	case err == nil:
		_ = file.Close() // nothing was made of it
		d.say("tun", fine, "", "%s can be opened", tunDevice)
	case errors.Is(err, os.ErrPermission):
		d.say("tun", problem, "chmod 0666 "+tunDevice, "%s may not be opened, so 'aarptun run' can make no device", tunDevice)
	default:
		d.say("tun", problem, "modprobe tun", "this kernel has no TUN, or %s is missing: %v", tunDevice, err)
	}
}

func (d *doctor) checkCapabilities() {
	have, err := effectiveCapabilities()
	if err != nil {
		d.say("capabilities", warning, "", "they cannot be read: %v", err)
		return
	}
	for _, c := range []struct {
		number int
		name   string
		effect string
	}{
		{capNetAdmin, "CAP_NET_ADMIN", "'aarptun run' can make no device, and no socket of its own can bypass one"},
		{capNetRaw, "CAP_NET_RAW", "probes and pings need ping sockets"},
	} {
		l := problem
		if c.number == capNetRaw {
			l = warning
		}
		if have>>c.number&1 == 1 {
			d.say("capabilities", fine, "", "%s is there", c.name)
		} else {
			d.say("capabilities", l, "run it as root", "%s is missing: %s", c.name, c.effect)
		}
	}
}

func effectiveCapabilities() (uint64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		}
	}
	return 0, errors.New("no CapEff in /proc/self/status")
}

func (d *doctor) checkPing() {
	socket, err := ping.Open(ping.Config{})
	if err != nil {
		d.say("ping", problem, "sysctl -w net.ipv4.ping_group_range='0 2147483647'", "no echo request can be sent: %v", err)
		return
	}
	_ = socket.Close() // nothing was sent
	d.say("ping", fine, "", "echo requests can be sent")
}

// checkRules looks for what a dead daemon has left and for rules that come
// before ours.
func (d *doctor) checkRules(aas []netip.Addr) {
	var about []netip.Prefix
	for _, aa := range aas {
		about = append(about, netip.PrefixFrom(aa, aa.BitLen()))
	}
	if d.daemon != nil {
		about = append(about, d.daemon.Prefixes...)
	}
	found, err := tun.Inspect(d.cfg.Table, about)
	if err != nil {
		d.say("rules", warning, "", "they cannot be read: %v", err)
		return
	}
	before := len(d.findings)
	for _, rule := range found.Ours {
		if d.daemon == nil {
			d.say("rules", problem, "aarptun cleanup", "a rule was left behind by an aarptun that has died, or whose admin socket is another: %s", rule)
		}
	}
	if d.daemon != nil && len(found.Ours) == 0 {
		d.say("rules", problem, "start the daemon again", "a daemon runs and its rules are gone, so nothing is led into %s", d.daemon.Device)
	}
	for _, rule := range found.Before {
		d.say("rules", warning, "", "a rule of somebody else comes before priority 17000 and may lead anycast flows past aarptun: %s", rule)
	}
	if len(found.Routes) > 0 && d.daemon == nil {
		d.say("rules", problem, "ip route flush table "+strconv.Itoa(d.cfg.Table)+"; ip -6 route flush table "+strconv.Itoa(d.cfg.Table),
			"no daemon runs, and table %d holds %s: 'aarptun run' will refuse to use it", d.cfg.Table, strings.Join(found.Routes, ", "))
	}
	switch {
	case len(d.findings) > before:
	case d.daemon == nil:
		d.say("rules", fine, "", "nothing is left of an earlier run, and table %d is free", d.cfg.Table)
	default:
		d.say("rules", fine, "", "table %d holds %s, and %d rules lead there", d.cfg.Table, strings.Join(found.Routes, ", "), len(found.Ours))
	}
}

// setting reads a sysctl; "" if this kernel has none.
func setting(name string) string {
	value, err := os.ReadFile(filepath.Join("/proc/sys/net", strings.ReplaceAll(name, ".", "/")))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(value))
}

// checkSettings looks at the settings that count for a client.
func (d *doctor) checkSettings() {
	before := len(d.findings)
	devices := []string{"all"}
	if d.daemon != nil {
		devices = append(devices, d.daemon.Device)
	}
	for _, device := range devices {
		if setting("ipv4.conf."+device+".rp_filter") == strictFilter {
			d.say("settings", warning, "sysctl -w net.ipv4.conf."+device+".rp_filter=2",
				"net.ipv4.conf.%s.rp_filter=1: what an IPv4 member answers over another interface than leads to it is dropped", device)
		}
	}
	for _, lease := range exclusiveLabels() {
		d.say("settings", warning, "", "a program has leased the IPv6 flow label %s for itself alone: the kernel then takes no label that is not leased, and probes on other paths fail", lease)
	}
	if len(d.findings) == before {
		d.say("settings", fine, "", "no setting is in a client's way")
	}
}

// exclusiveLabels lists the flow labels whose sharing is exclusive (ipv6(7),
// IPV6_FLOWLABEL_MGR): the second column of /proc/net/ip6_flowlabel is not 255
// (any).
func exclusiveLabels() (labels []string) {
	file, err := os.Open("/proc/net/ip6_flowlabel")
	if err != nil {
		return nil // there are none to be had
	}
	defer file.Close() //nolint:errcheck // only read
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 1 && fields[0] != "Label" && fields[1] != "255" {
			labels = append(labels, fields[0])
		}
	}
	return labels
}

// checkMember looks at the settings that count if this host is a member.
func (d *doctor) checkMember(aas []netip.Addr) {
	before := len(d.findings)
	seen := map[string]bool{}
	for _, aa := range append([]netip.Addr{netip.IPv6Unspecified()}, aas...) {
		if aa.Is4() || aa != netip.IPv6Unspecified() && !slices.Contains(member.Locals(), aa) {
			continue
		}
		for _, w := range member.Warnings(aa) {
			if !seen[w.Finding] {
				seen[w.Finding] = true
				d.say("member", warning, w.Remedy, "as a member: %s", w.Finding)
			}
		}
	}
	if len(d.findings) == before {
		d.say("member", fine, "", "as a member: no setting keeps the kernel from answering for an anycast address it has joined")
	}
	if setting("ipv6.conf.all.forwarding") == "0" {
		d.say("member", fine, "", "as a member: net.ipv6.conf.all.forwarding=0, so only an AA of a prefix that is on-link here can be joined")
	}
}

// checkClock asks the kernel whether something keeps its clock right.
func (d *doctor) checkClock() {
	var t syscall.Timex
	state, err := syscall.Adjtimex(&t)
	switch {
	case err != nil:
		d.say("clock", warning, "", "it cannot be asked: %v", fmt.Errorf("adjtimex: %w", err))
	case state == timeError || t.Status&staUnsynced != 0:
		d.say("clock", warning, "timedatectl set-ntp true", "nothing keeps the clock right (adjtimex says that it is not synchronized): signed answers are only valid for a time, and a clock that is wrong by more than that refuses them all")
	default:
		d.say("clock", fine, "", "it is synchronized, to within %d ms by its own estimate", t.Maxerror/1000)
	}
}

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// variant is one way from the client to the member.
type variant struct {
	name, what string
	peer       bool   // a translator in user space that is not ours
	process    bool   // it has a process, which must use CPU
	kernel     bool   // it has one that must not: the kernel carries the load
	resolves   bool   // it takes AA; it is ours
	inner      bool   // the load runs in a namespace that the translator makes reachable
	toUA       bool   // the load dials UA: it knows no AA
	tcpOnly    bool   // it does for a few rows, as a limit
	program    string // that must be there, and which Debian package has it
	pkg        string
	start      func(*lab) (*running, error)
}

// running is a variant that has been started.
type running struct {
	pid  int
	stop func() error
}

// The variants that the goals are for.
const (
	aarptunOn     = "aarptun"
	aarptunKernel = "aarptun-nft"
)

// variants are all there are, in the order in which they are shown.
var variants = []variant{
	{name: "direct", what: "routing alone; the client dials UA", toUA: true, start: startDirect},
	{name: "nft", what: "nftables in the client's kernel: DNAT from AA to UA", program: "nft", pkg: "nftables", start: startNft},
	{
		name: "tun2socks", what: "tun2socks 2.7.0, MTU 9000, direct outbound; UA is routed into its TUN",
		peer: true, process: true, toUA: true, start: startTun2socks,
	},
	{
		name: "pasta", what: "pasta (passt); the client is in its namespace and dials UA",
		peer: true, process: true, inner: true, toUA: true, program: "pasta", pkg: "passt", start: startPasta,
	},
	{
		name: "slirp4netns", what: "slirp4netns, MTU 65520; the client is in its namespace and dials UA",
		peer: true, process: true, inner: true, toUA: true, program: "slirp4netns", pkg: "slirp4netns", start: startSlirp,
	},
	{
		name: "relay", what: "the limit of what ends flows in user space: the client dials AA on its own loopback, and a program joins two kernel sockets by splice(2)",
		process: true, tcpOnly: true, start: startRelay,
	},
	{name: aarptunOn, what: "aarptun run --offload-gso on; the client dials AA", process: true, resolves: true, start: aarptunWith("on")},
	{name: aarptunKernel, what: "aarptun run --offload nft, AA pinned; the client dials AA", kernel: true, start: startOffload},
	{name: "aarptun-gso-off", what: "aarptun run --offload-gso off; the client dials AA", process: true, resolves: true, start: aarptunWith("off")},
}

// leftOut is a variant that is not measured, and why.
type leftOut struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// choose returns the variants of those names, or all, which can be run here.
func (l *lab) choose(only []string) (chosen []variant, out []leftOut, err error) {
	for _, name := range only {
		if !slices.ContainsFunc(variants, func(v variant) bool { return v.name == name }) {
			return nil, nil, fmt.Errorf("there is no variant %q: there are %s", name, strings.Join(variantNames(), ", "))
		}
	}
	for _, v := range variants {
		if len(only) > 0 && !slices.Contains(only, v.name) {
			continue
		}
		if why := l.missing(v); why != "" {
			out = append(out, leftOut{v.name, why})
			continue
		}
		chosen = append(chosen, v)
	}
	if len(chosen) == 0 {
		return nil, out, fmt.Errorf("no variant is left to measure: %v", out)
	}
	return chosen, out, nil
}

func variantNames() (names []string) {
	for _, v := range variants {
		names = append(names, v.name)
	}
	return names
}

// missing says why a variant cannot be run here, or nothing.
func (l *lab) missing(v variant) string {
	switch {
	case v.name == "tun2socks" && l.tun2socks == "":
		return "it is not built"
	case v.name == "aarptun-gso-off" && !l.offloadFlag():
		return "this aarptun has no --offload-gso"
	case v.program == "":
		return ""
	}
	if _, err := exec.LookPath(v.program); err != nil {
		return fmt.Sprintf("there is no %s: apt-get install %s", v.program, v.pkg)
	}
	return ""
}

func (l *lab) offloadFlag() bool {
	help, err := exec.Command(l.aarptun, "run", "--help").Output()
	return err == nil && strings.Contains(string(help), "--offload-gso")
}

func startDirect(*lab) (*running, error) {
	return &running{stop: func() error { return nil }}, nil
}

// startNft translates what the client sends itself (output) and what it forwards
// (prerouting).
func startNft(l *lab) (*running, error) {
	var rules []string
	for _, hook := range []string{"output priority -100", "prerouting priority dstnat"} {
		rules = append(rules, fmt.Sprintf("chain %s { type nat hook %s; ip6 daddr %s dnat ip6 to %s; ip daddr %s dnat ip to %s; }",
			strings.Fields(hook)[0], hook, l.aa, l.ua, l.aa4, l.ua4))
	}
	in := "table inet bench {\n" + strings.Join(rules, "\n") + "\n}"
	out, err := exec.Command("ip", "netns", "exec", "client", "nft", in).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("nft: %w: %s", err, out)
	}
	return &running{stop: func() error { return l.do("ip netns exec client nft delete table inet bench") }}, nil
}

func startRelay(l *lab) (*running, error) {
	own, err := os.Executable()
	if err != nil {
		return nil, err
	}
	own4 := func(verb string) string { return fmt.Sprintf("ip -n client addr %s %s/32 dev lo", verb, l.aa4) }
	own6 := func(verb string) string { return fmt.Sprintf("ip -n client -6 addr %s %s/128 dev lo", verb, l.aa) }
	if err := l.all(own6("replace"), own4("replace")); err != nil {
		return nil, err
	}
	p, err := l.spawn("client", "relay", own, "relay", "--ua", l.ua.String(), "--ua4", l.ua4.String())
	remove := func() error { return l.all(own6("del"), own4("del")) }
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	return orStopped(p, func() error { return errors.Join(p.stop(), remove()) }, p.says("relaying"))
}

func startTun2socks(l *lab) (*running, error) {
	p, err := l.spawn("client", "tun2socks", l.tun2socks, "--device", "tun://bench0", "--mtu", "9000",
		"--proxy", "direct://", "--interface", "eth0", "--loglevel", "warn")
	if err != nil {
		return nil, err
	}
	err = p.eventually(func() bool { return l.has("client", "link", "bench0") }, "make its TUN")
	if err == nil {
		// Its own sockets are bound to eth0, for which these routes are none. The
		// device goes with the process, and takes them with it.
		err = l.all("ip -n client link set bench0 up",
			fmt.Sprintf("ip -n client -6 route add %s dev bench0", l.ua), fmt.Sprintf("ip -n client route add %s dev bench0", l.ua4))
	}
	return orStopped(p, p.stop, err)
}

// inNamespace makes the namespace for a translator that makes one reachable.
func (l *lab) inNamespace(start func() (*process, error), ready func(*process) error) (*running, error) {
	if err := l.all("ip netns add inner", "ip -n inner link set lo up",
		"ip netns exec inner sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0"); err != nil {
		return nil, err
	}
	remove := func() error { return l.do("ip netns del inner") }
	p, err := start()
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	return orStopped(p, func() error { return errors.Join(p.stop(), remove()) }, ready(p))
}

func startPasta(l *lab) (*running, error) {
	return l.inNamespace(func() (*process, error) {
		return l.spawn("client", "pasta", "pasta", "--foreground", "--config-net", "--netns-only", "--netns", "/run/netns/inner",
			"--runas", "0", "-t", "none", "-u", "none", "-T", "none", "-U", "none")
	}, func(p *process) error {
		return p.eventually(func() bool {
			return l.has("inner", "-6 route", "default") && l.has("inner", "route", "default")
		}, "configure the namespace")
	})
}

func startSlirp(l *lab) (*running, error) {
	return l.inNamespace(func() (*process, error) {
		return l.spawn("client", "slirp4netns", "slirp4netns", "--configure", "--enable-ipv6", "--mtu=65520", "--netns-type=path", "/run/netns/inner", "tap0")
	}, func(p *process) error {
		err := p.eventually(func() bool { return l.has("inner", "route", "default") }, "configure the namespace")
		if err != nil {
			return err
		}
		// Its address by router advertisement comes late; these are the ones.
		return l.all("ip -n inner addr replace fd00::100/64 dev tap0 nodad", "ip -n inner -6 route replace default via fd00::2 dev tap0")
	})
}

// aarptunWith runs ours, with its offloads on or off if it lets that be chosen.
func aarptunWith(offload string, more ...string) func(*lab) (*running, error) {
	return func(l *lab) (*running, error) {
		args := []string{l.aarptun, "run", "-p", l.prefix, "-p", l.prefix4, "--static", fmt.Sprintf("%s=%s", l.aa4, l.ua4),
			"--drain-timeout", "0s", "--log-level", "warn"}
		for _, a := range l.several() {
			args = append(args, "--static", fmt.Sprintf("%s=%s", a, l.ua))
		}
		if l.offloadFlag() {
			args = append(args, "--offload-gso", offload)
		}
		args = append(args, more...)
		if dir := os.Getenv("PROFILES"); dir != "" {
			args = append(args, "--cpu-profile", filepath.Join(dir, fmt.Sprintf("%d.prof", time.Now().UnixNano())))
		}
		p, err := l.spawn("client", "aarptun", args...)
		if err != nil {
			return nil, err
		}
		return orStopped(p, p.stop, p.says("ready"))
	}
}

// startOffload runs ours with the kernel carrying the flows, and has the addresses
// pinned first.
func startOffload(l *lab) (*running, error) {
	r, err := aarptunWith("on", "--offload", "nft", "--cache-ttl", "1h")(l)
	if err != nil {
		return nil, err
	}
	if err := l.pin(); err != nil {
		return nil, errors.Join(err, r.stop())
	}
	return r, nil
}

// pin sends a datagram to each address, and waits until the kernel has them all.
func (l *lab) pin() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	addresses := append(l.several(), l.aa, l.aa4)
	line := "ip netns exec client " + self + " pin"
	for _, a := range addresses {
		line += " " + a.String()
	}
	if err := l.do(line); err != nil {
		return err
	}
	want := fmt.Sprintf(`"pins":%d,"rebuilds":`, len(addresses))
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		out, err := exec.Command("ip", "netns", "exec", "client", l.aarptun, "status", "--json").Output()
		if err == nil && strings.Contains(string(out), want) {
			return nil
		}
	}
	return fmt.Errorf("the kernel was not told of %d pins", len(addresses))
}

// pinCommand sends a datagram to the discard port of each address (RFC 863).
func pinCommand(args []string) (code int, err error) {
	for _, a := range args {
		conn, err := net.Dial("udp", net.JoinHostPort(a, "9"))
		if err != nil {
			return 1, err
		}
		if _, err := conn.Write([]byte("pin")); err != nil {
			return 1, errors.Join(err, conn.Close())
		}
		if err := conn.Close(); err != nil {
			return 1, err
		}
	}
	return 0, nil
}

// orStopped returns what runs, or stops it if there was an error.
func orStopped(p *process, stop func() error, err error) (*running, error) {
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	return &running{pid: p.cmd.Process.Pid, stop: stop}, nil
}

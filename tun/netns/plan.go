package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"aarptun/tun"
)

// Plan is what a command's namespace is to be like, and what is to run there. The
// process that was called makes it, and hands it to the other two.
type Plan struct {
	Device tun.Private `json:"device"`
	// ResolvConf is what /etc/resolv.conf says there; "" is what it says here.
	ResolvConf string `json:"resolv_conf,omitempty"`
	// Resolvers are the addresses that stand there for name servers which only
	// our own namespace can reach, such as one on our loopback.
	Resolvers map[netip.Addr]netip.Addr `json:"resolvers,omitempty"`

	Path string   `json:"path"` // of the program
	Args []string `json:"args"` // from argv[0]

	Socket int `json:"socket"` // the child's descriptor of its end
}

// The variables that carry the plan, each with the role that it is for. No program
// but ours is ever started with one.
const (
	childVariable  = "AARPTUN_EXEC_CHILD"
	daemonVariable = "AARPTUN_EXEC_DAEMON"
)

// resolvConf is where the C library looks for name servers (resolv.conf(5)).
const resolvConf = "/etc/resolv.conf"

// MakePlan makes the plan for a command, as the network here is now. The families
// of which this host has an address are those that the command has. An mtu of 0
// takes the uplink's.
func MakePlan(path string, args []string, mtu int) (Plan, error) {
	p := Plan{Device: tun.Private{Name: "aarptun0", MTU: mtu}, Path: path, Args: args}
	var err error
	if mtu == 0 {
		if p.Device.MTU, err = tun.UplinkMTU(); err != nil {
			return Plan{}, err
		}
	}
	text, err := os.ReadFile(resolvConf)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return Plan{}, fmt.Errorf("netns: which name servers does this host have? %w", err)
	}
	p.ResolvConf, p.Resolvers = standIns(string(text))
	own, err := net.InterfaceAddrs()
	if err != nil {
		return Plan{}, fmt.Errorf("netns: which addresses does this host have? %w", err)
	}
	v4, v6 := families(own)
	if v6 {
		p.Device.Addresses = append(p.Device.Addresses, tun.Address6)
		p.Device.Routes = append(p.Device.Routes, netip.MustParsePrefix("::/0"))
	}
	if v4 || len(p.Resolvers) > 0 {
		p.Device.Addresses = append(p.Device.Addresses, tun.Address4)
		p.Device.Routes = append(p.Device.Routes, standInPrefix)
	}
	if v4 {
		p.Device.Routes = append(p.Device.Routes, netip.MustParsePrefix("0.0.0.0/0"))
	}
	return p, nil
}

// families says of which a host with these addresses can send.
func families(own []net.Addr) (v4, v6 bool) {
	for _, a := range own {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			v4, v6 = v4 || p.Addr().Is4(), v6 || p.Addr().Is6()
		}
	}
	return v4, v6
}

// environment returns env with the plan in it, for a role.
func (p Plan) environment(env []string, variable string) ([]string, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("netns: %w", err)
	}
	return append(env, variable+"="+string(text)), nil
}

// planFor reads the plan of this process, if it was started in a role, and takes
// it out of the environment.
func planFor(variable string) (p Plan, ok bool, err error) {
	text, ok := os.LookupEnv(variable)
	if !ok {
		return Plan{}, false, nil
	}
	if err := errors.Join(json.Unmarshal([]byte(text), &p), os.Unsetenv(variable)); err != nil {
		return Plan{}, true, fmt.Errorf("netns: the variable %s is for aarptun itself: unset it: %w", variable, err)
	}
	return p, true, nil
}

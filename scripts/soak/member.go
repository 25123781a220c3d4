package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// member is a host that serves, and its processes while they live.
type member struct {
	name   string // of the network namespace
	ua     string
	device string // of the router, to it
	joins  string // the anycast address that its kernel is to answer for, or ""
	procs  []*exec.Cmd
}

// start runs the member's programs and returns when all of them serve.
func (m *member) start(aarptun, lab, aa string) error {
	for _, addr := range []string{fmt.Sprintf(":%d", portTCP), fmt.Sprintf(":%d", portDNS)} {
		if err := m.spawn("serving", lab, "serve", "--name", m.name, "--addr", addr); err != nil {
			return err
		}
	}
	if m.joins == "" {
		return nil
	}
	return m.spawn("joined", aarptun, "member", "--join", aa+"%eth0")
}

// spawn runs a program in the member's namespace and waits for its first line.
func (m *member) spawn(want string, args ...string) error {
	c := exec.Command("ip", append([]string{"netns", "exec", m.name}, args...)...)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	m.procs = append(m.procs, c)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, want) {
		return fmt.Errorf("%s: %v said %q: %w", m.name, args, line, err)
	}
	return nil
}

// kill ends the member's programs at once. It returns when they are dead.
func (m *member) kill() error {
	for _, c := range m.procs {
		if err := c.Process.Signal(syscall.SIGKILL); err != nil {
			return fmt.Errorf("%s: %v has ended by itself: %w", m.name, c.Args, err)
		}
	}
	for _, c := range m.procs {
		_ = c.Wait() // that it was killed is what was wanted
	}
	m.procs = nil
	return nil
}

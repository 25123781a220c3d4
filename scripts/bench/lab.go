package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// lab is the network that bench.sh has built, and what runs in it: the
// namespaces client, router, m1 (the member) and lan, which is behind the
// client.
type lab struct {
	dir                string // for logs
	aarptun, tun2socks string // programs
	aa, ua, aa4, ua4   netip.Addr
	own                netip.Addr // the client's other addresses begin so
	prefix, prefix4    string
	self               string // this program
}

// The addresses that a run needs beside the lab's own.
const (
	freshMost   = 64 // anycast addresses for the first connect
	severalMost = 4  // anycast addresses of many flows
	sourcesMost = 8  // addresses of the client for them
)

func (l *lab) fresh() []netip.Addr { return counted(l.aa, 0xf, freshMost) }

func (l *lab) several() []netip.Addr { return counted(l.aa, 0xa, severalMost) }

func (l *lab) sources() []netip.Addr { return counted(l.own, 0xc, sourcesMost) }

// counted returns addresses that are like the one but for their ends.
func counted(like netip.Addr, mark byte, n int) []netip.Addr {
	var addrs []netip.Addr
	for i := range n {
		b := like.As16()
		b[13], b[14], b[15] = mark, 0, byte(i+1)
		addrs = append(addrs, netip.AddrFrom16(b))
	}
	return addrs
}

// process is a program of ours that runs in a namespace.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan error
}

// spawn starts a program in a namespace; its output goes to a log of that name.
func (l *lab) spawn(netns, name string, args ...string) (*process, error) {
	p := &process{log: filepath.Join(l.dir, name+".log"), done: make(chan error, 1)}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the program has its own
	// ip becomes the program: its PID is the program's.
	p.cmd = exec.Command("ip", append([]string{"netns", "exec", netns}, args...)...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.done <- p.cmd.Wait() }()
	return p, nil
}

// says waits for a line in the log that begins so.
func (p *process) says(line string) error {
	return p.eventually(func() bool {
		text, _ := os.ReadFile(p.log)
		return strings.Contains("\n"+string(text), "\n"+line)
	}, fmt.Sprintf("say %q", line))
}

// eventually polls until it is so, the program has ended, or ten seconds are
// over.
func (p *process) eventually(so func() bool, what string) error {
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		if so() {
			return nil
		}
		select {
		case err := <-p.done:
			p.done <- err
			return fmt.Errorf("%s ended (%v) before it would %s: %s", filepath.Base(p.cmd.Args[4]), err, what, p.tail())
		default:
		}
	}
	return fmt.Errorf("%s did not %s: %s", p.cmd.Args[4], what, p.tail())
}

// tail returns the end of the log.
func (p *process) tail() string {
	text, _ := os.ReadFile(p.log)
	return strings.TrimSpace(string(text[max(0, len(text)-500):]))
}

// stop ends the program, by force if it takes long.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done: // how it ended is not measured here
		return nil
	case <-time.After(10 * time.Second):
	}
	_ = p.cmd.Process.Kill()
	<-p.done
	return fmt.Errorf("%s did not end when it was told to", p.cmd.Args[4])
}

// do runs a command that changes the lab, given as one line.
func (l *lab) do(line string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	args := strings.Fields(line)
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// all runs commands as do does, until one fails.
func (l *lab) all(lines ...string) error {
	for _, line := range lines {
		if err := l.do(line); err != nil {
			return err
		}
	}
	return nil
}

// has reports whether a namespace has a line of ip's output.
func (l *lab) has(netns, what, want string) bool {
	out, err := exec.Command("ip", append([]string{"-n", netns}, strings.Fields(what)...)...).Output()
	return err == nil && strings.Contains(string(out), want)
}

// startMember runs what the member has: the servers, and the kernel's answers
// for the anycast addresses.
func (l *lab) startMember() (stop func() error, err error) {
	serve, err := l.spawn("m1", "member", l.self, "member")
	if err != nil {
		return nil, err
	}
	args := []string{l.aarptun, "member", "--join", l.aa.String() + "%eth0"}
	for _, a := range l.fresh() {
		args = append(args, "--join", a.String()+"%eth0")
	}
	join, err := l.spawn("m1", "join", args...)
	if err != nil {
		return nil, errors.Join(err, serve.stop())
	}
	stop = func() error { return errors.Join(join.stop(), serve.stop()) }
	last := l.fresh()[freshMost-1]
	if err := errors.Join(serve.says("serving"), join.says("joined "+last.String())); err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

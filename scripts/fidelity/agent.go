package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Agent is the member's half of situations, as net/rpc calls it: one for each
// connection, with sockets of its own.
type Agent struct{ table *table }

// Do carries out one call.
func (a *Agent) Do(c Call, r *Result) error {
	*r = a.table.do(c)
	return nil
}

// serveAgent listens on a unix socket, which reaches across network namespaces
// and disturbs none of them. It ends with its parent.
func serveAgent(args []string) (int, error) {
	if len(args) != 1 {
		return 64, errors.New("usage: fidelity agent SOCKET")
	}
	listener, err := net.Listen("unix", args[0])
	if err != nil {
		return 1, err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends when the parent does
		os.Exit(0)
	}()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return 1, err
		}
		go func() { // ends with its connection
			agent := &Agent{newTable()}
			defer agent.table.closeAll()
			server := rpc.NewServer()
			if err := server.Register(agent); err != nil {
				fmt.Fprintln(os.Stderr, "fidelity agent:", err)
				os.Exit(1)
			}
			server.ServeConn(conn)
		}()
	}
}

// remote is the host behind an agent's socket.
type remote struct{ client *rpc.Client }

// do implements [host].
func (r remote) do(c Call) Result {
	var result Result
	if err := r.client.Call("Agent.Do", c, &result); err != nil {
		return Result{Errno: syscall.ENOTCONN} // the agent is gone
	}
	return result
}

// agentProcess is an agent that was started in a namespace.
type agentProcess struct {
	command *exec.Cmd
	stdin   io.Closer
	socket  string
}

func startAgent(netns, socket string) (*agentProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := exec.Command("ip", "netns", "exec", netns, self, "agent", socket)
	command.Stderr = os.Stderr
	stdin, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	p := &agentProcess{command, stdin, socket}
	for until := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil {
			return p, conn.Close()
		}
		if time.Now().After(until) {
			p.stop()
			return nil, fmt.Errorf("the agent in %s does not start", netns)
		}
	}
}

func (p *agentProcess) connect() (remote, error) {
	conn, err := net.Dial("unix", p.socket)
	if err != nil {
		return remote{}, err
	}
	return remote{rpc.NewClient(conn)}, nil
}

// stop ends the agent and waits for it.
func (p *agentProcess) stop() {
	_ = p.stdin.Close()     // the agent ends at the end of its input,
	_ = p.command.Wait()    // with whatever status
	_ = os.Remove(p.socket) // may be gone already
}

// kill ends it the hard way: its kernel closes what it had open.
func (p *agentProcess) kill() {
	_ = p.command.Process.Kill() // it has not been waited for, so it is there
	_ = p.command.Wait()         // says that it was killed
}

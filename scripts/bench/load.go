package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"
)

// grace is what a load may take beyond the time that it was asked for, before
// its sockets time out.
const grace = 10 * time.Second

// request is a load as its child is asked for it.
type request struct {
	Kind    string       `json:"kind"`
	To      []netip.Addr `json:"to"`                // most loads want one
	Sources []netip.Addr `json:"sources,omitempty"` // of the client's, if it is not to be the kernel's choice
	Seconds float64      `json:"seconds"`
	Up      bool         `json:"up,omitempty"`
	Streams int          `json:"streams,omitempty"`
	Size    int          `json:"size,omitempty"`   // of a datagram
	Mbit    float64      `json:"mbit,omitempty"`   // a second; 0: as many as go
	Flows   int          `json:"flows,omitempty"`  // that are opened and stay
	Few     int          `json:"few,omitempty"`    // flows to compare that with
	Settle  float64      `json:"settle,omitempty"` // seconds for memory to be given back
	PID     int          `json:"pid,omitempty"`    // of the translator
}

func (r request) duration() time.Duration { return time.Duration(r.Seconds * float64(time.Second)) }

func (r request) settle() time.Duration { return time.Duration(r.Settle * float64(time.Second)) }

func (r request) addr(port uint16) string { return netip.AddrPortFrom(r.To[0], port).String() }

// values are the figures of a sample by the names that the rows have for them.
type values map[string]float64

// answer is what the child prints.
type answer struct {
	Values values `json:"values,omitempty"`
	Usage  usage  `json:"usage"`
	Error  string `json:"error,omitempty"`
	Remark string `json:"remark,omitempty"`
}

// remark is what is to be said beside the figures, which stand all the same.
type remark string

// Error implements error.
func (r remark) Error() string { return string(r) }

// loads by kind. Each bounds itself, and is ended from outside if it does not.
var loads = map[string]func(request) (values, usage, error){
	"tcp":     loadTCP,
	"udp":     loadUDP,
	"rr":      loadPingPong,
	"connect": loadConnect,
	"first":   loadFirst,
	"idle":    loadIdle,
	"growth":  loadGrowth,
	"many":    loadMany,
}

func loadCommand(args []string) (int, error) {
	if len(args) != 1 {
		return 64, errors.New("wants one request in JSON")
	}
	var r request
	if err := json.Unmarshal([]byte(args[0]), &r); err != nil {
		return 64, err
	}
	load := loads[r.Kind]
	if load == nil || len(r.To) == 0 {
		return 64, fmt.Errorf("there is no load %q to %v", r.Kind, r.To)
	}
	v, u, err := load(r)
	a := answer{Values: v, Usage: u}
	var beside remark
	if errors.As(err, &beside) {
		a.Remark = string(beside)
	} else if err != nil {
		a.Error = err.Error()
	}
	return 0, json.NewEncoder(os.Stdout).Encode(a)
}

// dial opens a connection that ends with the load.
func dial(address string, source netip.Addr, until time.Time) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: 5 * time.Second, KeepAlive: -1}
	if source.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
	}
	c, err := d.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), c.SetDeadline(until)
}

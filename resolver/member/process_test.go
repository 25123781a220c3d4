package member

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A Responder asks the kernel for routes in the namespace of its process. So a
// member of a test is a process of its own: this test binary, with the
// environment variable that TestMain looks at.
const processEnv = "AARPTUN_TEST_MEMBER"

// setup is a ResponderConfig as it goes through the environment.
type setup struct {
	Anycast, Unicast []netip.Addr
	PSKs             []PSK
	Signed           bool // with goldenKey
	Keyless          bool
	Rate             int
	Lifetime         time.Duration
	Check            string
	CheckPort        uint16
	Interval         time.Duration
	DrainFile        string
}

// memberProcess serves until its standard input ends. Each line of the input
// is a command, answered with a line.
func memberProcess() int {
	var s setup
	if err := json.Unmarshal([]byte(os.Getenv(processEnv)), &s); err != nil {
		fmt.Println(err)
		return 1
	}
	c := ResponderConfig{
		Anycast: s.Anycast, Unicast: s.Unicast, PSKs: s.PSKs, Keyless: s.Keyless, Rate: s.Rate, Lifetime: s.Lifetime,
		Interval: s.Interval, DrainFile: s.DrainFile, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	if s.Signed {
		c.Signer = goldenKey
	}
	if s.Check != "" {
		c.Check = Command(s.Check)
	}
	if s.CheckPort != 0 {
		c.Check = Connect(s.CheckPort, s.Unicast...)
	}
	r, err := Listen(c)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		switch lines.Text() {
		case "drain", "resume":
			r.Drain(lines.Text() == "drain")
			fmt.Println(r.State())
		case "state":
			fmt.Println(r.State())
		case "stats":
			text, _ := json.Marshal(r.Stats()) // numbers can be marshalled
			fmt.Println(string(text))
		}
	}
	cancel()
	if err := <-done; err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// process is a member that runs.
type process struct {
	t     testing.TB
	pid   int
	stdin io.WriteCloser
	lines *bufio.Scanner
}

// serve starts a member on the host and ends it with the test.
func (h *host) serve(s setup) *process {
	h.t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), processEnv+"="+string(text))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	h.on(func() { err = cmd.Start() })
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			h.t.Errorf("the member ended with %v", err)
		}
		if h.t.Failed() {
			h.t.Log(stderr.String())
		}
	})
	p := &process{h.t, cmd.Process.Pid, stdin, bufio.NewScanner(stdout)}
	if said := p.read(); said != "ready" {
		h.t.Fatalf("the member said %q", said)
	}
	return p
}

func (p *process) read() string {
	p.t.Helper()
	if !p.lines.Scan() {
		p.t.Fatal("the member said nothing more")
	}
	return p.lines.Text()
}

func (p *process) tell(command string) string {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.stdin, command); err != nil {
		p.t.Fatal(err)
	}
	return p.read()
}

func (p *process) stats() (s ResponderStats) {
	p.t.Helper()
	if err := json.Unmarshal([]byte(p.tell("stats")), &s); err != nil {
		p.t.Fatal(err)
	}
	return s
}

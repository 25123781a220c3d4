package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire is a device that has what it is told to have.
type wire struct {
	has   chan []byte // without headers
	took  [][]byte    // with them
	mu    sync.Mutex
	fails error
	once  sync.Once
}

func newWire() *wire { return &wire{has: make(chan []byte, 64)} }

func (w *wire) Read(bufs [][]byte) (int, error) {
	p, ok := <-w.has
	if !ok {
		return 0, os.ErrClosed
	}
	clear(bufs[0])
	return len(bufs[0]) + copy(bufs[1], p), nil
}

func (w *wire) Write(bufs [][]byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fails == nil {
		w.took = append(w.took, bytes.Join(bufs, nil))
	}
	return w.fails
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.has) })
	return nil
}

// tapped returns a Tap that writes until stop.
func tapped(t *testing.T, w *wire, size int64) (tap *Tap, path string, log *bytes.Buffer, stop func()) {
	t.Helper()
	path, log = filepath.Join(t.TempDir(), "x.pcapng"), &bytes.Buffer{}
	tap, err := Open(w, Config{Path: path, Size: size, Device: "aarptun0", Version: "test", Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- tap.Run(context.Background()) }()
	stop = sync.OnceFunc(func() {
		if err := errors.Join(tap.Close(), <-ended); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return tap, path, log, stop
}

// seen is a packet that was read from a file.
type seen struct {
	in   bool
	data string
}

func readFile(t *testing.T, path string) (packets []seen, statistics pcapgo.NgInterfaceStatistics) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }() // only read from
	r, err := pcapgo.NewNgReader(file, pcapgo.NgReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r.LinkType() != layers.LinkTypeRaw {
		t.Errorf("link type %v", r.LinkType())
	}
	for {
		data, _, options, err := r.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		packets = append(packets, seen{options.Flags.Direction == pcapgo.NgEpbFlagDirectionInbound, string(data)})
	}
	i, err := r.Interface(0)
	if err != nil || i.Name != "aarptun0" {
		t.Errorf("interface %+v, %v", i, err)
	}
	return packets, i.Statistics
}

// room is what the stack reads into.
func room() [][]byte { return [][]byte{make([]byte, vnetSize), make([]byte, maxPacket)} }

func send(tap *Tap, parts ...string) error {
	bufs := [][]byte{make([]byte, vnetSize)}
	for _, part := range parts {
		bufs = append(bufs, []byte(part))
	}
	return tap.Write(bufs)
}

func TestWhatCrossesIsWritten(t *testing.T) {
	w := newWire()
	tap, path, _, stop := tapped(t, w, 1<<20)
	large := strings.Repeat("x", maxPacket)
	w.has <- []byte("from a client")
	w.has <- []byte(large)
	bufs := room()
	for _, want := range []string{"from a client", large} {
		n, err := tap.Read(bufs)
		if err != nil || string(bufs[1][:n-vnetSize]) != want {
			t.Fatalf("read %d bytes, %v", n, err)
		}
	}
	if err := send(tap, "to", "", " a client"); err != nil {
		t.Fatal(err)
	}
	w.fails = syscall.EAGAIN
	if err := send(tap, "lost"); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("the device's error became %v", err)
	}
	stop()
	if got, want := string(w.took[0][vnetSize:]), "to a client"; got != want || len(w.took) != 1 {
		t.Errorf("the device took %q", w.took)
	}
	packets, statistics := readFile(t, path)
	if want := []seen{{false, "from a client"}, {false, large}, {true, "to a client"}}; fmt.Sprint(packets) != fmt.Sprint(want) {
		t.Errorf("%d packets are written", len(packets))
	}
	if statistics.PacketsReceived != 3 || statistics.PacketsDropped != 0 {
		t.Errorf("statistics: %+v", statistics)
	}
	if s := tap.Stats(); s != (Stats{Packets: 3, Bytes: uint64(len("from a client") + len("to a client") + maxPacket)}) {
		t.Errorf("stats: %+v", s)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestTheFileKeepsToItsSize(t *testing.T) {
	tap, path, log, stop := tapped(t, newWire(), MinSize)
	const sent = 100
	packet := strings.Repeat("y", 4001)
	for range sent {
		if err := send(tap, packet); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	s := tap.Stats()
	packets, statistics := readFile(t, path)
	info, err := os.Stat(path)
	if err != nil || info.Size() > MinSize || info.Size() < MinSize-2*int64(len(packet)) {
		t.Errorf("the file has %d bytes, %v", info.Size(), err)
	}
	if s.Full == 0 || s.Packets+s.Full != sent || s.Packets != uint64(len(packets)) || statistics.PacketsDropped != s.Full || statistics.PacketsReceived != sent {
		t.Errorf("stats: %+v, %d packets, %+v", s, len(packets), statistics)
	}
	if n := strings.Count(log.String(), "has reached its size"); n != 1 {
		t.Errorf("it said so %d times: %s", n, log)
	}
}

// A file that fails is logged once; its packets are counted, and pass.
func TestAFileThatFails(t *testing.T) {
	w := newWire()
	tap, path, log, stop := tapped(t, w, 64<<20)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := tap.file.Close(); err != nil { // a full disk is in scripts/watch-test.sh
		t.Fatal(err)
	}
	const sent = 1000
	packet := strings.Repeat("z", 4000)
	for range sent {
		if err := send(tap, packet); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if s := tap.Stats(); s != (Stats{Failed: sent}) || len(w.took) != sent {
		t.Errorf("stats: %+v, and %d have passed", s, len(w.took))
	}
	if n := strings.Count(log.String(), "traffic goes on"); n != 1 {
		t.Errorf("it said so %d times: %s", n, log)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, before) {
		t.Errorf("the file has %d bytes, before %d: %v", len(now), len(before), err)
	}
}

// A file that is too far behind stops nobody.
func TestAFileThatIsBehind(t *testing.T) {
	w := newWire()
	path := filepath.Join(t.TempDir(), "x")
	tap, err := Open(w, Config{Path: path, Size: 1 << 30, Device: "aarptun0"})
	if err != nil {
		t.Fatal(err)
	}
	const sent = queuePackets + 100
	for range sent {
		if err := send(tap, "small"); err != nil {
			t.Fatal(err)
		}
	}
	if s := tap.Stats(); s.Queue != 100 {
		t.Errorf("stats: %+v", s)
	}
	for len(tap.queue) > 0 {
		tap.write(<-tap.queue)
	}
	packet := strings.Repeat("l", 64_000)
	for range queueBytes/len(packet) + 10 {
		if err := send(tap, packet); err != nil {
			t.Fatal(err)
		}
	}
	if s := tap.Stats(); s.Queue != 110 {
		t.Errorf("stats: %+v", s)
	}
	if err := errors.Join(tap.Close(), tap.Run(t.Context())); err != nil {
		t.Fatal(err)
	}
	if packets, statistics := readFile(t, path); len(packets) != queuePackets+queueBytes/len(packet) || statistics.PacketsDropped != 110 {
		t.Errorf("%d packets, %+v", len(packets), statistics)
	}
}

func TestWhereNothingIsWritten(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(
		os.WriteFile(at("precious"), []byte("precious"), 0o644), os.Symlink("precious", at("link")), syscall.Mkfifo(at("fifo"), 0o600),
		os.WriteFile(at("two"), nil, 0o600), os.Link(at("two"), at("names")), os.Mkdir(at("dir"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	cases := map[string]string{
		"link": "is a symbolic link", "fifo": "is not a regular file", "names": "has other names", "dir": "is not a regular file",
		"no/file": "does its directory exist?", "../../../../../dev/null": "is not a regular file",
	}
	if os.Geteuid() == 0 {
		if err := errors.Join(os.WriteFile(at("theirs"), []byte("theirs"), 0o666), os.Chown(at("theirs"), 65534, 65534)); err != nil {
			t.Fatal(err)
		}
		cases["theirs"] = "belongs to another user"
	}
	for name, want := range cases {
		tap, err := Open(newWire(), Config{Path: at(name), Size: 1 << 20})
		if err == nil {
			_ = tap.Discard()
		}
		if !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if text, err := os.ReadFile(at("precious")); err != nil || string(text) != "precious" {
		t.Errorf("the file behind the link has %q, %v", text, err)
	}
	if _, err := Open(newWire(), Config{Path: at("small"), Size: MinSize - 1}); !errors.Is(err, ErrFile) {
		t.Errorf("a size that holds no packet: %v", err)
	}
	// A file of our own is replaced, and is nobody else's from then on.
	tap, err := Open(newWire(), Config{Path: at("precious"), Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := tap.Discard(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(at("precious")); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// BenchmarkTap is what a packet of 1,500 bytes costs its path.
func BenchmarkTap(b *testing.B) {
	tap, err := Open(nowhere{}, Config{Path: filepath.Join(b.TempDir(), "x"), Size: MinSize})
	if err != nil {
		b.Fatal(err)
	}
	bufs := [][]byte{make([]byte, vnetSize), make([]byte, 1500)}
	b.ReportAllocs()
	for b.Loop() {
		if err := tap.Write(bufs); err != nil {
			b.Fatal(err)
		}
		p := <-tap.queue // in place of the writer
		tap.waiting.Add(-int64(len(p.data)))
		tap.pool.Put(p)
	}
	if err := errors.Join(tap.Close(), tap.Run(context.Background())); err != nil {
		b.Fatal(err)
	}
}

// nowhere is a device that takes all.
type nowhere struct{}

func (nowhere) Read([][]byte) (int, error) { return 0, os.ErrClosed }
func (nowhere) Write([][]byte) error       { return nil }
func (nowhere) Close() error               { return nil }

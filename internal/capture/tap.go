package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// vnetSize is the virtio_net_hdr before each packet (VIRTIO 1.2 section 5.1.6).
	vnetSize = 10

	maxPacket = 65535

	// The queue: what the file may be behind by.
	queuePackets = 8192
	queueBytes   = 32 << 20

	// flushEvery is how much of the past a crash may lose.
	flushEvery = time.Second

	// MinSize is the smallest size a file may be limited to, in bytes: that of one
	// packet and what is around it.
	MinSize = 128 << 10
)

// Device is what is listened to: packets behind their virtio_net_hdr, in several
// pieces. It is the device of package stack.
type Device interface {
	Read(bufs [][]byte) (int, error)
	Write(bufs [][]byte) error
	Close() error
}

// Stats counts packets since the Tap was made; all of it only grows.
type Stats struct {
	Packets uint64 `json:"packets"`        // written
	Bytes   uint64 `json:"bytes"`          // of those, with IP headers
	Queue   uint64 `json:"dropped_queue"`  // not written: the file was too far behind
	Full    uint64 `json:"dropped_full"`   // not written: the file had reached its size
	Failed  uint64 `json:"dropped_failed"` // not written: the file could not be written
}

// packet is one that was seen. It is reused.
type packet struct {
	at   time.Time
	in   bool // to a client
	data []byte
}

// Tap is a [Device] that copies what crosses another. Read and Write may be
// called as that one allows.
type Tap struct {
	device Device
	file   *file
	log    *slog.Logger

	queue   chan *packet
	waiting atomic.Int64 // bytes in the queue
	pool    sync.Pool    // of *packet
	ended   chan struct{}
	once    sync.Once

	over                                 atomic.Bool // the file takes no more
	full                                 bool        // why
	gathered, gatheredBytes              uint64      // not in the file yet; of Run alone
	packets, bytes, queued, fulls, faild atomic.Uint64
}

// Config says what is written where.
type Config struct {
	Path    string // of the file; one of this user's own is replaced
	Size    int64  // bytes that the file may have, at least [MinSize]
	Device  string // its name, for the file
	Version string // of the program, for the file
	Log     *slog.Logger
}

// Open makes a Tap around d, and its file with mode 0600. If it cannot, the error
// is an [ErrFile].
func Open(d Device, c Config) (*Tap, error) {
	if c.Size < MinSize {
		return nil, fmt.Errorf("%w: a size of %d bytes: it must be at least %d", ErrFile, c.Size, MinSize)
	}
	opened, err := openFile(c.Path)
	if err != nil {
		return nil, err
	}
	w, err := newFile(opened, c.Device, c.Version, c.Size)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrFile, err), opened.Close())
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Tap{
		device: d, file: w, log: c.Log, queue: make(chan *packet, queuePackets), ended: make(chan struct{}),
		pool: sync.Pool{New: func() any { return new(packet) }},
	}, nil
}

// Read implements [Device].
func (t *Tap) Read(bufs [][]byte) (int, error) {
	n, err := t.device.Read(bufs)
	if err == nil && n > vnetSize {
		t.copy(bufs, n-vnetSize, false)
	}
	return n, err
}

// Write implements [Device]. A packet that the device has not taken was not sent.
func (t *Tap) Write(bufs [][]byte) error {
	err := t.device.Write(bufs)
	if err == nil {
		size := -vnetSize
		for _, b := range bufs {
			size += len(b)
		}
		t.copy(bufs, size, true)
	}
	return err
}

// Close implements [Device], and lets Run end.
func (t *Tap) Close() error {
	t.once.Do(func() { close(t.ended) })
	return t.device.Close()
}

// copy queues what lies behind the header in bufs, if there is room.
func (t *Tap) copy(bufs [][]byte, size int, in bool) {
	switch {
	case size <= 0:
		return
	case t.over.Load():
		t.drop()
		return
	case t.waiting.Add(int64(size)) > queueBytes:
		t.waiting.Add(-int64(size))
		t.queued.Add(1)
		return
	}
	p := t.pool.Get().(*packet)
	p.at, p.in, p.data = time.Now(), in, p.data[:0]
	skip := vnetSize
	for _, b := range bufs {
		head := min(skip, len(b))
		skip -= head
		b = b[head:]
		p.data = append(p.data, b[:min(len(b), size-len(p.data))]...)
	}
	select {
	case t.queue <- p:
	default:
		t.waiting.Add(-int64(size))
		t.queued.Add(1)
		t.pool.Put(p)
	}
}

// drop counts a packet that comes when the file takes no more.
func (t *Tap) drop() {
	if t.full {
		t.fulls.Add(1)
	} else {
		t.faild.Add(1)
	}
}

// Run writes until the device has been closed, then what is left, and closes the
// file. A file that cannot be written is logged, and is no error: traffic goes on.
// ctx is not looked at: its end is that of whoever closes the device.
func (t *Tap) Run(context.Context) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case p := <-t.queue:
			t.write(p)
		case <-tick.C:
			t.flush()
		case <-t.ended:
			t.finish()
			return nil
		}
	}
}

// write writes one packet, or notes that no more can be.
func (t *Tap) write(p *packet) {
	switch {
	case t.over.Load():
		t.drop()
	case !t.file.fits(p):
		t.flush()
		if !t.over.Load() {
			t.full = true
			t.over.Store(true)
		}
		t.drop()
		t.log.Warn("the capture has reached its size and ends; raise --pcap-size for more", "file", t.file.Name(), "packets", t.packets.Load())
	default:
		t.gathered++
		t.gatheredBytes += uint64(len(p.data))
		t.settle(t.file.write(p))
	}
	t.waiting.Add(-int64(len(p.data)))
	t.pool.Put(p)
}

func (t *Tap) flush() {
	if !t.over.Load() && len(t.file.chunk) > 0 {
		t.settle(t.file.flush())
	}
}

// settle counts the packets that have come to the file, or with an error those
// that have not, and then nothing more is written.
func (t *Tap) settle(err error) {
	switch {
	case err != nil:
		t.faild.Add(t.gathered)
		t.over.Store(true)
		t.log.Error("the capture cannot be written and ends; traffic goes on", "file", t.file.Name(), "err", err)
	case len(t.file.chunk) > 0:
		return
	default:
		t.packets.Add(t.gathered)
		t.bytes.Add(t.gatheredBytes)
	}
	t.gathered, t.gatheredBytes = 0, 0
}

// finish writes what is in the queue, and closes the file.
func (t *Tap) finish() {
	for len(t.queue) > 0 {
		t.write(<-t.queue)
	}
	t.flush()
	s := t.Stats()
	missing := s.Queue + s.Full + s.Failed
	if t.full || !t.over.Load() {
		t.settle(t.file.finish(s.Packets+missing, missing))
	}
	if err := t.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		t.log.Error("close the capture", "file", t.file.Name(), "err", err)
	}
	t.log.Info("capture ended", "file", t.file.Name(), "packets", s.Packets, "missing", missing)
}

// Discard frees the file of a Tap that never ran.
func (t *Tap) Discard() error { return t.file.Close() }

// Stats returns the counters as they stand now.
func (t *Tap) Stats() Stats {
	return Stats{Packets: t.packets.Load(), Bytes: t.bytes.Load(), Queue: t.queued.Load(), Full: t.fulls.Load(), Failed: t.faild.Load()}
}

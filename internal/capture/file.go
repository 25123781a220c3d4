package capture

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// ErrFile says that the file cannot be written to, or must not be.
var ErrFile = errors.New("capture: cannot write there")

const (
	// fileMode: the file has in it what was said, and by whom.
	fileMode = 0o600

	// chunkSize is how many bytes are gathered before they go to the file.
	chunkSize = 256 << 10

	// blockSize is what an Enhanced Packet Block has beside the packet and the
	// padding (draft-ietf-opsawg-pcapng section 4.3): its head and trailer, and
	// the options epb_flags and opt_endofopt.
	blockSize = 32 + 8 + 4

	// statisticsSize is more than the last block takes, which tells what is missing.
	statisticsSize = 128
)

// openFile opens the file that is written, a new one, or a regular one of this
// user's own that is then replaced: whoever could give us another might read it,
// or have us write over what is not ours.
func openFile(path string) (*os.File, error) {
	// O_NONBLOCK: a FIFO would wait for its reader.
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, fileMode)
	switch {
	case errors.Is(err, syscall.ELOOP):
		return nil, fmt.Errorf("%w: %s is a symbolic link: name a file", ErrFile, path)
	case errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.EISDIR):
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrFile, path)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w: does its directory exist?", ErrFile, err)
	}
	if err := prepare(file); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s %w", ErrFile, path, err), file.Close())
	}
	return file, nil
}

// prepare empties the file, if it is one that may be replaced.
func prepare(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return errors.New("is not a regular file")
	case ok && int(stat.Uid) != os.Geteuid():
		return errors.New("exists and belongs to another user: remove it, or name another file")
	case ok && stat.Nlink != 1:
		return errors.New("exists and has other names too (hard links): name another file")
	}
	return errors.Join(file.Chmod(fileMode), file.Truncate(0))
}

// file is a pcapng file. What is written comes in chunks of whole packets, so that
// a failure leaves none that is cut short.
type file struct {
	*os.File
	limit   int64 // bytes
	written int64 // bytes in the file, whole blocks
	chunk   chunk
	pcap    *pcapgo.NgWriter
	flags   [2]*pcapgo.NgEpbFlags // by whether the packet goes to a client
}

// chunk is an [io.Writer] to memory.
type chunk []byte

func (c *chunk) Write(p []byte) (int, error) {
	*c = append(*c, p...)
	return len(p), nil
}

func newFile(f *os.File, device, version string, limit int64) (*file, error) {
	w := &file{File: f, limit: limit, chunk: make(chunk, 0, chunkSize+maxPacket), flags: [2]*pcapgo.NgEpbFlags{
		{Direction: pcapgo.NgEpbFlagDirectionOutbound}, {Direction: pcapgo.NgEpbFlagDirectionInbound},
	}}
	options := pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{
		Hardware: pcapgo.DefaultNgWriterOptions.SectionInfo.Hardware, OS: pcapgo.DefaultNgWriterOptions.SectionInfo.OS,
		Application: "aarptun " + version,
	}}
	var err error
	w.pcap, err = pcapgo.NewNgWriterInterface(&w.chunk, pcapgo.NgInterface{
		Name: device, LinkType: layers.LinkTypeRaw, SnapLength: maxPacket, OS: pcapgo.DefaultNgInterface.OS,
	}, options)
	if err != nil {
		return nil, err
	}
	return w, w.flush()
}

// fits reports whether the file has room for the packet, and for its last block.
func (w *file) fits(p *packet) bool {
	return w.written+int64(len(w.chunk)+blockSize+len(p.data)+3+statisticsSize) <= w.limit
}

// write adds a packet.
func (w *file) write(p *packet) error {
	info := gopacket.CaptureInfo{Timestamp: p.at, CaptureLength: len(p.data), Length: len(p.data)}
	flags := w.flags[0]
	if p.in {
		flags = w.flags[1]
	}
	if err := w.pcap.WritePacketWithOptions(info, p.data, pcapgo.NgPacketOptions{Flags: flags}); err != nil {
		return err
	}
	if err := w.pcap.Flush(); err != nil {
		return err
	}
	if len(w.chunk) < chunkSize {
		return nil
	}
	return w.flush()
}

// flush writes what was gathered. If it cannot, the file is as it was before.
func (w *file) flush() error {
	if err := w.pcap.Flush(); err != nil {
		return err
	}
	n, err := w.File.Write(w.chunk)
	if err != nil {
		return errors.Join(err, w.Truncate(w.written))
	}
	w.written += int64(n)
	w.chunk = w.chunk[:0]
	return nil
}

// finish writes how many packets there were, and how many of them are missing.
func (w *file) finish(seen, missing uint64) error {
	statistics := pcapgo.NgInterfaceStatistics{LastUpdate: time.Now(), PacketsReceived: seen, PacketsDropped: missing}
	if err := w.pcap.WriteInterfaceStats(0, statistics); err != nil {
		return err
	}
	return w.flush()
}

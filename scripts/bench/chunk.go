package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// chunk is what is written at once, and read at most. A stream is of whole
// chunks: the first byte of the last is 1, and after it stands how much was sent
// with it. So the end does not hang on a half-closed connection, which not every
// translator carries.
const chunk = 256 << 10

// sendChunks sends for so long, and then the last one.
func sendChunks(w io.Writer, d time.Duration) (sent uint64, err error) {
	buf := make([]byte, chunk)
	for until := time.Now().Add(d); time.Now().Before(until); {
		n, err := w.Write(buf)
		sent += uint64(n)
		if err != nil {
			return sent, err
		}
	}
	buf[0] = 1
	binary.BigEndian.PutUint64(buf[1:], sent+chunk)
	n, err := w.Write(buf)
	return sent + uint64(n), err
}

// takeChunks reads up to the end of the last chunk and returns how much that was,
// which must be what was sent.
func takeChunks(r io.Reader) (got uint64, err error) {
	buf := make([]byte, chunk)
	var head [9]byte
	for {
		n, err := r.Read(buf)
		for i := 0; i < n; {
			at := int((got + uint64(i)) % chunk)
			if at < len(head) {
				head[at] = buf[i]
				i++
			} else {
				i += chunk - at // the rest of this chunk is of no interest
			}
		}
		got += uint64(n)
		if got%chunk == 0 && got > 0 && head[0] == 1 {
			if sent := binary.BigEndian.Uint64(head[1:]); sent != got {
				return got, fmt.Errorf("%d bytes arrived of %d", got, sent)
			}
			return got, nil
		}
		if err != nil {
			return got, fmt.Errorf("after %d bytes: %w", got, err)
		}
	}
}

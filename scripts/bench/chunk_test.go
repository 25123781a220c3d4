package main

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"
	"time"
)

func TestChunksArriveAsTheyWereSent(t *testing.T) {
	var wire bytes.Buffer
	sent, err := sendChunks(&wire, 0)
	if err != nil || sent != chunk {
		t.Fatalf("%d, %v, want the last chunk alone", sent, err)
	}
	wire.Reset()
	if sent, err = sendChunks(&wire, time.Millisecond); err != nil || sent < 2*chunk || sent != uint64(wire.Len()) {
		t.Fatalf("%d, %v, with %d on the wire", sent, err, wire.Len())
	}
	all := wire.Bytes()
	for name, r := range map[string]io.Reader{
		"whole": bytes.NewReader(all), "halves": iotest.HalfReader(bytes.NewReader(all)),
		"bytes": iotest.OneByteReader(bytes.NewReader(all)), "with EOF": iotest.DataErrReader(bytes.NewReader(all)),
	} {
		if got, err := takeChunks(r); err != nil || got != sent {
			t.Errorf("%s: %d, %v, want %d", name, got, err, sent)
		}
	}
}

func TestChunksThatAreLostAreMissed(t *testing.T) {
	var wire bytes.Buffer
	if _, err := sendChunks(&wire, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	all := wire.Bytes()
	if got, err := takeChunks(bytes.NewReader(all[chunk:])); err == nil {
		t.Errorf("%d bytes, of which a chunk was lost", got)
	}
	if got, err := takeChunks(bytes.NewReader(all[:len(all)-1])); err == nil {
		t.Errorf("%d bytes without the last one", got)
	}
}

package nft

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// aMessage is what Linux 6.18 says of a TCP flow from [2001:db8:1::2]:3333 to
// [2001:db8:aa::1]:443, which it sends to 2001:db8:11::2.
const aMessage = "" +
	"0a0000004c0001802c0001801400030020010db80001000000000000000000021400040020010db800aa000000000000000000011c0002800500010006000000" +
	"060002000d0500000600030001bb00004c0002802c0001801400030020010db80011000000000000000000021400040020010db8000100000000000000000002" +
	"1c00028005000100060000000600020001bb0000060003000d05000008000300000001a8080008000000000008000c006906d05208000b000000000108000700" +
	"00000077300004802c000180050001000100000005000200000000000500030000000000060004000000000006000500000000001c0009800c00010000000000" +
	"000000010c000200000000000000003c1c000a800c00010000000000000000000c0002000000000000000000100014800c00010018ebc7ed76b60555"

func TestEntryOfAMessage(t *testing.T) {
	message, err := hex.DecodeString(aMessage)
	must(t, err)
	var e entry
	must(t, e.decode(message))
	if e.proto != TCP || e.from.String() != "[2001:db8:1::2]:3333" || e.to.String() != "[2001:db8:aa::1]:443" || e.member != ua6 || e.state() != Opening || e.sent != 60 || e.got != 0 || e.started.IsZero() || e.status&statusDNAT == 0 {
		t.Errorf("read as %+v", e)
	}
	for n := range message {
		var part entry
		if err := part.decode(message[:n]); err == nil && part.started == e.started {
			t.Errorf("%d of %d bytes are taken for the whole", n, len(message))
		}
	}
}

func FuzzEntry(f *testing.F) {
	message, err := hex.DecodeString(aMessage)
	must(f, err)
	f.Add(message)
	for n := range message {
		f.Add(message[:n])
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		before := bytes.Clone(message)
		var e entry
		if err := e.decode(message); err != nil {
			return
		}
		e.state()
		if _, err := e.key(); err != nil {
			t.Errorf("what could be read has no key: %v", err)
		}
		if !bytes.Equal(message, before) {
			t.Error("the message was changed")
		}
	})
}

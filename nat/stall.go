package nat

import (
	"syscall"
	"time"
)

// stallAfter is how long a write may block before the other leg is watched for
// RST. It is long beside a healthy write, and short beside a person.
const stallAfter = 100 * time.Millisecond

// stallWatch notices that the sender has reset its connection while what it
// sent before is still blocked by a receiver that takes nothing. Nobody reads
// from the sender then, so nobody else would notice, and the receiver would
// wait for a peer that is gone. Without us the RST would have reached it.
//
// A write that does not block costs one timer that is set and stopped.
type stallWatch struct {
	src    TCPConn
	broken func(error)
	timer  *time.Timer
	stop   chan struct{}
	ended  chan struct{}
}

func newStallWatch(src TCPConn, broken func(error)) *stallWatch {
	return &stallWatch{src: src, broken: broken, stop: make(chan struct{}), ended: make(chan struct{})}
}

// begin is called before a write.
func (w *stallWatch) begin() {
	if w.timer == nil {
		w.timer = time.AfterFunc(stallAfter, w.watch)
		return
	}
	w.timer.Reset(stallAfter)
}

func (w *stallWatch) watch() {
	if w.src.AwaitReset(w.stop) {
		w.broken(syscall.ECONNRESET)
	}
	close(w.ended)
}

// end is called after a write; when it returns nobody watches.
func (w *stallWatch) end() {
	if w.timer.Stop() {
		return
	}
	close(w.stop)
	<-w.ended
	w.stop, w.ended = make(chan struct{}), make(chan struct{})
}

package nat

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"syscall"
	"time"
)

// How a flow ended, as it stands in its last log line.
const (
	endClosed        = "closed"         // TCP: FIN both ways; UDP: the client has closed its port
	endIdle          = "idle"           // UDP, Echo: nothing has moved for the flow's time-out
	endCut           = "cut"            // we were told to, or the client began anew with the same port
	endClientReset   = "client-reset"   // TCP: RST
	endClientTimeout = "client-timeout" // TCP: it answers no keepalive
	endMemberReset   = "member-reset"
	endMemberTimeout = "member-timeout"
	endMemberFailed  = "member-failed" // its socket has failed in another way
)

// methodTeller is a [Resolver] that can say how it has found a member. It is only
// asked for the log.
type methodTeller interface {
	// MethodOf returns how ua was found for aa, "" if that is not known any more.
	MethodOf(aa, ua netip.Addr) string
}

// logs reports whether flows are to be logged. Where they are not, nothing is
// made for it.
func (t *Translator) logs() bool { return t.log.Enabled(context.Background(), slog.LevelDebug) }

// logBegin logs that a flow has its member.
func (t *Translator) logBegin(f *flow) {
	if !t.logs() {
		return
	}
	if teller, ok := t.resolver.(methodTeller); ok {
		method := teller.MethodOf(f.tuple.Anycast.Addr(), f.memberOrZero())
		f.method.Store(&method)
	}
	t.log.LogAttrs(context.Background(), slog.LevelDebug, "flow begins", f.attrs()...)
}

// logEnd logs the end of a flow whose begin was logged. err may be nil.
func (t *Translator) logEnd(f *flow, how string, err error) {
	if !t.logs() {
		return
	}
	attrs := append(f.attrs(), slog.Duration("duration", time.Since(f.started).Round(time.Microsecond)),
		slog.Uint64("bytes_out", f.sent.Load()), slog.Uint64("bytes_in", f.got.Load()), slog.String("end", how))
	if err != nil {
		attrs = append(attrs, slog.Any("err", err))
	}
	t.log.LogAttrs(context.Background(), slog.LevelDebug, "flow ends", attrs...)
}

// attrs are what a flow's lines have in common.
func (f *flow) attrs() []slog.Attr {
	attrs := make([]slog.Attr, 0, 12)
	attrs = append(attrs, slog.Uint64("id", f.id))
	attrs = append(attrs, f.tuple.attrs()...)
	attrs = append(attrs, slog.Any("member", f.memberOrZero()))
	if method := f.method.Load(); method != nil {
		attrs = append(attrs, slog.String("method", *method))
	}
	return attrs
}

func (t Tuple) attrs() []slog.Attr {
	return []slog.Attr{slog.String("proto", t.Proto.String()), slog.Any("client", t.Client), slog.Any("anycast", t.Anycast)}
}

// logFlow logs what has happened to a flow that is not established.
func (t *Translator) logFlow(what string, tuple Tuple, ua netip.Addr, err error, more ...slog.Attr) {
	if !t.logs() {
		return
	}
	attrs := append(tuple.attrs(), slog.Any("member", ua))
	attrs = append(attrs, more...)
	attrs = append(attrs, slog.Any("err", err))
	t.log.LogAttrs(context.Background(), slog.LevelDebug, what, attrs...)
}

// tcpEnd names the end of a TCP flow; err is nil if it ended with FIN both ways.
func tcpEnd(err error) string {
	var outside *outsideError
	switch member := errors.As(err, &outside); {
	case err == nil:
		return endClosed
	case errors.Is(err, errCut):
		return endCut
	case member && errors.Is(err, syscall.ECONNRESET):
		return endMemberReset
	case member && errors.Is(err, syscall.ETIMEDOUT):
		return endMemberTimeout
	case member:
		return endMemberFailed
	case errors.Is(err, syscall.ETIMEDOUT):
		return endClientTimeout
	}
	return endClientReset
}

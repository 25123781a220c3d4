package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// The ways in which a connection ends. Who does it and who sees it are
// arguments, so that each is tried from both ends.

type ending func(s *scene, actor, observer *end)

func closeSituations() []*situation {
	var all []*situation
	for _, e := range []struct {
		name string
		run  ending
	}{
		{"half-close", halfClose},
		{"fin-stalled-reader", finStalled},
		{"close-no-data", closeNoData},
		{"data-after-close", dataAfterClose},
		{"rst-before-data", resetBefore},
		{"rst-during-data", resetDuring},
		{"rst-after-data", resetAfter},
		{"rst-with-unread-data", resetUnread},
		{"rst-with-unread-data-both", resetUnreadBoth},
		{"rst-after-own-fin", resetAfterOwnFIN},
		{"rst-after-other-fin", resetAfterOtherFIN},
		{"rst-disconnect", resetDisconnect},
		{"rst-stalled-reader", resetStalled},
	} {
		all = append(all,
			join(
				both("tcp-"+e.name+"-by-client", path{}, func(s *scene) { c, m := s.pair(); e.run(s, c, m) }),
				both("tcp-"+e.name+"-by-member", path{}, func(s *scene) { c, m := s.pair(); e.run(s, m, c) }),
			)...)
	}
	return append(all, join(
		both("tcp-simultaneous-close", path{}, simultaneousClose),
		both("tcp-rst-at-once", path{}, resetAtOnce),
		both("tcp-member-killed-idle", path{}, func(s *scene) { memberKilled(s, false) }),
		both("tcp-member-killed-unread", path{}, func(s *scene) { memberKilled(s, true) }),
	)...)
}

// aftermath notes what the end that did not act reads and then may write.
func (s *scene) aftermath(e *end) {
	s.note("%s reads %s", e.who, e.drain().bytes())
	s.note("again %s", e.drain().how())
	s.note("writes %s", e.send(10).how())
}

// halfClose sends and closes one direction; the other goes on as long as it
// likes.
func halfClose(s *scene, actor, observer *end) {
	s.exchangeBytes(actor, observer, 1000)
	s.demand(actor.fin(), "shutdown")
	s.note("%s reads %s", observer.who, observer.drain().bytes())
	s.note("%s polls %s", observer.who, observer.poll(unix.POLLIN|unix.POLLOUT|unix.POLLRDHUP, patience).events())
	s.note("%s waits %s", actor.who, actor.poll(unix.POLLIN, 700*time.Millisecond).events())
	s.exchangeBytes(observer, actor, megabytes)
	s.note("%s writes %s", actor.who, actor.send(1).how())
	s.demand(observer.fin(), "shutdown")
	s.note("%s reads %s", actor.who, actor.drain().bytes())
}

// finStalled sends until nothing more is taken, and FIN behind it.
func finStalled(s *scene, actor, observer *end) {
	sent := actor.fill()
	s.demand(actor.fin(), "shutdown")
	s.note("%s was stopped: %t", actor.who, sent.Late)
	s.note("%s waits %s", actor.who, actor.poll(unix.POLLIN, 700*time.Millisecond).events())
	got := observer.drain()
	s.note("%s gets all of it: %t, then %s", observer.who, got.N == sent.N && got.Sum == sent.Sum, got.how())
	s.exchangeBytes(observer, actor, 1000)
	s.demand(observer.fin(), "shutdown")
	s.note("%s reads %s", actor.who, actor.drain().bytes())
}

func closeNoData(s *scene, actor, observer *end) {
	s.demand(actor.close(), "close")
	s.note("%s reads %s", observer.who, observer.drain().bytes())
	s.demand(observer.close(), "close")
}

// dataAfterClose closes both directions of one end; what the other sends then
// is answered with RST.
func dataAfterClose(s *scene, actor, observer *end) {
	s.demand(actor.close(), "close")
	s.note("%s reads %s", observer.who, observer.drain().bytes())
	s.note("writes %s", observer.send(10).how())
	s.note("then polls %s", observer.poll(0, patience).events())
	s.note("writes %s", observer.send(10).how())
	s.note("reads %s", observer.drain().how())
}

func resetBefore(s *scene, actor, observer *end) {
	s.demand(actor.reset(), "reset")
	s.note("%s polls %s", observer.who, observer.poll(unix.POLLIN|unix.POLLRDHUP, patience).events())
	s.aftermath(observer)
}

// resetDuring resets when the other end has read some of what it was sent and
// has not read the rest.
func resetDuring(s *scene, actor, observer *end) {
	sent := actor.send(50_000)
	s.note("%s sends %s", actor.who, sent.how())
	s.note("%s reads %s", observer.who, observer.recv(1000).bytes())
	s.note("%s has %d more", observer.who, observer.queued(49_000).N)
	s.demand(actor.reset(), "reset")
	s.note("polls %s", observer.poll(0, patience).events())
	s.aftermath(observer)
}

func resetAfter(s *scene, actor, observer *end) {
	s.exchangeBytes(actor, observer, 1000)
	s.exchangeBytes(observer, actor, 1000)
	s.demand(actor.reset(), "reset")
	s.aftermath(observer)
}

// resetUnread closes with unread data, which sends RST in place of FIN (RFC
// 2525 section 2.17).
func resetUnread(s *scene, actor, observer *end) {
	s.note("%s sends %s", observer.who, observer.send(1000).how())
	s.note("%s has %d", actor.who, actor.queued(1000).N)
	s.demand(actor.close(), "close")
	s.note("%s polls %s", observer.who, observer.poll(0, patience).events())
	s.aftermath(observer)
}

// resetUnreadBoth does so when the other end has unread data too.
func resetUnreadBoth(s *scene, actor, observer *end) {
	s.note("%s sends %s", actor.who, actor.send(500).how())
	s.note("%s has %d", observer.who, observer.queued(500).N)
	resetUnread(s, actor, observer)
}

func resetAfterOwnFIN(s *scene, actor, observer *end) {
	s.demand(actor.fin(), "shutdown")
	s.note("%s reads %s", observer.who, observer.drain().bytes())
	s.demand(actor.reset(), "reset")
	s.note("polls %s", observer.poll(0, patience).events())
	s.note("writes %s", observer.send(10).how())
	s.note("reads %s", observer.drain().how())
}

func resetAfterOtherFIN(s *scene, actor, observer *end) {
	s.demand(observer.fin(), "shutdown")
	s.note("%s reads %s", actor.who, actor.drain().bytes())
	s.demand(actor.reset(), "reset")
	s.note("%s polls %s", observer.who, observer.poll(unix.POLLIN, patience).events())
	s.note("reads %s", observer.drain().how())
}

// resetDisconnect dissolves the connection and keeps the socket.
func resetDisconnect(s *scene, actor, observer *end) {
	s.exchangeBytes(actor, observer, 10)
	s.demand(actor.do(Call{Op: "disconnect"}), "disconnect")
	s.aftermath(observer)
}

// resetStalled resets while the other end's window is closed and it does not
// read. How much it then can read depends on buffers, so only the end counts.
func resetStalled(s *scene, actor, observer *end) {
	sent := actor.fill()
	s.note("%s was stopped: %t", actor.who, sent.Late)
	s.demand(actor.reset(), "reset")
	s.note("%s, not reading, polls %s", observer.who, observer.poll(0, 3*time.Second).events())
	s.note("reads some, then %s", observer.drain().how())
	s.note("writes %s", observer.send(10).how())
}

func simultaneousClose(s *scene) {
	c, m := s.pair()
	s.exchangeBytes(c, m, 100)
	var near, far Result
	together(func() { near = c.fin() }, func() { far = m.fin() })
	s.note("client FIN %s, member FIN %s", near.how(), far.how())
	s.note("client reads %s", c.drain().bytes())
	s.note("member reads %s", m.drain().bytes())
}

// resetAtOnce connects and resets before the member has accepted.
func resetAtOnce(s *scene) {
	listener, at := s.listen(0, 16)
	c := s.client("tcp")
	s.dial(c, at)
	s.demand(c.reset(), "reset")
	m := s.accept(listener)
	s.note("member reads %s", m.drain().bytes())
}

// memberKilled ends the member's process; its kernel closes the connection, by
// RST if something was not read.
func memberKilled(s *scene, unread bool) {
	own := s.ownAgent()
	s.remote = s.dialAgent(own)
	c, m := s.pair()
	s.exchangeBytes(c, m, 1000)
	s.exchangeBytes(m, c, 1000)
	if unread {
		s.note("client sends %s", c.send(1000).how())
		s.note("member has %d", m.queued(1000).N)
	}
	own.kill()
	s.note("client polls %s", c.poll(unix.POLLIN, patience).events())
	s.aftermath(c)
	s.note("then polls %s", c.poll(0, patience).events())
	s.note("writes %s", c.send(10).how())
}

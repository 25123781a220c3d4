// Package tun is what aarptun changes on the host, and how it is put back: the
// TUN device, the routes of the anycast prefixes, one rule per address family,
// the journal that remembers them, and the mark that keeps our own sockets out
// of our own way.
//
// # Theory of operation
//
// The anycast prefixes are routed into the device in a table of their own, and
// one rule per family leads there:
//
//	17000: not from all fwmark 0xaa lookup 170 proto 170
//	ip route show table 170: 2001:db8:aa::/64 dev aarptun0 proto 170
//
// Programs know nothing of the mark and go into the device; our sockets carry
// it, pass the rule by, and find the address where the network has it. That is
// what lets a probe reach the very address whose traffic we take. Everything
// else about the host's routing stays as it was.
//
// The device has no address, unless it is asked to make up for a namespace that
// has none: the kernel then picks the uplink's as a client's
// source, which stays right however a flow is carried. It is not persistent,
// so its routes go with the process whatever ends it. What can be left over is
// a rule, which then leads to an empty table and does nothing.
//
// The order is: journal, device, and when everything else runs, routes, rules.
// The rule is the last thing set and the first taken back. The journal is
// written and synced before the change it tells of. Its owner holds a lock on
// it for as long as it lives, and the lock, which the kernel gives back when a
// process dies, says whether the owner does: a process id could be another's by
// now. A start finds the journal of a dead owner and undoes it first; [Cleanup]
// does only that. One start or clean-up at a time holds the directory of the
// journals, so what it reads there of the living is all there is: their tables
// are taken, and their rules stay, also when a dead run's journal names them.
//
// The kernel cannot be asked for our rule exactly: when it adds or deletes one,
// it compares neither the inversion nor what the request leaves out. So the
// rules are listed, told apart here, and only deleted while ours is the one that
// the kernel would find.
//
// Sockets may bear the address of another host, a client on a LAN behind this
// one. Then packets to that address are led to them, and not on to the client, by
// a table of nftables, a rule and a route (returns.go), for which the same holds.
//
// What another program takes away meanwhile is put back ([Host.Watch]). The
// kernel tells of each change of links, routes and rules; whatever it tells is
// only a reason to look, and what is missing is found by listing what there is.
// So a notice that was lost, as happens on a busy router, costs one more look, and
// a look every half a minute stands for those that never come. A repair comes at
// once, since every packet of a flow that passes meanwhile goes to the network and
// to a member that has never heard of it; but whoever takes away again and again
// is put off, and named. A device that is deleted is the end: flows hang on it.
//
// All of it happens in the network namespace of the goroutine's thread that
// calls [Open].
package tun

// Package nft lets the kernel carry the flows of addresses that are pinned: one
// table of nftables that rewrites AA to UA, and what the kernel's connection
// tracking knows of the flows that went that way.
//
// # Theory of operation
//
// The TUN remains the truth. What the table does not know goes there as ever,
// is resolved there, and what comes of it is put into a map of the table for as
// long as the pin lives ([Table.Set]). The first packet of a later flow finds
// the map, and the kernel sends it and all that follow to the member:
//
//	chain output { type nat hook output priority -105
//	    meta mark 0xaa return
//	    ip6 daddr @aa6 jump flow6
//	}
//	chain pin6 {
//	    update @used6 { ip6 daddr } ct label set 127 dnat ip6 to ip6 daddr map @pins6
//	}
//
// A nat chain is asked for the first packet of a flow only. What it decides
// stays with the flow's entry in the connection tracking, so a flow keeps its
// member whatever becomes of the map, of the table's rules or of this process.
// It also keeps a flow that began in the TUN there, when its AA is pinned in the
// middle of it. That holds for as long as the entry does. So a TCP flow that the
// kernel meets in its middle is none that the table may have, and UDP and echo
// flows get time-outs of their own: that of the promise for those that the
// kernel carries, and a longer one than the TUN's for those that it does not.
//
// The route is looked up before and after. Before, the address leads into the
// TUN, which has none of its own, so that the uplink's is taken as the source;
// the output chain then has the kernel look the new destination up.
//
// A member that does not answer is noticed in the path of the packets: a SYN
// that is sent again, or an ICMP error that says that the member cannot be
// reached, puts AA into a set for ten seconds, in which the map's word
// does not count. The next flow goes to the TUN, which tries the member itself
// and says to the resolver what it finds.
//
// The resolver renews a pin ahead of its end if it is asked for it shortly before,
// and the kernel asks nobody. So that an AA was found in the map is noted in a set,
// once for each flow ([Table.Used]). The map is looked at before the set is written,
// whatever order nft(8) shows: a miss is no use. The set is bounded, and an element
// that finds no room would end the rule, so another follows that only looks.
//
// # Looking at the flows
//
// The connection tracking lists the flows whose destination was rewritten, others'
// too, and for 100,000 of them takes a fifth of a second. What it says is read one
// message at a time ([entry]), by a socket and under a lock of their own: a list
// makes no pin wait ([tracking]). Who wants a number counts ([Table.Count]), and who
// waits for an end looks at one flow as long as it is there ([Table.TCPOpen]).
//
// # Other hosts
//
// On a gateway the first packet of another host's flow passes prerouting instead,
// before it is known whether it is forwarded. Whether it is, the kernel decides as
// ever, for UA as for AA. Members answer to an address of the gateway, as they do
// for flows in the TUN; so these flows, known by their label and by a source that
// is not ours, are masqueraded ([Config]):
//
//	chain postrouting { type nat hook postrouting priority 105
//	    ct label 127 fib saddr type != local masquerade
//	}
//
// The kernel asks the nat chains of a hook in their order until one decides. This
// one is behind those of other programs (100): how the LAN leaves is theirs to say,
// and no flow is translated twice. The label is given where the member is, so what
// others translate to the same member is not met. Pins are found, and flows listed,
// by what the packet had before: the client's own address. Where bridges show what
// they only pass on, nothing that comes over one is carried.
//
// # What must last
//
// The kernel translates for as long as any nat chain exists in the network
// namespace. So a table whose owner is killed is adopted by the next, and never
// removed and made anew: chains and maps are replaced in one transaction. Nor
// are the objects with the time-outs touched, since the entries of living flows
// point to them.
//
// Nothing but this table is ever changed, and entries of the connection
// tracking only when flows are to be cut.
package nft

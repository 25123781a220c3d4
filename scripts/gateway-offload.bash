# shellcheck shell=bash
# run --offload nft on the gateway: the kernel carries the clients' flows. Sourced by
# gateway-test.bash, whose LAN it is.

GATEWAY4=203.0.113.2
OTHER4=203.0.113.3 # what somebody else's rules have client 3 come from
AA53=2001:db8:aa::53 # that somebody else's rules lead to m2, for DNS

# others_rules: rules of somebody else beside ours.
others_rules() {
	on client nft -f - <<-END
		table inet others {
			chain prerouting {
				type nat hook prerouting priority dstnat; policy accept;
				ip6 daddr $AA53 udp dport 53 dnat ip6 to [$UA2]:$PORT
			}
			chain postrouting {
				type nat hook postrouting priority srcnat; policy accept;
				ip saddr ${CLIENTS4[3]} oifname eth0 snat ip to $OTHER4
			}
		}
	END
}

# pinned N: the kernel has a member for both addresses, for client N by its own.
pinned() {
	from "$1" connect "[$AA]:$PORT" && from "$1" connect "$AA4:$PORT" &&
		on client nft get element inet aarptun pins6 "{ ${CLIENTS[$1]} . $AA }" && on client nft get element inet aarptun pins4 "{ ${CLIENTS4[$1]} . $AA4 }"
}

# on_path PATH CLIENT: how many flows of that client, or of all, go that way.
on_path() { aarptun flows --json ${2:+--client "$2"} | tr '{' '\n' | grep -c "\"path\":\"$1\"" || true; }
on_path_is() { [ "$(on_path "$1" "$2")" = "$3" ] || { aarptun flows && false; }; }

# come_from N ADDRESS ADDRESS4: so the members see client N, and by no other address.
come_from() {
	local n=$1
	: >"$TMP/m1.peers"
	: >"$TMP/m2.peers"
	from "$n" connect "[$AA]:$PORT" && from "$n" udp "[$AA]:$PORT" && from "$n" connect "$AA4:$PORT" && from "$n" udp "$AA4:$PORT" || return 1
	diff <(printf '%s\n' "tcp $2" "tcp $3" "udp $2" "udp $3" | sort) <(members_log | sort -u)
}

# by_the_kernel N: flows of client N, whose address is listed, and none in the TUN.
by_the_kernel() {
	local n=$1
	check "client $n is pinned by its own address" eventually 10 pinned "$n"
	check "client $n: TCP, from its own address, to AA" says "^peer=\[$AA\]:$PORT local=${CLIENTS[n]} member=m1\$" from "$n" connect "[$AA]:$PORT"
	check "client $n: UDP is answered from AA" says "^from=\[$AA\]:$PORT member=m1\$" from "$n" udp "[$AA]:$PORT"
	check "client $n: ping is answered from AA" says "^from=$AA bytes=56\$" from "$n" ping $AA
	check "client $n: IPv4: so it is" says "^from=$AA4 bytes=56\$" from "$n" ping $AA4
	check "client $n: flows names it by its own address, and the path" says "udp +\[${CLIENTS[n]}\]:[0-9]+ +\[$AA\]:$PORT +$UA1 .* nft\$" aarptun flows
	check "client $n: nothing went through the TUN but TCP, which is over" on_path_is tun "${CLIENTS[n]}" 0
}

# errors_reach: what the network says of a translated flow, to the client it is of.
errors_reach() {
	check "a closed port is refused" fails_with ECONNREFUSED from 1 connect "[$AA]:7999"
	check "for UDP too" fails_with ECONNREFUSED from 1 udp "[$AA]:7999"
	hops
	ip -n router -6 route add $UA1/128 dev m1 mtu 1280
	check "a narrow way to the member is told to the client: TCP" says "halfclose ok" from 1 halfclose "[$AA]:$PORT"
	check "and UDP" from 1 flows --to "[$AA]:$PORT" --udp 1 --datagram 1300 --for 0s --tag narrowed
	check "behind a link of 1,280 bytes of the LAN: TCP" says "halfclose ok" from 3 halfclose "[$AA]:$PORT"
	check "and UDP and echo" from 3 flows --to "[$AA]:$PORT" --udp 1 --echo 1 --datagram 8000 --for 0s --tag narrowed3
	ip -n router -6 route del $UA1/128 dev m1
	for n in 1 3; do ip -n "lan$n" -6 route flush cache; done
	check "no flow of theirs went through the TUN" on_path_is tun "${CLIENTS[3]}" 0
}

# tracked: what the gateway's connection tracking knows of flows to anycast addresses.
tracked() { on client cat /proc/net/nf_conntrack | grep -E '^[^=]*src=[^ ]* dst=(2001:0db8:00aa|198\.51\.100\.)'; }

# silent SECONDS COMMAND...: the command fails, and the kernel leaves AA to the TUN.
silent() {
	fails_with "$@" && on client nft get element inet aarptun silent6 "{ $AA }"
}

watched() {
	ip -n router -6 route add unreachable $UA1/128
	check "a router that knows no way to the member: the client is told, and it is noticed" silent ENETUNREACH from 1 connect --timeout 5s "[$AA]:$PORT"
	ip -n router -6 route replace blackhole $UA1/128
	on client nft flush set inet aarptun silent6
	check "so is a SYN that is sent again" silent 'timeout' from 1 connect --timeout 1500ms "[$AA]:$PORT"
	ip -n router -6 route del blackhole $UA1/128
	on client nft flush set inet aarptun silent6
}

# nobody_else: only flows that were given a member are translated, and once.
nobody_else() {
	: >"$TMP/m2.peers"
	on lan2 bash -c "echo ask >/dev/udp/$AA53/53"
	check "what others translate to a member is theirs: it sees the client" eventually 5 grep -qx "udp ${CLIENTS[2]}" "$TMP/m2.peers"
	check "where others say how a client leaves, they do" come_from 3 $CLIENT $OTHER4
	check "the gateway's own flows come from it" says "^peer=\\[$AA\\]:$PORT local=$CLIENT member=m1\$" on client "$LAB" connect "[$AA]:$PORT"
	set_sysctl client ipv4.ip_forward 0
	check "what the gateway does not forward is not carried" fails_with timeout from 2 connect --timeout 300ms "$AA4:$PORT"
	set_sysctl client ipv4.ip_forward 1
}

# start_offload FLAGS...: with AA pinned by each client for longer than this lasts.
start_offload() { start_aarptun --offload nft --sticky source --cache-ttl 5m --drain-timeout 0s "$@" || { tail -3 "$TMP/aarptun.log"; return 1; }; }

# outlive: flows of all clients, through route flips and kill -9.
outlive() {
	flows_of kernel "[$AA]:$PORT" --tcp 10 --udp 5 --echo 2
	flows_of kernel4 "$AA4:$PORT" --tcp 5 --udp 3 --echo 1
	check "flows of all clients start" all_started
	check "none of them in the TUN" on_path_is tun "" 0
	flips 11
	stop "$DAEMON" KILL || true
	# As a run before this one has left it: it knew of this host's own flows only.
	on client nft 'delete chain inet aarptun prerouting; delete chain inet aarptun syn-prerouting; delete chain inet aarptun lost-postrouting; delete chain inet aarptun postrouting'
	flips 6
	start_offload --keep-flows "$@" || return 1
	check "the next run knows them" eventually 5 says "tcp +\[${CLIENTS[1]}\]:[0-9]+ +\[$AA\]:$PORT +$UA1 .* nft\$" aarptun flows
	flips 6
	check "through 23 route flips and kill -9, flows of three clients go on, 0 broken" none_of_them_broke
	route_to 1
}

offloaded() {
	local n
	# What a bridge passes on must not look as if it were forwarded.
	set_sysctl client bridge.bridge-nf-call-iptables 0 2>/dev/null || true
	ip -n client addr add $OTHER4/25 dev eth0
	others_rules
	host_state >"$TMP/state.before"
	nft_rules >"$TMP/nft.before"
	start_offload || return 1
	for n in 1 2 3; do by_the_kernel $n; done
	for n in 1 2; do check "client $n: the member logs the gateway's address, TCP and UDP, IPv6 and IPv4" come_from $n $CLIENT $GATEWAY4; done
	errors_reach
	nobody_else
	watched
	outlive
	eventually 10 pinned 1
	spawn "$TMP/cut.out" ip netns exec lan1 "$LAB" flows --to "[$AA]:$PORT" --tcp 3 --for 60s --tag cut
	local cut=$SPAWNED
	eventually 10 grep -qx started "$TMP/cut.out"
	check "pins --flush --cut ends a client's flows" says ' [1-9][0-9]* flows cut$' aarptun pins --flush --cut
	check "and it is told" exits 1 wait "$cut"
	stop "$DAEMON" KILL || true
	aarptun cleanup >"$TMP/out"
	check "kill -9, then cleanup: the host is as before, and the rules of others" same_state
	check "and the kernel knows no flow of AA" not tracked

	start_offload --preserve-source || return 1
	on client nft -f - <<-END
		table inet nat {
			chain post {
				type nat hook postrouting priority srcnat; policy accept;
				ct label 127 accept
				oifname eth0 meta mark != 0xaa masquerade
			}
			chain forward {
				type filter hook forward priority filter; policy drop;
				oifname aarptun0 accept
				iifname aarptun0 accept
				ct label 127 accept
			}
		}
	END
	for n in 1 2; do
		by_the_kernel $n # past a firewall that knows them
		check "client $n: with --preserve-source the member logs its own address" come_from $n "${CLIENTS[n]}" "${CLIENTS4[n]}"
	done
	on client nft delete table inet nat
	check "and SIGTERM ends it" stop "$DAEMON"
	check "the host is as before" same_state
	on client nft delete table inet others
	ip -n client addr del $OTHER4/25 dev eth0
}

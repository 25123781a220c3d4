# shellcheck shell=bash
# The assertions; sourced by gateway-test.sh.
#
#	lan1 \
#	lan2 -- client (the gateway) -- router -- m1
#	lan3 /                                 \- m2
#
# lan3 is behind a link whose MTU is 1,280 bytes, which it does not know of.

LAN=2001:db8:1a::
LAN4=198.18.10.
GATEWAYS=(x "${LAN}1" "${LAN}1" "2001:db8:1b::1")
CLIENTS=(x "${LAN}11" "${LAN}12" "2001:db8:1b::13")
CLIENTS4=(x "${LAN4}11" "${LAN4}12" 198.18.11.13)

# shellcheck source=scripts/gateway-offload.bash
. "$ROOT/scripts/gateway-offload.bash"

from() { on "lan$1" "$LAB" "${@:2}"; } # from N COMMAND...: on the LAN's host N

# build_lan: the clients; the gateway forwards nothing yet.
build_lan() {
	local n
	ip -n client link add lan0 address 02:00:00:00:00:01 type bridge
	# Where a bridge is filtered, fragments are put together on it, and stay so.
	set_sysctl client bridge.bridge-nf-call-ip6tables 0 2>/dev/null || true
	ip -n client addr add "${LAN}1/64" dev lan0 nodad
	ip -n client addr add "${LAN4}1/24" dev lan0
	ip -n client link set lan0 up
	for n in 1 2 3; do
		ip netns add "lan$n"
		set_sysctl "lan$n" ipv6.conf.all.accept_dad 0
		set_sysctl "lan$n" ipv6.conf.default.accept_dad 0
		ip -n "lan$n" link set lo up
	done
	for n in 1 2; do
		ip link add eth0 netns "lan$n" type veth peer name "port$n" netns client
		ip -n client link set "port$n" master lan0 up
		ip -n "lan$n" addr add "${CLIENTS[n]}/64" dev eth0 nodad
		ip -n "lan$n" addr add "${CLIENTS4[n]}/24" dev eth0
		ip -n "lan$n" link set eth0 up
		ip -n "lan$n" route add default via "${LAN4}1"
	done
	ip netns add branch
	ip -n branch link set lo up
	set_sysctl branch ipv6.conf.all.accept_dad 0
	set_sysctl branch ipv6.conf.all.forwarding 1
	set_sysctl branch ipv4.ip_forward 1
	connect client narrow 2001:db8:1c::1 198.18.12.1 branch up0 2001:db8:1c::2 198.18.12.2
	connect branch down0 2001:db8:1b::1 198.18.11.1 lan3 eth0 "${CLIENTS[3]}" "${CLIENTS4[3]}"
	ip -n client link set narrow mtu 1280
	ip -n branch link set up0 mtu 1280
	ip -n branch route add default via 198.18.12.1
	ip -n branch -6 route add default via 2001:db8:1c::1
	ip -n lan3 route add default via 198.18.11.1
	for n in 1 2 3; do ip -n "lan$n" -6 route add default via "${GATEWAYS[n]}"; done
	ip -n client route add 198.18.11.0/24 via 198.18.12.2
	ip -n client -6 route add 2001:db8:1b::/64 via 2001:db8:1c::2
	ip -n router route add 198.18.8.0/21 via 203.0.113.2
	ip -n router -6 route add 2001:db8:18::/45 via $CLIENT
}

# flows_of TAG TO ARGUMENTS...: flows from each client, in the background.
FLOWS=()
flows_of() {
	local tag=$1 to=$2 n
	shift 2
	for n in 1 2 3; do
		spawn "$TMP/$tag-$n.out" ip netns exec "lan$n" "$LAB" flows --to "$to" --for 60s --tag "$tag-$n" "$@"
		FLOWS+=("$tag-$n:$SPAWNED")
	done
}

none_of_them_broke() {
	local flow status=0
	for flow in "${FLOWS[@]}"; do
		stop "${flow#*:}" || status=$?
		grep '"error"' "$TMP/${flow%:*}.out" | head -2 || true
	done
	FLOWS=()
	return "$status"
}

all_started() {
	local flow
	for flow in "${FLOWS[@]}"; do eventually 20 grep -qx started "$TMP/${flow%:*}.out" || return 1; done
}

flips() {
	local i
	for ((i = 0; i < $1; i++)); do
		flip
		sleep 0.1
	done
}

not_yet() {
	check "doctor --gateway names what is not set, and how to set it" fails_with 'sysctl -w net.ipv6.conf.all.forwarding=1' aarptun doctor --gateway
	check "IPv4 too" fails_with 'sysctl -w net.ipv4.ip_forward=1' aarptun doctor --gateway
	set_sysctl client ipv6.conf.all.forwarding 1
	set_sysctl client ipv4.ip_forward 1
}

# one_client N: each protocol, both families.
one_client() {
	local n=$1
	check "client $n: TCP, from its own address, to AA" says "^peer=\[$AA\]:$PORT local=${CLIENTS[n]} member=m1\$" from "$n" connect "[$AA]:$PORT"
	check "client $n: UDP is answered from AA" says "^from=\[$AA\]:$PORT member=m1\$" from "$n" udp "[$AA]:$PORT"
	check "client $n: ping is answered from AA" says "^from=$AA bytes=56\$" from "$n" ping $AA
	check "client $n: IPv4: TCP" says "^peer=$AA4:$PORT local=${CLIENTS4[n]} member=m1\$" from "$n" connect "$AA4:$PORT"
	check "client $n: IPv4: UDP" says "^from=$AA4:$PORT member=m1\$" from "$n" udp "$AA4:$PORT"
	check "client $n: IPv4: ping" says "^from=$AA4 bytes=56\$" from "$n" ping $AA4
}

carried() {
	local n
	check "doctor --gateway finds no problem" aarptun doctor --gateway $AA
	check "doctor --client looks at the way to a client" says "^ok +client: answers to the client ${CLIENTS[3]} leave by narrow" aarptun doctor --client "${CLIENTS[3]}"
	for n in 1 2 3; do one_client $n; done
	check "a closed port is refused" fails_with ECONNREFUSED from 1 connect "[$AA]:7999"
	check "for UDP too" fails_with ECONNREFUSED from 1 udp "[$AA]:7999"
	hops
	check "an address nobody has is unreachable" fails_with EHOSTUNREACH from 2 connect --timeout 5s "[$DEAD]:$PORT"
	check "a ping of 60,000 bytes, in fragments" says "^from=$AA bytes=60000\$" from 1 ping --size 60000 $AA
	check "IPv4: so it does" says "^from=$AA4 bytes=60000\$" from 1 ping --size 60000 $AA4
}

# hops: a datagram's hop limit ends at the router behind the gateway, which says so.
hops() {
	check "that a hop limit has ended is told to the client" fails_with EHOSTUNREACH from 1 udp --hops 2 "[$AA]:$PORT"
	check "IPv4: so it is" fails_with EHOSTUNREACH from 2 udp --hops 2 "$AA4:$PORT"
	check "one more leads to the member" from 1 udp --hops 3 "[$AA]:$PORT"
}

# narrow: nobody at the ends knows of the link in between, and routers tell.
narrow() {
	check "behind a link of 1,280 bytes: TCP" says "halfclose ok" from 3 halfclose "[$AA]:$PORT"
	check "and UDP and echo of 1,300 bytes" from 3 flows --to "[$AA]:$PORT" --udp 1 --echo 1 --datagram 1300 --for 0s --tag narrow
	check "and of 8,000" from 3 flows --to "[$AA]:$PORT" --udp 1 --echo 1 --datagram 8000 --for 0s --tag narrow8
	check "IPv4: TCP" says "halfclose ok" from 3 halfclose "$AA4:$PORT"
	check "and UDP and echo of 1,300 bytes" from 3 flows --to "$AA4:$PORT" --udp 1 --echo 1 --datagram 1300 --for 0s --tag narrow4
	check "status counts what was learned" says 'stack.path_mtus_learned +[1-9]' aarptun status
}

# pinned_through_flips: TCP, UDP and echo flows of all clients at once.
pinned_through_flips() {
	flows_of six "[$AA]:$PORT" --tcp 10 --udp 5 --echo 2
	flows_of four "$AA4:$PORT" --tcp 5 --udp 3 --echo 1
	check "flows of all clients start" all_started
	flips 21
	check "flows lists one client's by its address" says "^ *[0-9]+ +tcp +\[${CLIENTS[2]}\]" aarptun flows --client "${CLIENTS[2]}"
	check "and nobody else's" not says "${CLIENTS[1]}" aarptun flows --client "${CLIENTS[2]}"
	check "and those of a prefix" says "${CLIENTS4[3]}:" aarptun flows --client 198.18.11.0/24 --anycast $AA4
	check "and to an anycast address" not says "\[$AA\]" aarptun flows --anycast $AA4
	ip -n client link set port2 nomaster
	check "a client vanishes, and the others go on" from 1 connect "[$AA]:$PORT"
	sleep 0.5
	ip -n client link set port2 master lan0
	check "TCP, UDP and echo flows of three clients survive 21 route flips, 0 broken" none_of_them_broke
	route_to 1
}

# limited: one client has all the flows it may have.
limited() {
	start_aarptun --limits flows-per-client=20 --drain-timeout 0s
	spawn "$TMP/greedy.out" ip netns exec lan1 "$LAB" flows --to "[$AA]:$PORT" --tcp 20 --for 60s --tag greedy
	local greedy=$SPAWNED
	eventually 20 grep -qx started "$TMP/greedy.out"
	check "a client at its limit is refused" fails_with ECONNREFUSED from 1 connect "[$AA]:$PORT"
	check "for UDP it is told that it is prohibited" fails_with EACCES from 1 udp "[$AA]:$PORT"
	check "another client of the same /64 is not affected" from 2 flows --to "[$AA]:$PORT" --tcp 15 --udp 3 --for 0s --tag other
	check "nor one elsewhere, nor its own IPv4" from 3 connect "[$AA]:$PORT"
	check "which is another address" from 1 connect "$AA4:$PORT"
	check "status says how many clients are at their limit" says '^clients +1 at the limit' aarptun status
	check "and counts what was refused" says 'nat.limited.flows_per_client +[1-9]' aarptun status
	check "the flows of the greedy one go on" stop "$greedy"
	check "and then it may have others" eventually 5 from 1 connect "[$AA]:$PORT"
	check "the daemon ends with exit code 0" stop "$DAEMON"
}

# members_log: who the members have seen, by address.
members_log() { cat "$TMP"/m?.peers; }

# preserved N: the members see client N's own address.
preserved() {
	local n=$1 to ua
	: >"$TMP/m1.peers"
	: >"$TMP/m2.peers"
	for to in "[$AA]:$PORT" "$AA4:$PORT"; do
		from "$n" connect "$to" && from "$n" udp "$to" || return 1
	done
	for ua in "${CLIENTS[n]}" "${CLIENTS4[n]}"; do
		grep -qx "tcp $ua" <(members_log) && grep -qx "udp $ua" <(members_log) || { echo "no $ua"; members_log; return 1; }
	done
}

own_addresses() {
	local n
	host_state >"$TMP/state.before"
	nft_rules >"$TMP/nft.before"
	start_aarptun --sticky source --preserve-source --drain-timeout 0s || { tail -3 "$TMP/aarptun.log"; return 1; }
	check "preserve-source: doctor --gateway finds no problem" aarptun doctor --gateway $AA
	for n in 1 2 3; do check "client $n: the member logs its own address, TCP and UDP, IPv6 and IPv4" preserved $n; done
	check "the gateway's own flows come from its own address" says "^peer=\\[$AA\\]:$PORT local=$CLIENT member=m1\$" on client "$LAB" connect "[$AA]:$PORT"
	check "which the member logs" says "^tcp $CLIENT\$" members_log
	check "status says so" says '^source +preserved' aarptun status
	check "ping is answered from AA" says "^from=$AA bytes=56\$" from 1 ping $AA
	ip -n router -6 route add $UA1/128 dev m1 mtu 1280
	check "a narrow way to the member is told to the socket that bears the client's address: TCP" says "halfclose ok" from 1 halfclose "[$AA]:$PORT"
	check "and UDP, to the client" from 1 flows --to "[$AA]:$PORT" --udp 1 --datagram 1300 --for 0s --tag mtu
	ip -n router -6 route replace prohibit $UA1/128
	check "a router's ICMP error about the member is told to the client" fails_with EACCES from 1 connect --timeout 5s "[$AA]:$PORT"
	ip -n router -6 route del prohibit $UA1/128
	ip -n router -6 route del $UA1/128 2>/dev/null || true
	ip -n client -6 route flush cache
	check "a closed port is refused" fails_with ECONNREFUSED from 1 connect "[$AA]:7999"
	check "for UDP too" fails_with ECONNREFUSED from 1 udp "[$AA]:7999"
	check "IPv4: so it is" fails_with ECONNREFUSED from 2 udp "$AA4:7999"
	hops
	check "what a client sends to the member itself goes its own way" says "^peer=\\[$UA1\\]:$PORT local=${CLIENTS[1]} member=m1\$" from 1 connect "[$UA1]:$PORT"
	check "UDP of 8,000 bytes, in fragments" from 2 flows --to "[$AA]:$PORT" --udp 1 --datagram 8000 --for 0s --tag big
	check "IPv4: so it is" from 2 flows --to "$AA4:$PORT" --udp 1 --datagram 8000 --for 0s --tag big4
	flows_of own "[$AA]:$PORT" --tcp 10 --udp 5
	flows_of own4 "$AA4:$PORT" --tcp 5 --udp 3
	check "flows of all clients start" all_started
	if command -v nft >/dev/null; then
		on client nft flush ruleset # as a firewall does that is loaded anew
		on client nft 'table inet nat { chain post { type nat hook postrouting priority srcnat; oifname eth0 meta mark != 0xaa masquerade; }; }'
		check "beside address translation by the uplink, but for aarptun's mark, the member sees the client" preserved 3
		on client nft delete table inet nat
		check "the table is put back when another program flushes it" eventually 5 says 'table inet aarptun-aarptun0' on client nft list ruleset
	fi
	flips 11
	check "flows of three clients survive 11 route flips, 0 broken" none_of_them_broke
	route_to 1
	stop "$DAEMON" KILL || true
	check "kill -9 leaves something behind" not same_state
	check "cleanup takes it back" says 'removed return packets: nft table inet aarptun-aarptun0' aarptun cleanup
	check "the host is as before" same_state
	start_aarptun --preserve-source --drain-timeout 0s
	stop "$DAEMON" KILL || true
	start_aarptun --preserve-source --drain-timeout 0s
	check "kill -9, then run: the members see the client" preserved 1
	check "and SIGTERM ends it" stop "$DAEMON"
	check "the host is as before" same_state
	set_sysctl client ipv4.conf.all.src_valid_mark 1
	check "a setting that would drop what members send is named at the start" fails_with 'src_valid_mark=0' aarptun run -p $PREFIX4 --preserve-source
	set_sysctl client ipv4.conf.all.src_valid_mark 0
	check "the host is as before" same_state
}

nft_rules() { if command -v nft >/dev/null; then on client nft list ruleset; fi; }
same_state() { diff "$TMP/state.before" <(host_state) && diff "$TMP/nft.before" <(nft_rules); }

build_lab
build_lan
start_members
mkdir -p /run/aarptun # where the state is kept, made once, stays
not_yet
host_state >"$TMP/state.before"
nft_rules >"$TMP/nft.before"
start_aarptun || { cat "$TMP/aarptun.log"; exit 1; }
carried
narrow
pinned_through_flips
check "the daemon ends with exit code 0" stop "$DAEMON"
check "and the host is as before" same_state
limited
# Before sockets of this host have borne the clients' addresses: while they are in
# TIME_WAIT, the kernel drops what it would forward to the same address and port.
if command -v nft >/dev/null; then offloaded; fi
own_addresses

if [ "$FAILED" -gt 0 ]; then
	echo "# $FAILED of $((PASSED + FAILED)) failed; the daemon's last words:"
	tail -20 "$TMP/aarptun.log" | sed 's/^/#   /'
	exit 1
fi
echo "# all $PASSED passed"

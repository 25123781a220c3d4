# shellcheck shell=bash
# The assertions; sourced by netns-test.sh.


# member_of TO: which member a new flow goes to.
member_of() { lab connect "$1" | sed 's/.*member=//'; }
member_is() { [ "$(member_of "[$AA]:$PORT")" = "$1" ]; }

before_aarptun() {
	check "a direct TCP connection to AA fails" fails_with TIMEOUT lab connect --timeout 2s "[$AA]:$PORT"
	check "resolve prints the member's address alone" test "$(aarptun resolve $AA)" = $UA1
	flip
	check "resolve prints the other member's after a route flip" test "$(aarptun resolve $AA)" = $UA2
	check "resolve -n counts the members seen" says "^$UA2 5\$" aarptun resolve -n 5 $AA
	check "resolve --json says how" says '"method":"icmp","trust":"nonce"' aarptun resolve --json $AA
	check "resolve of an address nobody has exits 69" exits 69 aarptun resolve --timeout 500ms $DEAD
	check "status without a daemon exits 69" exits 69 aarptun status
	flip
}

# pinned makes a flow, since a pin lives for a second only, and looks.
pinned() {
	lab connect "[$AA]:$PORT"
	aarptun pins | grep -qE "^$AA +$UA1 +icmp +nonce"
}

single_flows() {
	check "a static client connects to AA: getpeername() is AA, its own address the uplink's" \
		says "^peer=\[$AA\]:$PORT local=$CLIENT member=m1\$" lab connect "[$AA]:$PORT"
	check "UDP is answered from AA" says "^from=\[$AA\]:$PORT member=m1\$" lab udp "[$AA]:$PORT"
	check "ping is answered from AA" says "^from=$AA bytes=56\$" lab ping $AA
	check "a ping of 60,000 bytes is answered from AA" says "^from=$AA bytes=60000\$" lab ping --size 60000 $AA
	check "a half-closed connection delivers everything" says "halfclose ok" lab halfclose "[$AA]:$PORT"
	check "TCP to a closed port is refused" fails_with ECONNREFUSED lab connect "[$AA]:7999"
	check "UDP to a closed port is refused" fails_with ECONNREFUSED lab udp "[$AA]:7999"
	check "TCP to an address nobody has is unreachable" fails_with EHOSTUNREACH lab connect --timeout 5s "[$DEAD]:$PORT"
	check "ping to an address nobody has is silent" fails_with silence lab ping $DEAD
	check "IPv4: TCP by a static member" says "^peer=$AA4:$PORT local=203.0.113.2 member=m1\$" lab connect "$AA4:$PORT"
	check "IPv4: UDP is answered from AA" says "^from=$AA4:$PORT member=m1\$" lab udp "$AA4:$PORT"
	check "IPv4: ping is answered from AA" says "^from=$AA4 bytes=56\$" lab ping $AA4
	check "pins names the member and how it was found" eventually 5 pinned
	check "status counts flows" says "tcp_opened +[1-9]" aarptun status
}


logged_once() {
	cat "$TMP"/m?.flows | grep -E '^(tcp|udp) many-' | cut -d' ' -f1,2 | sort | uniq -c | awk '$1 != 1 { print; bad = 1 } END { exit bad }' &&
		[ "$(cat "$TMP"/m?.flows | grep -cE '^(tcp|udp) many-')" = 120 ]
}

many_flows() {
	ip netns exec client "$LAB" flows --to "[$AA]:$PORT" --tcp 100 --udp 20 --for 60s --tag many >"$TMP/many.out" 2>&1 &
	local many=$! i
	PIDS+=("$many")
	eventually 20 grep -qx started "$TMP/many.out" || true
	for ((i = 0; i < 60; i++)); do
		flip
		sleep 0.1
	done
	aarptun flows --json >"$TMP/flows.json"
	local before=$ROUTED status=0
	check "after a flip and the TTL a new flow goes to the member the route leads to" eventually 5 member_is "m$before"
	flip
	check "and after another flip to the other one" eventually 5 member_is "m$ROUTED"
	check "the flows are still there" test "$(aarptun flows --json | tr '{' '\n' | grep -c '"proto":"tcp"')" -ge 100
	stop "$many" || status=$?
	check "100 TCP and 20 UDP flows with verified bytes survive 60 route flips" exits "$status" true
	[ "$status" = 0 ] || tail -5 "$TMP/many.out" | sed 's/^/#   /'
	check "each of them was logged by exactly one member" logged_once
	check "flows named the right member for each of them" flows_named_right
}

# flows_named_right compares what the daemon said while they ran with what the
# clients saw.
flows_named_right() {
	tr '{' '\n' <"$TMP/flows.json" | sed -n 's/.*"proto":"\([a-z]*\)","client":"\([^"]*\)".*"member":"\([^"]*\)".*/\1 \2 \3/p' |
		sed "s/ $UA1\$/ m1/; s/ $UA2\$/ m2/" | sort >"$TMP/by-flows"
	sed -n 's/.*"id":"many-[0-9]*","proto":"\([a-z]*\)","local":"\([^"]*\)","member":"\([^"]*\)".*/\1 \2 \3/p' "$TMP/many.out" | sort >"$TMP/by-client"
	wc -l "$TMP/by-client" "$TMP/by-flows"
	comm -23 "$TMP/by-client" "$TMP/by-flows" | head -3
	[ "$(wc -l <"$TMP/by-client")" = 120 ] && [ -z "$(comm -23 "$TMP/by-client" "$TMP/by-flows")" ]
}

second_run() {
	lab flows --to "[$AA]:$PORT" --tcp 5 --for 3s --tag calm >"$TMP/calm.out" 2>&1 &
	local calm=$!
	eventually 5 grep -qx started "$TMP/calm.out"
	check "a second run on the same device is refused with exit code 78" exits 78 aarptun run -p $PREFIX --admin-socket /run/aarptun/second.sock
	check "it names the device and who has it" fails_with 'process [0-9]+ has the device aarptun0' aarptun run -p $PREFIX --admin-socket /run/aarptun/second.sock
	check "a second run on the same table is refused with exit code 78" exits 78 aarptun run -p $PREFIX --tun other0 --admin-socket /run/aarptun/second.sock
	check "cleanup leaves a living run alone" says 'alive, left alone: aarptun0' aarptun cleanup
	check "the flows of the first run did not notice" wait "$calm"
}

dead_member() {
	route_to 2
	check "a member answers ping" eventually 5 lab ping $AA
	ip -n m2 link set eth0 down
	check "ping to a dead member is silent" fails_with silence lab ping $AA
	ip -n m2 link set eth0 up
	ip -n m2 -6 addr add $UA2/64 dev eth0 nodad 2>/dev/null || true # the kernel drops it with the link
	ip -n m2 -6 route add default via 2001:db8:12::1 2>/dev/null || true
	ip -n m2 route add default via 192.0.2.129 2>/dev/null || true
	route_to 1
}

# ends SIGNAL: stops the daemon with flows open, wants exit 0 in time.
ends() {
	lab flows --to "[$AA]:$PORT" --tcp 3 --for 30s --tag end >"$TMP/end.out" 2>&1 &
	local flows=$! began status=0
	PIDS+=("$flows")
	eventually 5 grep -qx started "$TMP/end.out"
	began=$(date +%s)
	kill "-$1" "$DAEMON"
	wait "$DAEMON" || status=$?
	stop "$flows" || true # its flows were cut
	echo "exit code $status after $(($(date +%s) - began)) s"
	[ "$status" = 0 ] && [ $(($(date +%s) - began)) -le 5 ]
}

same_state() { diff "$TMP/state.before" <(host_state); }

host_comes_back() {
	check "SIGTERM with flows open ends it with exit code 0, in time" ends TERM
	check "SIGTERM left rules, routes and links as before, byte for byte" same_state
	start_aarptun
	check "Ctrl-C does too" ends INT
	check "and leaves the host as before" same_state
	start_aarptun
	check "kill -9 leaves something behind" killed_leaves_something
	check "cleanup --dry-run only says so" says 'would remove' aarptun cleanup --dry-run
	check "cleanup takes it back" aarptun cleanup
	check "kill -9, then cleanup: the host is as before" same_state
	start_aarptun
	stop "$DAEMON" KILL || true
	start_aarptun
	check "kill -9, then run: flows are carried again" eventually 5 member_is m1
	stop "$DAEMON" || true
	check "kill -9, then run, then SIGTERM: the host is as before" same_state
}

killed_leaves_something() {
	stop "$DAEMON" KILL || true
	! same_state
}

# new_flow AA: the member that a new connection to it reaches.
new_flow() { [ "$(member_of "$1")" = "$2" ]; }

# responders: members with AA on lo, IPv6 and IPv4, whose answers are signed.
responders() {
	local public flows i status=0
	check "keygen makes a key and prints the public one" aarptun keygen ed25519 "$TMP/member.key"
	public=$(aarptun keygen public "$TMP/member.key")
	start_responders "$TMP/member.key"
	check "resolve proves the answer of a member with AA on lo" says "^$UA1 by stun, trust ed25519" aarptun resolve -v --pubkey "$public" $LO
	check "IPv4: so it does" says "^$UA1_4 by stun, trust ed25519" aarptun resolve -v --pubkey "$public" $LO4
	check "an answer with another key is not believed" fails_with 'not pinned' aarptun resolve -v --timeout 500ms --pubkey "$(aarptun keygen ed25519 "$TMP/other.key")" $LO
	start_aarptun -p $PREFIX_LO -p $PREFIX_LO4 --stale 0 --pubkey "$PREFIX_LO=$public" --pubkey "$PREFIX_LO4=$public"
	check "AA on lo: TCP is pinned" says "^peer=\[$LO\]:$PORT local=$CLIENT member=m1\$" lab connect "[$LO]:$PORT"
	check "AA on lo: UDP is answered from AA" says "^from=\[$LO\]:$PORT member=m1\$" lab udp "[$LO]:$PORT"
	check "AA on lo: ping is answered from AA" says "^from=$LO bytes=56\$" lab ping $LO
	check "IPv4 AA on lo: TCP is pinned" says "^peer=$LO4:$PORT local=203.0.113.2 member=m1\$" lab connect "$LO4:$PORT"
	check "IPv4 AA on lo: UDP is answered from AA" says "^from=$LO4:$PORT member=m1\$" lab udp "$LO4:$PORT"
	check "IPv4 AA on lo: ping is answered from AA" says "^from=$LO4 bytes=56\$" lab ping $LO4
	check "pins says that they are proved" says "^$LO4 +$UA1_4 +stun +ed25519" aarptun pins
	for i in "[$LO]" "$LO4"; do
		ip netns exec client "$LAB" flows --to "$i:$PORT" --tcp 20 --udp 10 --for 30s --tag "lo$i" >"$TMP/lo.out$i" 2>&1 &
		flows+=" $!"
		PIDS+=("$!")
		eventually 20 grep -qx started "$TMP/lo.out$i" || true
	done
	for ((i = 0; i < 21; i++)); do
		flip
		sleep 0.1
	done
	check "after a flip and the TTL a new flow goes to the other member" eventually 5 new_flow "[$LO]:$PORT" "m$ROUTED"
	check "IPv4: so it does" eventually 5 new_flow "$LO4:$PORT" "m$ROUTED"
	kill -USR1 "${RESPONDERS[ROUTED]}"
	check "a member that drains takes no new flow" eventually 5 fails_with EHOSTUNREACH lab connect --timeout 5s "$LO4:$PORT"
	flip
	check "and the other one does" eventually 5 new_flow "$LO4:$PORT" "m$ROUTED"
	for i in $flows; do
		stop "$i" || status=$?
	done
	check "60 flows with verified bytes survive 20 route flips and the draining" exits "$status" true
	route_to 1
	stop "$DAEMON" || true
}

static_binary() {
	mkdir -p "$TMP/empty"
	cp "$AARPTUN" "$TMP/empty/aarptun"
	check "the binary runs in an empty chroot" chroot "$TMP/empty" /aarptun version
	if command -v file >/dev/null; then
		check "file says that it is statically linked" says 'statically linked' file "$AARPTUN"
	else
		echo "# skipped: no 'file' command here to say that the binary is statically linked"
	fi
}

build_lab
start_members
spawn "$TMP/wire.log" ip netns exec router "$LAB" wire --aa "$AA,$DEAD,$AA4"
WIRE=$SPAWNED
eventually 5 grep -q '^listening' "$TMP/wire.log"
stop "$WIRE" || true # what the direct connection sends does not count

before_aarptun
mkdir -p /run/aarptun # where the state is kept, made once, stays
host_state >"$TMP/state.before"
spawn "$TMP/wire.log" ip netns exec router "$LAB" wire --aa "$AA,$DEAD,$AA4"
WIRE=$SPAWNED
eventually 5 grep -q '^listening' "$TMP/wire.log"
start_aarptun || { cat "$TMP/aarptun.log"; exit 1; }
single_flows
many_flows
second_run
dead_member
wire_status=0
stop "$WIRE" || wire_status=$?
check "on the router's wire nothing went to AA but probes" exits "$wire_status" true
sed 's/^/#   /' "$TMP/wire.log"
host_comes_back
responders
static_binary

if [ "$FAILED" -gt 0 ]; then
	echo "# the end of aarptun's log:"
	tail -30 "$TMP/aarptun.log" | sed 's/^/#   /'
fi
echo "$PASSED passed, $FAILED failed"
[ "$FAILED" = 0 ]

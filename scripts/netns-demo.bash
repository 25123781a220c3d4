# shellcheck shell=bash
# The demonstration; sourced by netns-test.sh. Each step must show what it says.

title() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { # show COMMAND...: prints it as typed on the client, and runs it there
	local words=("$@")
	words[0]=$(basename "$1")
	echo "client\$ ${words[*]}"
	on client "$@" 2>&1
}
give_up() {
	echo "the demo did not show what it claims: $1" >&2
	tail -n 5 "$TMP"/*.log >&2
	exit 1
}

build_lab
title "A client, a router, and two members m1 and m2 that both have the anycast address $AA"
start_members
echo "m1 is $UA1, m2 is $UA2; the router's route leads to m1"

title "1. TCP straight to the anycast address: the kernel drops it"
show "$LAB" connect --timeout 1500ms "[$AA]:$PORT" && give_up "the direct connection succeeded"

title "2. Who stands behind it? Ask by probe"
show "$AARPTUN" resolve -v $AA || give_up "resolve failed"

title "3. aarptun carries the prefix"
echo "client\$ aarptun run -p $PREFIX --cache-ttl 1s &"
start_aarptun || give_up "aarptun did not start"
on client ip -6 rule show table 170
on client ip -6 route show table 170

title "4. A static program streams through AA while the router changes its mind"
on client "$LAB" stream --for 4s "[$AA]:$PORT" >"$TMP/stream.out" 2>&1 &
STREAM=$!
eventually 5 grep -q connected "$TMP/stream.out" || give_up "the stream did not start"
tail -n +1 -f "$TMP/stream.out" &
TAIL=$!
sleep 1.2
flip
echo "router\$ ip -6 route replace $AA/128 via $UA2      <-- the route now leads to m2"
sleep 1.5
wait "$STREAM" || give_up "the stream broke"
sleep 0.2
kill "$TAIL"
grep -q 'still with m2' "$TMP/stream.out" && give_up "the flow moved"

title "5. A new flow goes where the route leads now; a flow that exists stays"
on client "$LAB" flows --to "[$AA]:$PORT" --tcp 1 --for 1s >/dev/null &
NEW=$!
show "$LAB" connect "[$AA]:$PORT" | tee "$TMP/new.out"
grep -q 'member=m2' "$TMP/new.out" || give_up "the new flow went to the old member"
show "$AARPTUN" flows
show "$AARPTUN" pins
wait "$NEW"

title "6. Ctrl-C takes everything back"
stop "$DAEMON" INT || give_up "aarptun ended badly"
on client ip -6 rule
echo
echo "Done: the flow kept its server, the program knew nothing, the network was not touched."

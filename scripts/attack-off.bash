# shellcheck shell=bash
# Off the path; sourced by attack.sh. A third host on the router sends replies
# from any address it likes, to the very ports of the daemon's sockets, while the
# daemon and `aarptun resolve` probe all the time.

FORGED=${FORGED:-1000000}

# probing NAME COMMAND...: runs it again and again until $TMP/over is there; what
# it prints goes to NAME.out, and a line for each failure to NAME.bad.
probing() {
	local name=$1
	shift
	: >"$TMP/$name.bad"
	until [ -e "$TMP/over" ]; do
		on client "$@" >>"$TMP/$name.out" 2>"$TMP/$name.err" || cat "$TMP/$name.err" >>"$TMP/$name.bad"
		sleep 0.1 # the processor is the attacker's
	done
}

# only NAME PATTERN: it has printed at least 10 lines, each like this, and has
# not failed once.
only() {
	wc -l "$TMP/$1.out" "$TMP/$1.bad"
	grep -vE "$2" "$TMP/$1.out" | head -3
	head -3 "$TMP/$1.bad"
	[ "$(wc -l <"$TMP/$1.out")" -ge 10 ] && [ ! -s "$TMP/$1.bad" ] && ! grep -qvE "$2" "$TMP/$1.out"
}

# counter NAME: as the daemon has it now.
counter() { awk -v name="$1" '$1 == name { print $2; found = 1 } END { if (!found) print 0 }' "$TMP/status"; }
at_least() { # at_least NUMBER COUNTER
	echo "$2 is $(counter "$2")"
	[ "$(counter "$2")" -ge "$1" ]
}

# ports: those of the UDP sockets in the client's namespace.
ports() { on client awk 'FNR > 1 { split($2, a, ":"); print a[2] }' /proc/net/udp6 | while read -r hex; do echo $((16#$hex)); done | paste -sd,; }

off_path() {
	local prober provers=()
	echo "# off the path: $FORGED forged replies"
	start_aarptun -p $PREFIX_LO --cache-ttl 100ms
	PROBER_PORTS=$(ports)
	probing resolve-echo "$AARPTUN" resolve -n 20 $AA &
	provers+=($!)
	probing resolve-stun "$AARPTUN" resolve -n 20 --psk-file "$TMP/psk" $LO &
	provers+=($!)
	probing flow-echo "$LAB" count -n 5 "[$AA]:$PORT" &
	provers+=($!)
	probing flow-stun "$LAB" count -n 5 "[$LO]:$PORT" &
	provers+=($!)
	on attacker "$LAB" forge --client $CLIENT --aa $AA,$LO --named $VICTIM,$ATTACKER,$UA2,$AA,$UA1 --ports "$PROBER_PORTS" -n "$FORGED" >"$TMP/forge.out"
	touch "$TMP/over"
	for prober in "${provers[@]}"; do
		wait "$prober"
	done
	echo "# $(cat "$TMP/forge.out")"
	aarptun status >"$TMP/status"
	grep -E '^(ping|stun|resolver)' "$TMP/status" | sed 's/^/# /'
	check "$FORGED forged replies were sent, half of them echo replies, half STUN answers, and a tenth as many ICMP errors" \
		grep -qE "^echo=$((FORGED / 2)) stun=$((FORGED / 2)) error=$((FORGED / 10)) " "$TMP/forge.out"
	check "resolve by echo names the true member, and does each time" only resolve-echo "^$UA1 20\$"
	check "resolve by STUN names the true member, and does each time" only resolve-stun "^$UA1 20\$"
	check "flows to AA reach the true member, each of them" only flow-echo '^m1=5$'
	check "flows to LO reach the true member, each of them" only flow-stun '^m1=5$'
	# Nine of ten, for a slow machine may drop some of such a flood unread.
	check "the echo replies and the errors about echo came to the daemon, and matched nothing" at_least $((FORGED * 45 / 100)) ping.unmatched
	check "the STUN answers came to the daemon, and matched nothing" at_least $((FORGED * 45 / 100)) stun.unmatched
	check "the port unreachable and the like about STUN came to the daemon" at_least $((FORGED * 45 / 1000)) stun.unreachable
	check "no forgery got as far as to be refused, and no address was without an answer" not grep -E '^(stun|resolver)\.(refused|failures)' "$TMP/status"
	check "the daemon ends with exit code 0" stop "$DAEMON"
}

off_path

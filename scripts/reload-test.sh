#!/usr/bin/env bash
# The configuration file of a running daemon: reloads under 500 flows whose every
# byte is checked, bad reloads, prefixes that come and go, the exchange of a shared
# key, a terminal that hangs up. Real kernels, in namespaces of the script's own, as
# in netns-test.sh.
set -euo pipefail

usage() {
	cat <<-END
		usage: scripts/reload-test.sh

		AARPTUN and LAB may name binaries to use instead of building them.
		Exit code 77: this kernel or user may not make the namespaces.
	END
}

ROOT=$(cd "$(dirname "$0")/.." && pwd)

# shellcheck source=scripts/lab.bash
. "$ROOT/scripts/lab.bash"
command_line "" "$@"

into_namespaces AARPTUN:cmd/aarptun LAB:scripts/lab

# responder N KEYFILE: member N answers for LO with the keys of that file.
responder() {
	local n=$1
	[ -z "${RESPONDERS[n]:-}" ] || stop "${RESPONDERS[n]}" || true
	: >"$TMP/responder$n.log"
	spawn "$TMP/responder$n.log" ip netns exec "m$n" "$AARPTUN" member --anycast $LO --psk-file "$2"
	RESPONDERS[n]=$SPAWNED
	eventually 5 grep -q "^answering $LO" "$TMP/responder$n.log"
}

files() {
	cat >"$TMP/first.toml" <<-END
		cache-ttl = "1s"
		[[prefix]]
		anycast = "$PREFIX"
	END
	cat >"$TMP/other.toml" <<-END
		cache-ttl = "2s"
		log-level = "debug"
		[[prefix]]
		anycast = "$PREFIX"
		member-prefix = ["2001:db8:10::/44"]
		[[prefix]]
		anycast = "$PREFIX4"
		[limits]
		flows = 600
	END
	cat >"$TMP/gone.toml" <<-END
		prefix = ["$PREFIX4"]
	END
	cat >"$TMP/slip.toml" <<-END
		[[prefix]]
		anycast = "$PREFIX_LO"
		psk-fil = "$TMP/psk"
	END
	cat >"$TMP/table.toml" <<-END
		table = 171
		prefix = ["$PREFIX", "$PREFIX_LO"]
	END
	cat >"$TMP/psk.toml" <<-END
		cache-ttl = "1s"
		prefix = [{ anycast = "$PREFIX" }, { anycast = "$PREFIX_LO", psk-file = "$TMP/psk" }]
	END
}

status_says() { says "$1" aarptun status; }
routed() { says "^$1 dev aarptun0" ip -n client -6 route show table 170; }
unrouted() { ! ip -n client -6 route show table 170 | grep -q "^$1 "; }
same_state() { diff <(host_state) "$1"; }

under_flows() {
	echo "# reloads under 500 flows"
	local flows i
	run_file first
	start_flows many "[$AA]:$PORT" --tcp 400 --udp 100 --every 200ms
	flows=$SPAWNED
	for i in 1 2 3; do
		for file in other first gone first other; do
			reload $file
			flip
			sleep 0.1
		done
		refused slip
	done
	check "18 reloads: limits, trust, prefixes, one with a slip, their own prefix taken away" \
		[ "$(aarptun flows | grep -c ' established ')" = 500 ]
	reload first
	check "500 flows, every byte checked, with route flips: 0 broken" none_broke many "$flows"
	check "the last configuration counts" status_says "^config +$FILE, read [0-9]+s ago"
	route_to 1
}

bad() {
	echo "# bad reloads"
	local flows
	start_flows few "[$AA]:$PORT" --tcp 10 --udp 10
	flows=$SPAWNED
	eventually 10 status_says "^prefixes +$PREFIX\$"
	eventually 10 not status_says '^passing'
	host_state >"$TMP/before"
	refused slip
	check "a slip is told with its line" status_says "^reload +failed .*$FILE:3:1: unknown key \"psk-fil\": did you mean psk-file\?"
	check "it is logged, too" grep -q "nothing has changed.*$FILE:3:1: unknown key" "$TMP/aarptun.log"
	check "check-config says the same, with exit code 78" exits 78 aarptun check-config -c "$FILE"
	refused table
	check "what only a start can change is refused by its name" status_says "^reload +failed .*table 171, which is 170"
	check "the host is as before" same_state "$TMP/before"
	check "and the flows, 0 broken" none_broke few "$flows"
}

come_and_go() {
	echo "# prefixes that come and go, and the exchange of a key"
	local flows lo="[$LO]:$PORT"
	reload psk
	check "a prefix is added: a new flow has its member" says 'member=m1' lab connect "$lo"
	check "with the trust of the file" says "^$LO +$UA1 +stun +psk" aarptun pins
	start_flows keyed "$lo" --tcp 20 --udp 5
	flows=$SPAWNED

	cat "$TMP/new" >"$TMP/both" # the new key is known to the members first
	cat "$TMP/old" >>"$TMP/both"
	responder 1 "$TMP/both"
	check "the members know both keys: a new flow" says 'member=m1' lab connect "$lo"
	cp "$TMP/new" "$TMP/psk"
	reload psk
	check "the client has the new key: a new flow" says 'member=m1' lab connect "$lo"
	responder 1 "$TMP/new"
	sleep 1.1 # the TTL
	check "the old key is gone: a new flow" says 'member=m1' lab connect "$lo"
	cp "$TMP/old" "$TMP/psk"
	reload psk
	check "a client with the old key: no new flow" fails_with EHOSTUNREACH lab connect --timeout 10s "$lo"
	cp "$TMP/new" "$TMP/psk"

	reload first
	check "the prefix is taken away: it passes while it has flows" status_says "^passing +$PREFIX_LO:"
	check "its route is there" routed $PREFIX_LO
	check "a new flow goes where the network leads" says 'member=m1' lab connect "$lo"
	check "25 flows through all of that, 0 broken" none_broke keyed "$flows"
	# The echo of datagrams has no end, so UDP flows last for their idle time.
	reload psk
	check "it comes back: no longer passing" not status_says '^passing'
	check "a new flow is pinned again" says 'member=m1' lab connect "$lo"
	check "the daemon ends with exit code 0" stop "$DAEMON"

	run_file psk
	start_flows last "$lo" --tcp 5
	flows=$SPAWNED
	reload first
	check "its flows are TCP: they hold it" routed $PREFIX_LO
	check "they end, 0 broken" none_broke last "$flows"
	check "and it is let go" eventually 5 unrouted $PREFIX_LO
	check "a new flow goes without us" says 'member=m1' lab connect "$lo"
	check "status has no flow of it" not says "$LO" aarptun flows
	check "the daemon ends with exit code 0" stop "$DAEMON"
	check "the host is as it was" same_state "$TMP/untouched"
}

crash() {
	echo "# kill -9 after a reload, a terminal that hangs up"
	run_file first
	reload other # with IPv4
	stop "$DAEMON" KILL || true
	check "cleanup after kill -9" says '^removed ip -4 rule' aarptun cleanup
	check "the host is as it was" same_state "$TMP/untouched"
	write_file first
	: >"$TMP/terminal.log"
	spawn /dev/null ip netns exec client script -qec "exec $AARPTUN run -c $FILE 2>>$TMP/terminal.log" /dev/null
	eventually 10 grep -q carrying "$TMP/terminal.log"
	stop "$SPAWNED" KILL || true
	check "the terminal is gone: the run stops" eventually 10 grep -q 'stopping.*the terminal is gone' "$TMP/terminal.log"
	check "the host is as it was" eventually 5 same_state "$TMP/untouched"
}

FILE=$TMP/aarptun.toml
build_lab
start_members
for n in 1 2; do
	ip -n "m$n" addr add $LO/128 dev lo nodad
done
"$AARPTUN" keygen psk --id old "$TMP/old"
"$AARPTUN" keygen psk --id new "$TMP/new"
(umask 077 && cp "$TMP/old" "$TMP/psk" && : >"$TMP/both")
responder 1 "$TMP/old"
responder 2 "$TMP/old"
files
mkdir -p /run/aarptun
host_state >"$TMP/untouched"
under_flows
bad
come_and_go
crash

if [ "$FAILED" -gt 0 ]; then
	echo "# $FAILED of $((PASSED + FAILED)) failed; the daemon's last words:"
	tail -20 "$TMP/aarptun.log" | sed 's/^/#   /'
	exit 1
fi
echo "# all $PASSED passed"

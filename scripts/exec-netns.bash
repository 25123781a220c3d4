# shellcheck shell=bash
# run --netns; sourced by exec-test.sh.

# run_in REF [FLAGS]: a run on the client's host that carries what is in another
# namespace; sets $DAEMON and returns when it is ready.
run_in() {
	local ref=$1
	shift
	: >"$TMP/ready"
	ip netns exec client "$AARPTUN" run --netns "$ref" -p $PREFIX -p $PREFIX4 --static $AA4=$UA1_4 --cache-ttl 1s "$@" \
		>"$TMP/ready" 2>"$TMP/netns.log" &
	DAEMON=$!
	PIDS+=("$DAEMON")
	eventually 10 grep -qx ready "$TMP/ready"
}

# ended SECONDS: the run ends by itself within that time, with exit code 0.
ended() {
	local status=0
	eventually "$1" not kill -0 "$DAEMON" || return 1
	wait "$DAEMON" || status=$?
	cat "$TMP/netns.log"
	[ "$status" = 0 ]
}

# network NETNS: what a run could change there.
network() {
	ip -n "$1" -o link
	ip -n "$1" addr
	ip -n "$1" rule
	ip -n "$1" -6 rule
	ip -n "$1" route show table all
	ip -n "$1" -6 route show table all
}
same_network() { diff "$TMP/$1.before" <(network "$1"); } # same_network NETNS

# carried NETNS ADDRESS6 ADDRESS4: it carries all that there is, from there.
carried() {
	check "$1: TCP reaches AA, from $2" says "^peer=\[$AA\]:$PORT local=$2 member=m1\$" on "$1" "$LAB" connect "[$AA]:$PORT"
	check "$1: so does UDP" says "^from=\[$AA\]:$PORT member=m1\$" on "$1" "$LAB" udp "[$AA]:$PORT"
	check "$1: so does a ping" says "^from=$AA bytes=56\$" on "$1" "$LAB" ping $AA
	check "$1: IPv4: TCP reaches AA, from $3" says "^peer=$AA4:$PORT local=$3 member=m1\$" on "$1" "$LAB" connect "$AA4:$PORT"
}

# resident NETNS: a process that lives in the namespace; its PID is in $SPAWNED.
resident() {
	spawn "$TMP/resident.log" ip netns exec "$1" sh -c 'echo in && exec sleep 1000'
	eventually 5 grep -qx in "$TMP/resident.log"
}

netns_refusals() {
	check "a name that there is not is refused" exits 78 aarptun run -p $PREFIX --netns nobody
	check "and the error says how to find one" fails_with "there is no network namespace \"nobody\": 'ip netns list' names" aarptun run -p $PREFIX --netns nobody
	check "so is a process that there is not" fails_with 'no process 999999 runs' aarptun run -p $PREFIX --netns 999999
	check "and a file that is no namespace" fails_with '/etc/passwd is no network namespace' aarptun run -p $PREFIX --netns /etc/passwd
	check "and one of another kind" fails_with 'is no network namespace' aarptun run -p $PREFIX --netns /proc/self/ns/pid
	check "and our own" fails_with 'that aarptun itself runs in' aarptun run -p $PREFIX --netns client
}

# by_name: a namespace that has nothing but a loopback.
by_name() {
	local i flows status=0
	ip netns add pod
	ip -n pod link set lo up
	network pod >"$TMP/pod.before"
	run_in pod
	carried pod 100::1 192.0.0.1
	check "the host has no device, rule or route of it" same_network client
	check "status tells of it" says '^device +aarptun0, MTU 1500' aarptun status
	ip netns exec pod "$LAB" flows --to "[$AA]:$PORT" --tcp 10 --udp 5 --for 20s --tag pod >"$TMP/pod.out" 2>&1 &
	flows=$!
	eventually 10 grep -qx started "$TMP/pod.out" || true
	for ((i = 0; i < 10; i++)); do
		flip
		sleep 0.1
	done
	stop "$flows" || status=$?
	check "15 flows with verified bytes survive 10 route flips" exits "$status" true
	route_to 1
	check "a second run there is refused" fails_with 'process [0-9]+ has the device aarptun0' aarptun run -p $PREFIX --netns pod --admin-socket /run/aarptun/second.sock
	check "SIGTERM ends it" stop "$DAEMON"
	check "and the namespace is as before" same_network pod
}

# killed: what kill -9 leaves in a namespace that lives on.
killed() {
	run_in pod
	stop "$DAEMON" KILL || true
	check "kill -9 leaves a rule there" not same_network pod
	check "the host's cleanup does not see it" says 'elsewhere, left alone: aarptun0' aarptun cleanup
	check "cleanup --netns takes it back" says 'removed ip -6 rule' aarptun cleanup --netns pod
	check "the namespace is as before" same_network pod
	run_in pod
	stop "$DAEMON" KILL || true
	run_in pod
	check "after another kill -9 the next run carries again" says member=m1 on pod "$LAB" connect "[$AA]:$PORT"
}

# name_goes: first the name of a namespace goes, then its last process.
name_goes() {
	resident pod
	local last=$SPAWNED
	ip netns del pod
	sleep 2.5 # longer than it takes to be noticed
	check "the name goes, a process stays: the run goes on" kill -0 "$DAEMON"
	check "and carries" says member=m1 nsenter --target "$last" --net "$LAB" connect "[$AA]:$PORT"
	stop "$last" || true
	check "the last process goes: the run ends, with exit code 0" ended 10
	check "and says why" grep -q 'level=INFO msg=stopping cause="the network namespace has gone: pod has neither a name nor a process"' "$TMP/netns.log"
	check "and leaves nothing on the host" same_network client
	check "nor a journal" test -z "$(ls /run/aarptun)"
}

# by_process: a namespace without a name that has an address of its own.
by_process() {
	spawn "$TMP/process.log" unshare --net sh -c 'echo in && exec sleep 1000'
	local pid=$SPAWNED
	eventually 5 grep -qx in "$TMP/process.log"
	ip netns attach brief "$pid" # only until it has been made
	ip -n brief link set lo up
	ip -n brief link add eth0 type veth peer name eth1
	ip -n brief link set eth1 up
	ip -n brief addr add 2001:db8:77::7/64 dev eth0 nodad
	ip -n brief addr add 198.18.77.7/24 dev eth0
	ip -n brief link set eth0 up
	run_in "$pid"
	carried brief 2001:db8:77::7 198.18.77.7
	check "the device has no address where there is one" not grep -qE '192.0.0.1|100::1' <(ip -n brief addr)
	stop "$DAEMON" || true
	run_in "/proc/$pid/ns/net"
	ip netns del brief
	check "by path: it carries too" says member=m1 nsenter --target "$pid" --net "$LAB" connect "[$AA]:$PORT"
	stop "$pid" KILL || true
	check "the process goes, and the run ends with exit code 0" ended 10
}

test_netns() {
	mkdir -p /run/aarptun
	network client >"$TMP/client.before"
	netns_refusals
	by_name
	killed
	name_goes
	by_process
}

#!/usr/bin/env bash
# What a daemon lives through, and how it ends: other programs that take away what
# it has set, links that go down and up, a host that hangs, a full disk, an abused
# admin socket, a deleted device, and kill -9 at each step of its start. Real
# kernels, in namespaces of the script's own, as in netns-test.sh.
set -euo pipefail

usage() {
	cat <<-END
		usage: scripts/fault-test.sh [PART ...]

		  (nothing)  all parts
		  others     routes and rules removed, and the device set down, under flows
		  links      the uplink down and up, its carrier, its MTU, under flows
		  life       privileges, watchdog, drain, a deleted device
		  disk       a full file system under the journal
		  admin      1,000 connections to the admin socket that mean harm, under flows
		  kill       kill -9 before each system call of the start that changes something

		AARPTUN and LAB may name binaries to use instead of building them.
		Exit code 77: this kernel or user may not make the namespaces.
	END
}

ROOT=$(cd "$(dirname "$0")/.." && pwd)

# shellcheck source=scripts/lab.bash
. "$ROOT/scripts/lab.bash"
command_line "others links life disk admin kill" "$@"

into_namespaces AARPTUN:cmd/aarptun LAB:scripts/lab


# whole_state NETNS [DIR]: all that a program could have changed there.
whole_state() {
	ip -n "$1" -d link | sed -E 's/ (numtx|numrx)queues [0-9]+//g'
	ip -n "$1" addr
	ip -n "$1" rule
	ip -n "$1" -6 rule
	ip -n "$1" route show table all
	ip -n "$1" -6 route show table all
	if command -v nft >/dev/null; then on "$1" nft list ruleset; fi
	on "$1" sh -c 'find /proc/sys/net -type f ! -name "*count*" ! -name "*flush*" ! -name stable_secret -exec grep -H "" {} + 2>/dev/null' | sort
	find "${2:-/run/aarptun}" -mindepth 1 -printf '%p %m %u %s\n' 2>/dev/null || true
}

remember() { whole_state "${1:-client}" >"$TMP/state.before"; }
same() { diff "$TMP/state.before" <(whole_state "${1:-client}"); }

# carrying is the part of the state that aarptun has set.
carrying() {
	ip -n client -d link show aarptun0
	for family in -4 -6; do
		ip -n client $family rule
		ip -n client $family route show table 170
	done
}
carries_again() { diff "$TMP/carrying" <(carrying); }

repairs() { aarptun status | sed -n 's/^tun.repairs *//p'; }

# taken_away WHAT COMMAND...: in the client's namespace, and all is back. The
# clients in $QUIET are silent for that moment: what one sends meanwhile goes to the
# network, and to a member that has never heard of its flow.
taken_away() {
	local what=$1 before
	shift
	before=$(repairs)
	kill -STOP "$QUIET"
	sleep 0.1 # what is on its way arrives
	on client "$@" || true # a flush that finds it all back says so by its exit code
	check "$what: it is back" eventually 5 carries_again
	check "$what: that was counted" test "$(repairs)" -gt "${before:-0}"
	kill -CONT "$QUIET"
}

others() {
	local busy
	echo "# other programs, under flows"
	remember
	start_aarptun
	carrying >"$TMP/carrying"
	start_flows quiet "[$AA]:$PORT" --tcp 20
	QUIET=$SPAWNED
	start_flows busy "[$AA]:$PORT" --tcp 20
	busy=$SPAWNED
	taken_away "ip -6 rule del" ip -6 rule del priority 17000
	taken_away "ip -4 rule flush protocol" ip -4 rule flush protocol 170
	taken_away "ip -6 rule flush protocol" ip -6 rule flush protocol 170
	taken_away "ip -6 route flush table" ip -6 route flush table 170
	taken_away "ip -4 route flush table" ip -4 route flush table 170
	taken_away "ip -6 route flush proto" ip -6 route flush table all proto 170
	taken_away "ip link set down" ip link set aarptun0 down
	taken_away "ip link set mtu" ip link set aarptun0 mtu 1280
	check "the log names who did it" grep -q 'it is back.*by_process=' "$TMP/aarptun.log"
	check "the flows went on, 0 broken" none_broke quiet "$QUIET"
	none_broke busy "$busy" >"$TMP/broken" || true
	echo "# of 20 flows that sent 50 times a second all the while: $(head -1 "$TMP/broken")"
	check "the daemon ends with exit code 0" stop "$DAEMON"
	check "the host is as before" same
}
QUIET=

# uplink_up puts back what the kernel dropped with the link.
uplink_up() {
	ip -n client link set eth0 up
	ip -n client -6 route replace default via 2001:db8:1::1
	ip -n client route replace default via 203.0.113.1
}

links() {
	local flows
	echo "# links, under flows"
	set_sysctl client ipv6.conf.all.keep_addr_on_down 1 # as it is on servers
	set_sysctl router ipv6.conf.all.keep_addr_on_down 1
	start_aarptun
	start_flows links "[$AA]:$PORT" --tcp 20
	flows=$SPAWNED
	ip -n client link set eth0 down
	check "the uplink is down: a new flow is told that the network is unreachable" not lab connect --timeout 1s "[$AA]:$PORT"
	uplink_up
	check "it is up: a new flow is carried" eventually 5 lab connect --timeout 1s "[$AA]:$PORT"
	ip -n router link set c0 down
	sleep 0.3
	ip -n router link set c0 up
	check "its carrier is back: a new flow is carried" eventually 5 lab connect --timeout 1s "[$AA]:$PORT"
	ip -n client link set eth0 mtu 1300
	ip -n router link set c0 mtu 1300
	check "its MTU is smaller: a new flow is carried" lab connect --timeout 5s "[$AA]:$PORT"
	check "and a large ping is" eventually 5 lab ping --size 4000 $AA
	ip -n client link set eth0 mtu 1500
	ip -n router link set c0 mtu 1500
	ip -n client addr add 2001:db8:1::77/64 dev eth0 nodad
	ip -n client addr del 2001:db8:1::77/64 dev eth0
	check "the flows of before went on, 0 broken" none_broke links "$flows"
	check "the daemon ends with exit code 0" stop "$DAEMON"
}

# promised: what the README promises of each of its threads.
promised() {
	local status seen=0
	for status in /proc/"$DAEMON"/task/*/status; do
		seen=$((seen + 1))
		diff - <(grep -E '^(Cap|NoNewPrivs)' "$status") <<-END || return 1
			CapInh:	0000000000000000
			CapPrm:	0000000000001000
			CapEff:	0000000000001000
			CapBnd:	0000000000000000
			CapAmb:	0000000000000000
			NoNewPrivs:	1
		END
	done
	echo "$seen threads"
	[ "$seen" -gt 2 ]
}

# pings: how often systemd's watchdog has heard.
pings() { grep -c WATCHDOG=1 "$TMP/notify.out" || true; }
pings_exceed() { [ "$(pings)" -gt "$1" ]; }

life() {
	local flows before status=0
	echo "# privileges, watchdog, drain, the end"
	remember
	spawn "$TMP/notify.out" "$LAB" notify --socket "$TMP/notify.sock"
	eventually 5 grep -q listening "$TMP/notify.out"
	export NOTIFY_SOCKET=$TMP/notify.sock WATCHDOG_USEC=300000
	mkdir "$TMP/etc" "$TMP/elsewhere"
	"$AARPTUN" keygen psk "$TMP/elsewhere/a.psk" >/dev/null
	echo 'unresolved = "direct"' >"$TMP/etc/a.toml"
	start_aarptun -c "$TMP/etc/a.toml" --drain-timeout 3s
	unset NOTIFY_SOCKET WATCHDOG_USEC
	check "each thread has CAP_NET_ADMIN and no more" promised
	if grep -q 'landlock=' "$TMP/aarptun.log"; then
		echo "psk-file = '$TMP/elsewhere/a.psk'" >"$TMP/etc/a.toml"
		kill -HUP "$DAEMON"
		check "a reload reads its file, and may read none in another directory" \
			eventually 5 says "^reload +failed .*a.psk.*permission denied" aarptun status
		echo 'unresolved = "reject"' >"$TMP/etc/a.toml"
		kill -HUP "$DAEMON"
		check "and goes on with the next one" eventually 5 not says '^reload +failed' aarptun status
	fi
	check "systemd hears that it is ready" eventually 5 grep -q READY=1 "$TMP/notify.out"
	check "and that it lives" eventually 5 pings_exceed 3
	kill -STOP "$DAEMON"
	sleep 0.2
	before=$(pings)
	sleep 0.8
	check "a daemon that hangs is silent" test "$(pings)" = "$before"
	kill -CONT "$DAEMON"
	check "and is heard again when it goes on" eventually 5 pings_exceed "$((before + 2))"

	start_flows drain "[$AA]:$PORT" --tcp 10 --udp 3
	flows=$SPAWNED
	check "systemd hears of the flows" eventually 15 grep -q 'STATUS=carrying 13 flows' "$TMP/notify.out"
	kill "$DAEMON"
	check "a stop is said" eventually 5 grep -q 'STOPPING=1.*3s' "$TMP/notify.out"
	check "meanwhile a new flow meets silence" fails_with TIMEOUT lab connect --timeout 500ms "[$AA]:$PORT"
	check "flows that end by themselves end well, 0 broken" none_broke drain "$flows"
	wait "$DAEMON" || status=$?
	check "the daemon ends with exit code 0, its flows having gone or been cut" exits "$status" true
	check "the host is as before" same

	start_aarptun
	ip -n client link del aarptun0
	status=0
	wait "$DAEMON" || status=$?
	check "the device is deleted: it ends with exit code 1" test "$status" = 1
	check "and says why" grep -q '^aarptun: tun: the device is gone: another program has deleted aarptun0' "$TMP/aarptun.log"
	check "the host is as before" same
	as_user
}

# as_user: another user starts it, with two ambient capabilities, as a unit does.
as_user() {
	local uid=4242 dir=/run/as-user status=0
	mkdir -p "$TMP/dev" "$dir"
	if ! command -v setpriv >/dev/null || ! mount -t tmpfs -o mode=755,dev tmpfs "$TMP/dev" || ! mknod -m 666 "$TMP/dev/tun" c 10 200 2>/dev/null ||
		! mount --bind "$TMP/dev" /dev/net || ! chown $uid "$dir" 2>/dev/null; then
		echo "# skipped: there is no other user here, or no setpriv, or no device can be made for one"
		umount /dev/net "$TMP/dev" 2>/dev/null || true
		return
	fi
	cp "$AARPTUN" "$dir/aarptun"
	remember
	: >"$TMP/ready"
	ip netns exec client setpriv --reuid $uid --regid $uid --clear-groups --inh-caps=+net_admin,+net_raw --ambient-caps=+net_admin,+net_raw \
		"$dir/aarptun" run -p $PREFIX --state-dir "$dir" --admin-socket "$dir/admin.sock" >"$TMP/ready" 2>>"$TMP/aarptun.log" &
	DAEMON=$!
	PIDS+=("$DAEMON")
	check "another user starts it" eventually 5 grep -qx ready "$TMP/ready"
	check "it has CAP_NET_ADMIN and no more" says '^CapEff:.0000000000001000$' grep CapEff "/proc/$DAEMON/status"
	check "it carries" lab connect --timeout 5s "[$AA]:$PORT"
	check "it ends with exit code 0" stop "$DAEMON"
	check "the host is as before" same
	check "and nothing of it is left in its directory" test "$(ls -A "$dir")" = aarptun
	umount /dev/net "$TMP/dev"
}

run_in() { # run_in DIR FLAGS...: in the foreground
	local dir=$1
	shift
	aarptun run -p $PREFIX --state-dir "$dir" --admin-socket "$dir/admin.sock" "$@"
}

disk() {
	local dir=$TMP/full
	echo "# a full disk"
	remember
	mkdir "$dir"
	mount -t tmpfs -o size=8k tmpfs "$dir"
	cp /dev/zero "$dir/filler" 2>/dev/null || true
	check "no room for the journal: the start is refused with exit code 78" exits 78 run_in "$dir"
	check "it says so" fails_with "no space left on device.*--state-dir" run_in "$dir"
	check "the host is as before" same
	rm "$dir/filler"
	start_aarptun --state-dir "$dir" --admin-socket "$dir/admin.sock"
	cp /dev/zero "$dir/filler" 2>/dev/null || true
	check "the disk fills up while it runs: it ends with exit code 0" stop "$DAEMON"
	check "and the host is as before" same
	check "nothing of it is left there" test "$(ls "$dir")" = filler
	rm "$dir/filler"
	start_aarptun --state-dir "$dir" --admin-socket "$dir/admin.sock"
	cp /dev/zero "$dir/filler" 2>/dev/null || true
	stop "$DAEMON" KILL || true
	check "and it is killed then: cleanup takes it back" aarptun cleanup --state-dir "$dir" --admin-socket "$dir/admin.sock"
	check "and the host is as before" same
	umount "$dir"
}

# bounded: the daemon holds no more than it should under abuse.
bounded() {
	local files threads
	files=$(ls /proc/"$DAEMON"/fd | wc -l)
	threads=$(ls /proc/"$DAEMON"/task | wc -l)
	echo "$files files, $threads threads, $(grep VmRSS /proc/"$DAEMON"/status)"
	[ "$files" -lt "$(($1 + 100))" ] && [ "$threads" -lt 64 ] && [ "$(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' /proc/"$DAEMON"/status)" -lt 262144 ]
}

admin() {
	local flows files harm status=0
	echo "# an abused admin socket, under flows"
	start_aarptun
	start_flows admin "[$AA]:$PORT" --tcp 20 --udp 10
	flows=$SPAWNED
	files=$(ls /proc/"$DAEMON"/fd | wc -l)
	spawn "$TMP/abuse.out" "$LAB" abuse --socket /run/aarptun/admin.sock --connections 1000 --for 3s
	harm=$SPAWNED
	sleep 2
	check "1,000 connections that mean harm: the daemon is bounded" bounded "$files"
	check "new flows are carried meanwhile" lab connect --timeout 5s "[$AA]:$PORT"
	wait "$harm" || status=$?
	check "they could connect: $(tail -1 "$TMP/abuse.out")" test "$status" = 0
	check "then status answers again" eventually 5 aarptun status
	check "the flows went on, 0 broken" none_broke admin "$flows"
	check "the daemon ends with exit code 0" stop "$DAEMON"
}

# STEPS are the system calls by which a start changes anything; two lists, for two
# hosts side by side.
STEPS=("sendto" "ioctl mkdirat flock ftruncate pwrite64 fsync fchmod renameat unlinkat landlock_restrict_self")

# step HOST CALL N: starts, and is killed before the Nth CALL of a thread; fails if
# it gets so far as to be ready.
step() {
	local pid daemon tries sandbox=off # "on" takes long when each system call is traced
	[ "$2" != landlock_restrict_self ] || sandbox=auto
	: >"$TMP/$1.out"
	on "$1" env GOMAXPROCS=1 strace -f -qq -o /dev/null -e "trace=$2" -e "inject=$2:signal=KILL:when=$3" \
		"$AARPTUN" run -p $PREFIX -p $PREFIX4 --sandbox $sandbox --state-dir "/run/$1" --admin-socket "/run/$1/admin.sock" >"$TMP/$1.out" 2>"$TMP/$1.log" &
	pid=$!
	for ((tries = 0; tries < 500; tries++)); do
		kill -0 "$pid" 2>/dev/null || break
		if grep -qx ready "$TMP/$1.out"; then
			daemon=$(on "$1" "$AARPTUN" status --json --admin-socket "/run/$1/admin.sock" 2>/dev/null | sed 's/.*"pid":\([0-9]*\).*/\1/') || break # killed since
			kill -KILL "$daemon" && wait "$pid" || true
			return 1
		fi
		sleep 0.02
	done
	wait "$pid" || true
}

# taken_back HOST TEXT: cleanup takes back what is left there; says what it does not.
taken_back() {
	[ -z "$(ls -A "/run/$1")" ] || echo left
	on "$1" "$AARPTUN" cleanup --state-dir "/run/$1" --admin-socket "/run/$1/admin.sock" >"$TMP/$1.cleanup" 2>&1 || echo "wrong $2: cleanup: $(cat "$TMP/$1.cleanup")"
	diff "$TMP/$1.before" <(whole_state "$1" "/run/$1") >"$TMP/$1.diff" || echo "wrong $2: left behind: $(cat "$TMP/$1.diff")"
}

# kills_on HOST CALL...: a line "step" for each kill, and "left" and "wrong".
kills_on() {
	local host=$1 call n
	shift
	ip netns add "$host"
	ip -n "$host" link set lo up
	mkdir "/run/$host"
	whole_state "$host" "/run/$host" >"$TMP/$host.before"
	for call in "$@"; do
		for ((n = 1; n <= 60; n++)); do
			step "$host" "$call" "$n" || break
			echo "step $call $n"
			taken_back "$host" "$call $n"
		done
		taken_back "$host" "$call: ready, and then killed"
	done
}

kills() {
	local i pids=()
	echo "# kill -9 at each step of the start"
	if ! command -v strace >/dev/null || ! strace -o /dev/null true 2>/dev/null; then
		echo "# skipped: there is no strace here that may trace"
		return
	fi
	for i in 0 1; do
		# shellcheck disable=SC2086 # a list
		kills_on "solo$i" ${STEPS[i]} >"$TMP/kills$i" 2>&1 &
		pids+=("$!")
	done
	wait "${pids[@]}"
	check "it was killed at $(cat "$TMP"/kills? | grep -c ^step) steps" test "$(cat "$TMP"/kills? | grep -c ^step)" -ge 20
	check "after $(cat "$TMP"/kills? | grep -c ^left) kills something was left" test "$(cat "$TMP"/kills? | grep -c ^left)" -ge 20
	check "cleanup took all of it back, each time" not grep -hvE '^(step|left)' "$TMP"/kills?
}

build_lab
start_members
for n in 1 2; do
	ip -n "m$n" addr add $LO/128 dev lo nodad
	spawn "$TMP/responder$n.log" ip netns exec "m$n" "$AARPTUN" member --anycast $LO
done
for part in "${PARTS[@]}"; do
	case "$part" in
	kill) kills ;;
	*) "$part" ;;
	esac
done

if [ "$FAILED" -gt 0 ]; then
	echo "# $FAILED of $((PASSED + FAILED)) failed; the daemon's last words:"
	tail -20 "$TMP/aarptun.log" | sed 's/^/#   /'
	exit 1
fi
echo "# all $PASSED passed"

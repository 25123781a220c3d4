#!/usr/bin/env bash
# The systemd units, as far as they can be tried where systemd does not run: what
# it thinks of them, and the daemon at work under what they allow: as nobody with
# two capabilities, on a host it cannot write to, with no devices but the TUN, and
# with every system call it makes held against the filter. Real kernels, in
# namespaces of the script's own, as in netns-test.sh.
set -euo pipefail

usage() {
	cat <<-END
		usage: scripts/unit-test.sh

		AARPTUN, LAB and PAGES may name binaries to use instead of building them.
		Exit code 77: this kernel or user may not make the namespaces, or there is no
		strace or systemd-analyze.
	END
}

ROOT=$(cd "$(dirname "$0")/.." && pwd)

# shellcheck source=scripts/lab.bash
. "$ROOT/scripts/lab.bash"
command_line "" "$@"

if [ -z "$INSIDE" ]; then
	for tool in strace systemd-analyze setpriv; do
		command -v $tool >/dev/null || cannot "there is no '$tool' command"
	done
	# Another user id is needed, and a user namespace of one user has none.
	[ "$(id -u)" = 0 ] || cannot "run as root: the service is another user"
fi
into_namespaces AARPTUN:cmd/aarptun LAB:scripts/lab PAGES:scripts/pages

UNITS=$ROOT/packaging
SERVICE_UID=64123 # nobody has it

# unit_files: the units with the program where it is, and its pages.
unit_files() {
	mkdir -p "$TMP/units" "$TMP/man/man8" "$TMP/man/man5"
	"$AARPTUN" help --json | "$PAGES" man -date 0 -config "$ROOT/internal/config/reference.toml" "$TMP/man/all"
	mv "$TMP"/man/all/*.8 "$TMP/man/man8"
	mv "$TMP"/man/all/*.5 "$TMP/man/man5"
	local unit
	for unit in aarptun aarptun-member; do
		sed "s,/usr/bin/aarptun,$AARPTUN," "$UNITS/$unit.service" >"$TMP/units/$unit.service"
	done
}

# verify UNIT: systemd-analyze finds nothing to say about it, but that systemd before
# 253 does not know notify-reload.
verify() {
	local out status=0
	out=$(MANPATH=$TMP/man systemd-analyze verify "$TMP/units/$1.service" 2>&1) || status=$?
	echo "$out"
	if [ "$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')" -lt 253 ]; then
		out=$(grep -vx '.*: Failed to parse service type, ignoring: notify-reload' <<<"$out" || true)
	fi
	[ "$status" = 0 ] && [ -z "$out" ]
}

# exposure UNIT TENTHS: systemd-analyze rates it so or better.
exposure() { systemd-analyze security --offline=yes --no-pager --threshold="$2" "$TMP/units/$1.service"; }

# setting UNIT NAME: its values, one a line.
setting() { sed -n "s/^$2=//p" "$UNITS/$1.service"; }

# calls_of SET: the system calls of a set such as @process, and of those in it.
calls_of() {
	local name
	systemd-analyze syscall-filter --no-pager "$1" | sed -n 's/^    \([@a-z0-9_-]*\)$/\1/p' | while read -r name; do
		case "$name" in
		@*) calls_of "$name" ;;
		*) echo "$name" ;;
		esac
	done
}

# allowed_calls UNIT: what its filter lets through; the lines count in their order.
allowed_calls() {
	local line word name op
	setting "$1" SystemCallFilter | while read -r line; do
		op=+
		[ "${line#\~}" = "$line" ] || op=-
		for word in ${line#\~}; do
			case "$word" in
			@*) calls_of "$word" ;;
			*) echo "$word" ;;
			esac | sed "s/^/$op /"
		done
	done | awk '$1 == "+" {allowed[$2] = 1} $1 == "-" {delete allowed[$2]} END {for (name in allowed) print name}' | sort
}

# under_unit UNIT TRACE COMMAND...: becomes the command in the client's namespace, as
# the unit would have it. Its system calls are written to the file TRACE.
under_unit() {
	local unit=$1 trace=$2 caps
	shift 2
	caps=-all$(setting "$unit" AmbientCapabilities | tr ' ' '\n' | sed -n 's/^CAP_\(.*\)/,+\L\1/p' | tr -d '\n')
	exec env TMP="$TMP" UNIT_CAPS="$caps" UNIT_UID=$SERVICE_UID UNIT_TRACE="$trace" ip netns exec "$WHERE" unshare --mount bash -euc '
		mount --make-rprivate /
		mkdir -p "$TMP/dev"
		mount -t tmpfs -o mode=755 tmpfs "$TMP/dev"
		mkdir "$TMP/dev/net"
		for node in null zero urandom random net/tun; do
			mknod -m 666 "$TMP/dev/$node" c $(stat -c "0x%t 0x%T" "/dev/$node")
		done
		mount --bind "$TMP/dev" /dev
		mount -o remount,bind,ro /
		mount -t proc -o subset=pid,hidepid=invisible proc /proc
		exec strace -D -f -qq -c -U name,calls -o "$UNIT_TRACE" \
			setpriv --reuid "$UNIT_UID" --regid "$UNIT_UID" --clear-groups --no-new-privs --inh-caps "$UNIT_CAPS" --ambient-caps "$UNIT_CAPS" --bounding-set "$UNIT_CAPS" "$@"
	' under_unit "$@"
}
WHERE=client

# spawn_unit UNIT LOG COMMAND...: in the background; its PID is in $SPAWNED.
spawn_unit() {
	spawn "$2" under_unit "$1" "$TMP/$1.trace" "${@:3}"
}

# traced UNIT: the tracer, which ends by itself, has written what it saw.
traced() { eventually 5 test -s "$TMP/$1.trace"; }

# calls_made UNIT: the system calls in its trace.
calls_made() { awk 'NF == 2 && $2 ~ /^[0-9]+$/ && $1 != "total" {print $1}' "$TMP/$1.trace" | sort -u; }

# all_allowed UNIT: each call that it made passes its filter.
all_allowed() {
	traced "$1" || return 1
	echo "$(calls_made "$1" | wc -l) kinds of calls"
	[ "$(calls_made "$1" | wc -l)" -gt 20 ] || return 1
	local over
	# setpriv, before the program: systemd does that before the filter.
	over=$(comm -23 <(calls_made "$1") <(allowed_calls "$1") | grep -vxE 'setgroups|setresuid|setresgid|capset')
	[ -z "$over" ] || {
		echo "the filter forbids: ${over//$'\n'/ }"
		return 1
	}
}

# forbids UNIT CALL...: its filter lets none of them through.
forbids() {
	local unit=$1 call
	shift
	for call in "$@"; do
		! allowed_calls "$unit" | grep -qx "$call" || {
			echo "$call is allowed"
			return 1
		}
	done
}

# allows UNIT CALL: its filter lets it through.
allows() { allowed_calls "$1" | grep -qx "$2"; }

# is_nobody PID EFFECTIVE BOUNDING: it is the service's user with those capabilities,
# as masks.
is_nobody() {
	grep -E '^(Uid|Groups|Cap|NoNewPrivs)' "/proc/$1/status"
	grep -q "^Uid:.$SERVICE_UID.$SERVICE_UID.$SERVICE_UID.$SERVICE_UID\$" "/proc/$1/status" && grep -q '^NoNewPrivs:.1' "/proc/$1/status" &&
		grep -q "^CapEff:.0*$2\$" "/proc/$1/status" && grep -q "^CapBnd:.0*$3\$" "/proc/$1/status"
}

same_state() { diff "$TMP/state.before" <(host_state); }

# runtime_directory NAME: as systemd makes it.
runtime_directory() { install -d -m 755 -o $SERVICE_UID -g $SERVICE_UID "/run/$1"; }

units() {
	local unit
	echo "# what systemd thinks of the units"
	unit_files
	for unit in aarptun aarptun-member; do
		check "$unit.service: systemd-analyze verify finds nothing" verify $unit
		check "$unit.service: systemd-analyze security rates it 2.0 or better" exposure $unit 20
		check "$unit.service: its filter forbids what no such program needs" forbids $unit mount setuid setresuid ptrace bpf init_module kexec_load reboot keyctl chroot pivot_root
	done
}

# exec_start UNIT: the command of the unit, but for where program and file are.
exec_start() { setting "$1" ExecStart | sed "s,/usr/bin/aarptun,$AARPTUN,; s,/etc/aarptun/aarptun.toml,$TMP/aarptun.toml,"; }

start_service() {
	rm -f "$TMP/service.log"
	# shellcheck disable=SC2046 # words without spaces
	spawn_unit aarptun "$TMP/service.log" $(exec_start aarptun)
	DAEMON=$SPAWNED
	eventually 20 grep -qx ready "$TMP/service.log"
}

# not_again PID: its exit code is one after which systemd leaves it.
not_again() {
	local status=0
	wait "$1" || status=$?
	echo "exit code $status"
	setting aarptun RestartPreventExitStatus | tr ' ' '\n' | grep -qx "$status"
}

service() {
	echo "# the service under its unit"
	runtime_directory aarptun
	host_state >"$TMP/state.before"
	cp "$ROOT/internal/config/reference.toml" "$TMP/aarptun.toml"
	spawn_unit aarptun "$TMP/empty.log" "$AARPTUN" run -c "$TMP/aarptun.toml"
	check "as it is installed it asks for nothing, and is not started again for that" not_again "$SPAWNED"
	check "and says why" grep -q 'no anycast prefix' "$TMP/empty.log"
	sed -i "s,^#prefix = .*,prefix = [\"$PREFIX\"\, \"$PREFIX_LO\"]," "$TMP/aarptun.toml"
	check "it starts" start_service
	check "it is nobody, and of its two capabilities has kept CAP_NET_ADMIN" is_nobody "$DAEMON" 1000 3000
	check "TCP reaches a member" eventually 5 says 'member=m1$' lab connect "[$AA]:$PORT"
	check "UDP does" says 'member=m1$' lab udp "[$AA]:$PORT"
	check "ping does" says "^from=$AA " lab ping $AA
	check "a member with a responder is found" says 'member=m1$' lab connect "[$LO]:$PORT"
	check "status is told" says 'prefixes' aarptun status
	sed -i "s,^prefix = \[,prefix = [\"$PREFIX_LO4\"\, ," "$TMP/aarptun.toml"
	kill -HUP "$DAEMON" || true
	check "SIGHUP: another prefix is carried" eventually 5 says "$PREFIX_LO4" aarptun status
	echo 'nonsense = 1' >>"$TMP/aarptun.toml"
	kill -HUP "$DAEMON" || true
	check "SIGHUP with a wrong file: it says so" eventually 5 grep -q nonsense "$TMP/service.log"
	check "and goes on" says 'member=m1$' lab connect "[$AA]:$PORT"
	sed -i '$d' "$TMP/aarptun.toml"
	check "SIGTERM ends it with exit code 0" stop "$DAEMON"
	check "the host is as before" same_state
	check "every system call it made passes the filter" all_allowed aarptun
	check "with capset, by which it gives up capabilities" allows aarptun capset
	rm "$TMP/aarptun.trace"
	check "it starts again" start_service
	stop "$DAEMON" KILL || true
	check "kill -9 leaves something behind" not same_state
	spawn_unit aarptun "$TMP/cleanup.log" "$AARPTUN" cleanup
	check "what ExecStopPost= runs takes it back" wait "$SPAWNED"
	check "the host is as before" same_state
}

member() {
	echo "# the member under its unit"
	WHERE=m2
	ip -n m2 addr add $LO/128 dev lo nodad
	spawn_unit aarptun-member "$TMP/member-unit.log" "$AARPTUN" member --anycast $LO --check-tcp $PORT
	local pid=$SPAWNED
	check "it answers" eventually 20 grep -q 'state=answering' "$TMP/member-unit.log"
	check "it is nobody, without capabilities" is_nobody "$pid" 0 0
	route_to 2
	check "a client finds it" says "^$UA2\$" on router "$AARPTUN" resolve $LO
	check "SIGTERM ends it with exit code 0" stop "$pid"
	check "every system call it made passes the filter" all_allowed aarptun-member
}

build_lab
start_members
ip -n m1 addr add $LO/128 dev lo nodad
spawn "$TMP/responder1.log" ip netns exec m1 "$AARPTUN" member --anycast $LO
units
service
member

if [ "$FAILED" -gt 0 ]; then
	echo "# $FAILED of $((PASSED + FAILED)) failed; the daemon's last words:"
	tail -20 "$TMP/service.log" | sed 's/^/#   /'
	exit 1
fi
echo "# all $PASSED passed"

# shellcheck shell=bash
# The network of the end-to-end tests: sourced by netns-test.sh, members-test.sh,
# gateway-test.sh, attack.sh and fidelity.sh, which live in namespaces of their own.
#
#	client -- router -- m1
#	                 \- m2
#
# Both members join the anycast address AA; the router's route decides which of
# them a packet to AA reaches, and flip changes its mind.

AA=2001:db8:aa::1
DEAD=2001:db8:aa::dead # in the prefix, routed, and joined by nobody
PREFIX=2001:db8:aa::/64
AA4=198.51.100.1 # no route on the network leads there at all
PREFIX4=198.51.100.0/24
LO=2001:db8:ab::1 # on the members' lo, the usual way with BGP; so is this one:
LO4=203.0.113.193
PREFIX_LO=2001:db8:ab::/64
PREFIX_LO4=203.0.113.192/26
UA1=2001:db8:11::2
UA2=2001:db8:12::2
UA1_4=192.0.2.2
UA2_4=192.0.2.130
AA3=2001:db8:aa::3 # of the steady member, which never dies
AA3_4=198.51.100.3
UA3=2001:db8:13::2
UA3_4=198.18.3.2
CLIENT=2001:db8:1::2
PORT=7000

# command_line "PART ..." ARGUMENTS...: sets PARTS to those that the arguments name,
# to all if they name none, and INSIDE in the namespaces. It ends the script for
# --help, and for what it does not know; the script has a function usage.
command_line() {
	local known=" $1 " word
	shift
	INSIDE='' PARTS=()
	for word; do
		case "$word" in
		--inside) INSIDE=1 ;;
		-h | --help)
			usage
			exit 0
			;;
		*)
			if [[ "$known" != *" $word "* ]]; then
				usage >&2
				exit 64
			fi
			PARTS+=("$word")
			;;
		esac
	done
	[ ${#PARTS[@]} -gt 0 ] || read -ra PARTS <<<"$known"
}

# into_namespaces VARIABLE:PACKAGE...: the rest of the script runs in namespaces of
# its own, with those programs, a /run and the assertions of check.bash.
into_namespaces() {
	if [ -z "$INSIDE" ]; then
		build "$@"
		enter_namespaces "$ROOT/scripts/${0##*/}" --inside "${PARTS[@]}"
	fi
	own_run
	# shellcheck source=scripts/check.bash
	. "$ROOT/scripts/check.bash"
}

# enter_namespaces SCRIPT ARGUMENTS...: becomes the script in new mount, network
# and pid namespaces, as root there. Exit code 77: not allowed, and why.
enter_namespaces() {
	local flags=(--mount --net --pid --fork --kill-child --mount-proc)
	[ "$(id -u)" = 0 ] || flags+=(--user --map-root-user)
	command -v ip >/dev/null || cannot "there is no 'ip' command: install iproute2"
	unshare "${flags[@]}" true 2>/dev/null ||
		cannot "this user may not make namespaces: run as root, or allow it: sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000"
	[ -c /dev/net/tun ] || cannot "/dev/net/tun is missing: modprobe tun"
	[ -r /dev/net/tun ] && [ -w /dev/net/tun ] || cannot "this user may not open /dev/net/tun: run as root, or allow it: chmod 0666 /dev/net/tun"
	exec unshare "${flags[@]}" "$@"
}

# cannot REASON: says why not, and what allows it.
cannot() {
	echo "${0##*/}: $1" >&2
	exit 77
}

# build VARIABLE:PACKAGE...: builds each program that its variable does not name.
build() {
	local pair name
	cd "$ROOT"
	for pair in "$@"; do
		name=${pair%%:*}
		if [ -z "${!name:-}" ]; then
			CGO_ENABLED=0 go build -trimpath -o "bin/${pair##*/}" "./${pair#*:}"
			printf -v "$name" %s "$ROOT/bin/${pair##*/}"
		fi
		export "${name?}"
	done
}

# own_run: a /run that nobody else sees, with $TMP in it, and a loopback.
own_run() {
	mount -t tmpfs tmpfs /run
	TMP=/run/lab
	mkdir -p "$TMP" /run/netns
	ip link set lo up
}

on() { ip netns exec "$@"; }
lab() { on client "$LAB" "$@"; }
aarptun() { on client "$AARPTUN" "$@"; }

# connect A DEV_A ADDR_A ADDR4_A B DEV_B ADDR_B ADDR4_B: a wire between two hosts.
connect() {
	ip link add "$2" netns "$1" type veth peer name "$6" netns "$5"
	local ns dev addr addr4
	while [ $# -gt 0 ]; do
		ns=$1 dev=$2 addr=$3 addr4=$4
		shift 4
		# nodad: duplicate address detection takes the first second.
		ip -n "$ns" addr add "$addr/64" dev "$dev" nodad
		ip -n "$ns" addr add "$addr4/25" dev "$dev"
		ip -n "$ns" link set "$dev" up
	done
}

set_sysctl() { # set_sysctl NETNS NAME VALUE
	on "$1" sh -c "echo $3 >/proc/sys/net/${2//.//}"
}

build_lab() {
	local ns
	for ns in client router m1 m2; do
		ip netns add "$ns"
		set_sysctl "$ns" ipv6.conf.all.accept_dad 0
		set_sysctl "$ns" ipv6.conf.default.accept_dad 0
		ip -n "$ns" link set lo up
	done
	# Without it a host may join an anycast address only in a prefix that is
	# on-link for it, and then its address there could be taken for UA.
	for ns in router m1 m2; do
		set_sysctl "$ns" ipv6.conf.all.forwarding 1
	done
	set_sysctl router ipv4.ip_forward 1
	connect client eth0 $CLIENT 203.0.113.2 router c0 2001:db8:1::1 203.0.113.1
	connect m1 eth0 $UA1 $UA1_4 router m1 2001:db8:11::1 192.0.2.1
	connect m2 eth0 $UA2 $UA2_4 router m2 2001:db8:12::1 192.0.2.129
	for ns in client:2001:db8:1::1,203.0.113.1 m1:2001:db8:11::1,192.0.2.1 m2:2001:db8:12::1,192.0.2.129; do
		local gateways=${ns#*:}
		ip -n "${ns%%:*}" route add default via "${gateways#*,}"
		ip -n "${ns%%:*}" -6 route add default via "${gateways%,*}"
	done
	ip -n router -6 route add $DEAD/128 via $UA1
	route_to 1
}

# add_steady_member: a third member, whose anycast addresses are not on the
# network: they are in the configuration of who wants them.
add_steady_member() {
	ip netns add m3
	set_sysctl m3 ipv6.conf.all.accept_dad 0
	ip -n m3 link set lo up
	connect m3 eth0 $UA3 $UA3_4 router m3 2001:db8:13::1 198.18.3.1
	ip -n m3 route add default via 198.18.3.1
	ip -n m3 -6 route add default via 2001:db8:13::1
}

# route_to N: from now on the network delivers AA to member N.
route_to() {
	local ua=UA$1
	ip -n router -6 route replace $AA/128 via "${!ua}"
	ip -n router -6 route replace $LO/128 via "${!ua}"
	ua=UA$1_4
	ip -n router route replace $LO4/32 via "${!ua}"
	ROUTED=$1
}

flip() { route_to $((3 - ROUTED)); }

# spawn LOG COMMAND...: runs in the background; its PID is in $SPAWNED.
spawn() {
	local log=$1
	shift
	"$@" >"$log" 2>&1 &
	SPAWNED=$!
	PIDS+=("$SPAWNED")
}
PIDS=()

# stop PID [SIGNAL]: ends a process of ours and returns its exit status.
stop() {
	kill "-${2:-TERM}" "$1" 2>/dev/null || true
	local status=0
	wait "$1" 2>/dev/null || status=$?
	return "$status"
}

# eventually SECONDS COMMAND...: polls until the command succeeds.
eventually() {
	local until=$(($(date +%s%N) + $1 * 1000000000))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$(date +%s%N)" -lt "$until" ] || return 1
		sleep 0.05
	done
}

start_members() {
	local n
	for n in 1 2; do
		spawn "$TMP/member$n.log" ip netns exec "m$n" "$AARPTUN" member --join "$AA%eth0"
		spawn "$TMP/serve$n.log" ip netns exec "m$n" "$LAB" serve --name "m$n" --addr ":$PORT" --log "$TMP/m$n.flows" --peers "$TMP/m$n.peers"
		eventually 5 grep -q "^joined $AA%eth0" "$TMP/member$n.log"
		eventually 5 grep -q '^serving' "$TMP/serve$n.log"
	done
}

# start_responders KEYFILE: the members have LO and LO4 on lo, and run a
# responder; their PIDs are in ${RESPONDERS[1]} and [2].
start_responders() {
	local n
	for n in 1 2; do
		ip -n "m$n" addr add $LO/128 dev lo nodad
		ip -n "m$n" addr add $LO4/32 dev lo
		spawn "$TMP/responder$n.log" ip netns exec "m$n" "$AARPTUN" member --anycast $LO --anycast $LO4 --ed25519-file "$1" --check-tcp $PORT --check-interval 200ms
		RESPONDERS[n]=$SPAWNED
		eventually 5 grep -q "^answering $LO4" "$TMP/responder$n.log"
		eventually 5 grep -q 'state=answering' "$TMP/responder$n.log"
	done
}
RESPONDERS=()

# start_aarptun [FLAGS]: sets $DAEMON and returns when it is ready. What
# AARPTUN_RUN_FLAGS has is added to its flags.
start_aarptun() {
	: >"$TMP/ready"
	# shellcheck disable=SC2086 # it may be several
	ip netns exec client "$AARPTUN" run -p $PREFIX -p $PREFIX4 --static $AA4=$UA1_4 --cache-ttl 1s --log-level debug ${AARPTUN_RUN_FLAGS:-} "$@" \
		>"$TMP/ready" 2>>"$TMP/aarptun.log" &
	DAEMON=$!
	PIDS+=("$DAEMON")
	eventually 10 grep -qx ready "$TMP/ready"
}

# A configuration file, $TMP/aarptun.toml, which is made from $TMP/NAME.toml.

# write_file NAME: makes it the configuration, whole at once.
write_file() { cp "$TMP/$1.toml" "$TMP/aarptun.toml.new" && mv "$TMP/aarptun.toml.new" "$TMP/aarptun.toml"; }

# run_file NAME: as start_aarptun, with no flags but the file.
run_file() {
	write_file "$1"
	: >"$TMP/ready"
	ip netns exec client "$AARPTUN" run -c "$TMP/aarptun.toml" >"$TMP/ready" 2>>"$TMP/aarptun.log" &
	DAEMON=$!
	PIDS+=("$DAEMON")
	eventually 10 grep -qx ready "$TMP/ready"
}

# reload NAME, refused NAME: the daemon takes it on, or says why not.
reload() { hang_up "$1" 'msg="the configuration was reloaded"'; }
refused() { hang_up "$1" 'msg="the configuration was not reloaded'; }
hang_up() {
	local before
	write_file "$1"
	before=$(said "$2")
	kill -HUP "$DAEMON"
	eventually 10 has_said "$2" "$before"
}
said() { grep -c "$1" "$TMP/aarptun.log" || true; }
has_said() { [ "$(said "$1")" -gt "$2" ]; }

# host_state: all of the client's host that aarptun could change.
host_state() {
	ip -n client -o link
	ip -n client rule
	ip -n client -6 rule
	ip -n client route show table all
	ip -n client -6 route show table all
	on client sh -c 'ls -A /run/aarptun 2>/dev/null || true'
}

# start_flows TAG TO ARGUMENTS...: in the background; its PID is in $SPAWNED.
start_flows() {
	local tag=$1 to=$2
	shift 2
	spawn "$TMP/$tag.out" ip netns exec client "$LAB" flows --to "$to" --for 120s --tag "$tag" "$@"
	eventually 30 grep -qx started "$TMP/$tag.out"
}

# none_broke TAG PID: ends those flows, of which none may have broken.
none_broke() {
	local status=0
	stop "$2" || status=$?
	grep -c '"error"' "$TMP/$1.out" | sed 's/$/ broken/' || true
	grep '"error"' "$TMP/$1.out" | head -3 || true
	return "$status"
}

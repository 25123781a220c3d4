#!/usr/bin/env bash
# The client cannot tell: one client program meets the same situations twice,
# once direct to UA, once to AA through aarptun, and what it saw is compared.
# docs/fidelity.md lists the differences that are meant; any other fails. The
# script lives in namespaces of its own: no bug in it can touch the host, and
# nothing of it is left when it ends.
set -euo pipefail

usage() {
	cat <<-END
		usage: scripts/fidelity.sh [--only PATTERN] [--second WHAT] [--offload] [--json] [--list]

		  (nothing)       run all situations; print what was seen direct and through
		                  aarptun; exit 1 on a difference that docs/fidelity.md does
		                  not list, or lists and is not there
		  --only PATTERN  only the situations whose name this regular expression matches
		  --second WHAT   what the second column is, to see whether the comparison is
		                  worth anything: aarptun; control: direct again, where all
		                  must be the same; nothing: to AA with no aarptun there, where
		                  all must differ but what is silence anyway
		  --offload       the kernel carries the flows (run --offload nft): all addresses
		                  are pinned first; the list is in docs/fidelity-offload.md
		  --json          a line of JSON for each situation in place of the table
		  --list          print the names of the situations, with --only of those

		AARPTUN and FIDELITY may name binaries to use instead of building them.
		Exit code 77: this kernel or user may not make the namespaces.
	END
}

ROOT=$(cd "$(dirname "$0")/.." && pwd)
ONLY= JSON= LIST= INSIDE= OFFLOAD= SECOND=aarptun
while [ $# -gt 0 ]; do
	case "$1" in
	--only)
		[ $# -gt 1 ] || { usage >&2; exit 64; }
		ONLY=$2
		shift
		;;
	--second)
		case "${2:-}" in
		aarptun | control | nothing) SECOND=$2 ;;
		*)
			usage >&2
			exit 64
			;;
		esac
		shift
		;;
	--offload) OFFLOAD=--offload ;;
	--json) JSON=--json ;;
	--list) LIST=1 ;;
	--inside) INSIDE=1 ;;
	-h | --help)
		usage
		exit 0
		;;
	*)
		usage >&2
		exit 64
		;;
	esac
	shift
done

# shellcheck source=scripts/lab.bash
. "$ROOT/scripts/lab.bash"

if [ -z "$INSIDE" ]; then
	build FIDELITY:scripts/fidelity
	[ -z "$LIST" ] || exec "$FIDELITY" list "$ONLY"
	"$FIDELITY" list "$ONLY" >/dev/null # a pattern that matches nothing is wrong usage
	build AARPTUN:cmd/aarptun
	enter_namespaces "$ROOT/scripts/fidelity.sh" --inside --second "$SECOND" ${ONLY:+--only "$ONLY"} $OFFLOAD $JSON
fi

own_run

# talkative NETNS: no ICMP error is held back for its rate.
talkative() {
	set_sysctl "$1" ipv6.icmp.ratemask 127
	set_sysctl "$1" ipv4.icmp_ratemask 0
}

# impatient DEVICE: the router does not look for a neighbour in vain for long.
impatient() {
	local family
	for family in ipv4 ipv6; do
		set_sysctl router $family.neigh.$1.mcast_solicit 1
		set_sysctl router $family.neigh.$1.retrans_time_ms 200
	done
}

# host NETNS ADDR6 ADDR4 ROUTER_DEV GATEWAY6 GATEWAY4: one more behind the router.
host() {
	ip netns add "$1"
	talkative "$1"
	ip -n "$1" link set lo up
	connect "$1" eth0 "$2" "$3" router "$4" "$5" "$6"
	ip -n "$1" route add default via "$6"
	ip -n "$1" -6 route add default via "$5"
}

# slow_wire NETNS SOURCE6 ROUTER_DEV SOURCE4: a second wire to the router, one that takes
# time, for the situations where that would show.
slow_wire() {
	spawn "$TMP/wire-$1.log" "$FIDELITY" wire "$1" slow0 router "$3"
	eventually 5 grep -q '^wired' "$TMP/wire-$1.log"
	ip -n "$1" link set slow0 up
	ip -n router link set "$3" up
	ip -n "$1" -6 route add 2001:db8:f::/48 dev slow0 src "$2"
	ip -n "$1" route add 198.18.3.0/24 dev slow0 src "$4"
	ip -n "$1" route add 198.18.4.0/24 dev slow0 src "$4"
}

# build_fidelity_lab: a second client that has no aarptun, a narrow second wire
# to m1, all addresses of the situations on m1, and what the router does to each.
build_fidelity_lab() {
	build_lab
	local ns
	for ns in client router m1; do
		talkative $ns
	done
	impatient m1
	host direct 2001:db8:2::2 203.0.113.130 d0 2001:db8:2::1 203.0.113.129
	slow_wire client $CLIENT slowc 203.0.113.2
	slow_wire direct 2001:db8:2::2 slowd 203.0.113.130
	for ns in client:2001:db8:1::3,203.0.113.3 direct:2001:db8:2::3,203.0.113.131; do
		ip -n "${ns%%:*}" addr add "${ns##*,}/25" dev eth0
		# Not preferred, so that the usual source stays the usual one.
		ns=${ns%,*}
		ip -n "${ns%%:*}" addr add "${ns#*:}/64" dev eth0 nodad preferred_lft 0
	done
	for ns in client direct; do
		set_sysctl $ns ipv4.ping_group_range "0 2147483647"
	done
	connect m1 eth1 2001:db8:13::2 198.18.230.2 router m1s 2001:db8:13::1 198.18.230.1
	ip -n m1 link set eth1 mtu 1300
	ip -n router link set m1s mtu 1300
	# Nobody is at the other addresses of these.
	ip -n router addr add 198.18.200.1/23 dev m1
	local prefix
	for prefix in 2001:db8:d::/64 2001:db8:e::/64 2001:db8:f::/48 198.18.1.0/24 198.18.2.0/24 198.18.3.0/24 198.18.4.0/24; do
		ip -n m1 route add local $prefix dev lo
	done
	ip -n router -6 route add 2001:db8:d::/64 via $UA1
	ip -n router -6 route add 2001:db8:e::/64 via $UA1
	ip -n router route add 198.18.1.0/24 via $UA1_4
	ip -n router route add 198.18.2.0/24 via $UA1_4
	ip -n router -6 route add blackhole 2001:db8:aa::dead:0/112
	ip -n router route add blackhole $PREFIX4
	local addr6 addr4 gateway6 gateway4
	while read -r ns addr6 addr4 gateway6 gateway4; do
		host "$ns" "$addr6" "$addr4" "$ns" "$gateway6" "$gateway4"
		impatient "$ns"
	done < <("$FIDELITY" plan graves)
	spawn "$TMP/errors.log" ip netns exec router "$FIDELITY" errors
	eventually 5 grep -q '^answering' "$TMP/errors.log"
	ip -n router link set err0 up
	ip -n router -6 route add 2001:db8:ee::/64 dev err0
	ip -n router route add 198.19.0.0/16 dev err0
	"$FIDELITY" plan routes | ip -n router -batch -
}

# start_member: the one that is found by probe.
start_member() {
	spawn "$TMP/member1.log" ip netns exec m1 "$AARPTUN" member --join "$AA%eth0"
	eventually 5 grep -q "^joined $AA%eth0" "$TMP/member1.log"
}

run_client() { # run_client NETNS ua|aa SELF
	ip netns exec "$1" "$FIDELITY" client --to "$2" --self "$3" --tmp "$TMP" --only "$ONLY" >"$TMP/$2.json" 2>"$TMP/$2.log"
}

# pin_all: a datagram to each address, which has it pinned, as many at a time as the
# kernel keeps for a device.
pin_all() {
	local aa
	for aa in $AA $(printf '%s\n' "${statics[@]}" | sed -n 's/^\([^=]*\)=.*/\1/p' | sort -u); do
		# shellcheck disable=SC2016 # for the other shell
		on client bash -c 'echo >"/dev/udp/$1/9"' sh "$aa"
	done
}

# all_pinned: the kernel has been told of every one that can be.
all_pinned() {
	local want
	want=$(on client "$AARPTUN" pins --json | tr '{' '\n' | grep -c '"member"')
	[ "$want" -gt 100 ] && on client "$AARPTUN" status --json | grep -qE "\"nft\":\{[^}]*\"pins\":$want,"
}

build_fidelity_lab
start_member
to=aa known=$ROOT/docs/fidelity.md
if [ "$SECOND" = aarptun ]; then
	mapfile -t statics < <("$FIDELITY" plan statics | tr ' ' '\n')
	start_aarptun "${statics[@]}" --log-level info ${OFFLOAD:+--offload nft --cache-ttl 1h}
	if [ -n "$OFFLOAD" ]; then
		known=$ROOT/docs/fidelity-offload.md
		pin_all
		eventually 5 all_pinned || { echo "not all addresses are pinned" && exit 1; }
	fi
else
	known= # it lists what aarptun does
	[ "$SECOND" = nothing ] || to=control
fi
run_client direct ua 2001:db8:2::2,2001:db8:2::3,203.0.113.130,203.0.113.131 &
run=$!
status=0
run_client client $to 2001:db8:1::2,2001:db8:1::3,203.0.113.2,203.0.113.3 || status=1
wait $run || status=1
if [ "$SECOND" = aarptun ]; then
	# A packet that is lost on the way into aarptun is a difference, if a rare one.
	lost=$(on client cat /sys/class/net/aarptun0/statistics/tx_dropped)
	[ "$lost" = 0 ] || echo "the queue of aarptun0 was full and $lost packets were lost" >&2
fi
[ "$SECOND" != aarptun ] || stop "$DAEMON" || { echo "aarptun ended with an error" && status=1; }
cat "$TMP/ua.log" "$TMP/$to.log" >&2
if [ $status != 0 ]; then
	tail -20 "$TMP/aarptun.log" >&2 || true
	exit 1
fi
"$FIDELITY" compare --known "$known" $JSON "$TMP/ua.json" "$TMP/$to.json"

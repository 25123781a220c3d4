#!/usr/bin/env bash
# A SYN flood and a UDP flood from forged sources on a LAN, through the client's
# aarptun to one anycast address, while flows that are established there transfer
# verified bytes: they keep half of their speed, memory stays under its bound,
# and afterwards everything is as it was before. The script lives in namespaces
# of its own: no bug in it can touch the host, and nothing of it is left when it
# ends.
set -euo pipefail

usage() {
	cat <<-END
		usage: scripts/flood.sh [--short]

		  (nothing)  1,000,000 SYNs from 60,000 sources, then as many datagrams, to a
		             port where an idle flow ends after 300 s; about 10 minutes
		  --short    200,000 of each from 12,000 sources, the datagrams to port 53, where
		             an idle flow ends after 30 s; about 3 minutes

		AARPTUN, LAB and SOAK may name binaries to use instead of building them.
		Exit code 77: this kernel or user may not make the namespaces.
	END
}

ROOT=$(cd "$(dirname "$0")/.." && pwd)
COUNT=1000000 SOURCES=60000 UDP_PORT=7000 SETTLE=330s SHORT= INSIDE=
while [ $# -gt 0 ]; do
	case "$1" in
	--short) SHORT=--short COUNT=200000 SOURCES=12000 UDP_PORT=53 SETTLE=150s ;;
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
	build AARPTUN:cmd/aarptun LAB:scripts/lab SOAK:scripts/soak
	enter_namespaces "$ROOT/scripts/flood.sh" --inside $SHORT
fi
own_run

LAN=2001:db8:1f::/64 # of the forged sources; nobody there answers

# add_lan: the client becomes the gateway of a LAN.
add_lan() {
	ip netns add lan
	set_sysctl lan ipv6.conf.all.accept_dad 0
	connect lan eth0 2001:db8:1e::2 198.18.30.2 client lan0 2001:db8:1e::1 198.18.30.1
	set_sysctl client ipv6.conf.all.forwarding 1
	ip -n client -6 route add $LAN via 2001:db8:1e::2
}

build_lab
add_steady_member
add_lan
for port in 7000 53; do
	spawn "$TMP/serve$port.log" ip netns exec m3 "$LAB" serve --name m3 --addr ":$port"
	eventually 5 grep -q '^serving' "$TMP/serve$port.log"
done
start_aarptun --static $AA3=$UA3 --log-level info || {
	cat "$TMP/aarptun.log"
	exit 1
}
mac=$(ip -n client -o link show dev lan0 | sed 's/.*link\/ether \([0-9a-f:]*\) .*/\1/')
status=0

flood() { # flood KIND PORT
	echo "== $1 flood"
	ip netns exec client "$SOAK" flood --kind "$1" --port "$2" --count $COUNT --sources $SOURCES --settle $SETTLE \
		--from $LAN --gateway "$mac" --to $AA3 --ua $UA3 || status=1
}
flood syn 7000
flood udp $UDP_PORT
stop "$DAEMON" || { echo "aarptun did not end well" && status=1; }
[ $status = 0 ] || tail -20 "$TMP/aarptun.log"
exit $status

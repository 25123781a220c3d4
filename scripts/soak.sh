#!/usr/bin/env bash
# One aarptun under load for as long as is asked for: long and short flows by
# TCP, UDP and ping, IPv6 and IPv4, every byte verified, while the route flips
# ten times a second, members are killed and restarted, links go down and up, and
# the resolver is answered late or not at all. The script lives in namespaces of
# its own: no bug in it can touch the host, and nothing of it is left when it
# ends.
set -euo pipefail

usage() {
	cat <<-END
		usage: scripts/soak.sh [--for TIME]

		  --for TIME  how long, 10m if nothing is said; it ends when the daemon has
		              forgotten every flow, about a minute later, and 5 minutes later
		              if TIME is 5m or more

		It prints what became of the flows, and what the daemon held before, meanwhile
		and after. Exit code 1: a flow broke that should not have, a byte was wrong, or
		the daemon holds more than before.

		AARPTUN, LAB and SOAK may name binaries to use instead of building them.
		Exit code 77: this kernel or user may not make the namespaces.
	END
}

ROOT=$(cd "$(dirname "$0")/.." && pwd)
FOR=10m INSIDE=
while [ $# -gt 0 ]; do
	case "$1" in
	--for)
		[ $# -gt 1 ] || { usage >&2; exit 64; }
		FOR=$2
		shift
		;;
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
	enter_namespaces "$ROOT/scripts/soak.sh" --inside --for "$FOR"
fi
own_run

build_lab
add_steady_member
# A link that comes up again has the addresses that it had.
set_sysctl router ipv6.conf.all.keep_addr_on_down 1
set_sysctl client ipv4.ping_group_range "0 0"
start_aarptun --static $AA4=$UA2_4 --static $AA3=$UA3 --static $AA3_4=$UA3_4 --log-level info || {
	cat "$TMP/aarptun.log"
	exit 1
}
status=0
ip netns exec client "$SOAK" run --for "$FOR" --probed $AA --listed $AA4 --steady $AA3 --steady $AA3_4 \
	--ua $UA1 --ua $UA2 --ua $UA3 --ua $UA1_4 --ua $UA2_4 --ua $UA3_4 || status=$?
stop "$DAEMON" || { echo "aarptun did not end well" && status=1; }
if [ $status != 0 ]; then
	echo "the end of aarptun's log:"
	tail -20 "$TMP/aarptun.log"
fi
exit $status

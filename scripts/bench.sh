#!/usr/bin/env bash
# What aarptun costs: throughput, CPU, latency, connections and memory, beside
# routing alone, the kernel's own translation and other translators in user
# space, each measured in turn. The script lives in namespaces of its own: no bug
# in it can touch the host, and nothing of it is left when it ends.
set -euo pipefail

usage() {
	cat <<-END
		usage: scripts/bench.sh [FLAGS]

		  --reps N        repetitions, 5 if nothing is said; a figure is their median
		  --seconds S     of a sample, 2 if nothing is said
		  --only NAME,... variants: direct, nft, tun2socks, pasta, slirp4netns, relay,
		                  aarptun, aarptun-nft, aarptun-gso-off; ratios need direct
		  --rows NAME,... tcp, tcp4, udp, latency, connections, first, lan, idle, growth,
		                  many
		  --quick         a smoke test in less than a minute: every variant that is there
		                  and every row but many, so briefly that the figures mean nothing
		  --json FILE     all samples
		  --svg DIR       bar charts
		  --md FILE       the page, docs/performance.md
		  --from FILE     measure nothing: tables, page and charts of the samples in FILE

		It prints a line for each sample and in the end the tables. A variant whose
		program is not there is left out, and that is said: nft is of the Debian package
		nftables, pasta of passt, slirp4netns of slirp4netns; tun2socks is built into
		bin/peers by go install, but not for --quick.

		Exit code 1: a sample failed that should not have, or a translator was idle while
		its traffic went another way, or aarptun-nft was not, whose traffic is the
		kernel's. A goal that is missed is no failure.

		AARPTUN, BENCH and TUN2SOCKS may name binaries to use instead of building them,
		and PROFILES a directory for a CPU profile of each aarptun that was run.
		Exit code 77: this kernel or user may not make the namespaces.
	END
}

ROOT=$(cd "$(dirname "$0")/.." && pwd)
INSIDE= QUICK= ONLY= FROM= REPS=5 COMMAND="scripts/bench.sh"
RUN=() OUT=()
given=("$@")
while [ $# -gt 0 ]; do
	case "$1" in
	--reps | --seconds | --only | --rows | --json | --svg | --md | --from)
		[ $# -gt 1 ] || { usage >&2; exit 64; }
		case "$1" in
		--json | --svg | --md) OUT+=("$1" "$(realpath -m "$2")") ;;
		--from) FROM=$(realpath -m "$2") ;;
		--only) ONLY=$2 RUN+=("$1" "$2") ;;
		--reps) REPS=$2 ;;
		*) RUN+=("$1" "$2") ;;
		esac
		# How to repeat it says nothing of where it went.
		case "$1" in --reps | --seconds | --only | --rows) COMMAND+=" $1 $2" ;; esac
		shift
		;;
	--quick) QUICK=1 REPS=1 RUN+=(--quick) COMMAND+=" --quick" ;;
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

# build_tun2socks: of the version in peers.mod; sets TUN2SOCKS if it is there.
build_tun2socks() {
	[ -z "${TUN2SOCKS:-}" ] || return 0
	case ",$ONLY," in ,, | *,tun2socks,*) ;; *) return 0 ;; esac
	local built=$ROOT/bin/peers/tun2socks
	if [ -z "$QUICK" ]; then
		CGO_ENABLED=0 GOBIN=$ROOT/bin/peers go install -trimpath -modfile="$ROOT/scripts/peers.mod" github.com/xjasonlyu/tun2socks/v2 ||
			echo "tun2socks could not be built" >&2
	fi
	[ ! -x "$built" ] || export TUN2SOCKS=$built
}

if [ -z "$INSIDE" ]; then
	build BENCH:scripts/bench
	if [ -n "$FROM" ]; then
		exec "$BENCH" report --from "$FROM" "${OUT[@]}"
	fi
	build AARPTUN:cmd/aarptun
	build_tun2socks
	COMMIT=$(git -C "$ROOT" describe --always --dirty 2>/dev/null || echo unknown)
	export COMMIT
	enter_namespaces "$ROOT/scripts/bench.sh" --inside "${given[@]}"
fi
own_run

# Flows need open files: three for each if all ends are counted.
ulimit -n 1048576 2>/dev/null || ulimit -n "$(ulimit -Hn)"

# add_lan: the client becomes the gateway of a LAN.
add_lan() {
	ip netns add lan
	set_sysctl lan ipv6.conf.all.accept_dad 0
	ip -n lan link set lo up
	connect lan eth0 2001:db8:1e::2 198.18.30.2 client lan0 2001:db8:1e::1 198.18.30.1
	ip -n lan -6 route add default via 2001:db8:1e::1
	set_sysctl client ipv6.conf.all.forwarding 1
	ip -n router -6 route add 2001:db8:1e::/64 via $CLIENT
}

build_lab
add_lan
# All addresses of the prefix are of the one member.
ip -n router -6 route add $PREFIX via $UA1
# Thousands of connections a second to one port must not run out of ports.
set_sysctl client ipv4.ip_local_port_range '"1024 65535"'
set_sysctl client ipv4.ip_local_reserved_ports 7001-7006 # where relay listens
set_sysctl client ipv4.tcp_tw_reuse 1
for ns in client m1; do
	set_sysctl $ns core.somaxconn 16384
	set_sysctl $ns ipv4.tcp_max_syn_backlog 16384
done
# The client's other addresses, for more flows than one may have.
SOURCES=2001:db8:1c::
ip -n router -6 route add $SOURCES/64 via $CLIENT
for n in 1 2 3 4 5 6 7 8; do
	ip -n client -6 addr add "${SOURCES}c:$n/128" dev lo nodad preferred_lft 0
done
"$BENCH" run --dir "$TMP" --commit "$COMMIT" --command "$COMMAND" --sources $SOURCES --aa $AA --ua $UA1 --aa4 $AA4 --ua4 $UA1_4 \
	--prefix $PREFIX --prefix4 $PREFIX4 --reps "$REPS" "${RUN[@]}" "${OUT[@]}"

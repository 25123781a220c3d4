#!/usr/bin/env bash
# Where aarptun's CPU time goes under a chosen load, by CPU profiles; and the
# profile that the compiler is guided by, cmd/aarptun/default.pgo, made anew.
set -euo pipefail

usage() {
	cat <<-END
		usage: scripts/profile.sh [--pgo] [ROW ...]

		  ROW    of scripts/bench.sh; tcp udp latency connections if nothing is said
		  --pgo  keep the profile as cmd/aarptun/default.pgo, which 'go build' uses; the
		         rows should be those that are the default

		It prints the functions that took most, and leaves bin/profile/merged.prof for
		'go tool pprof'.
	END
}

cd "$(dirname "$0")/.."
PGO= ROWS=()
while [ $# -gt 0 ]; do
	case "$1" in
	--pgo) PGO=1 ;;
	-h | --help)
		usage
		exit 0
		;;
	-*)
		usage >&2
		exit 64
		;;
	*) ROWS+=("$1") ;;
	esac
	shift
done
[ ${#ROWS[@]} -gt 0 ] || ROWS=(tcp udp latency connections)
rows=$(IFS=, && echo "${ROWS[*]}")

rm -rf bin/profile
mkdir -p bin/profile
PROFILES=$PWD/bin/profile scripts/bench.sh --only direct,aarptun --rows "$rows" --reps 1 --seconds 5
go tool pprof -proto -output bin/profile/merged.prof bin/aarptun bin/profile/*.prof
go tool pprof -top -nodecount 40 bin/aarptun bin/profile/merged.prof
if [ -n "$PGO" ]; then
	cp bin/profile/merged.prof cmd/aarptun/default.pgo
	echo "kept as cmd/aarptun/default.pgo"
fi

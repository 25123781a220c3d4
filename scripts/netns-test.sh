#!/usr/bin/env bash
# The end-to-end test, and with --demo the demonstration: a client, a router and
# two members of one anycast address, each a network namespace, real kernels all
# of them. The script lives in namespaces of its own: no bug in it can touch the
# host, and nothing of it is left when it ends.
set -euo pipefail

usage() {
	cat <<-END
		usage: scripts/netns-test.sh [--demo]

		  (nothing)  assert everything, one line each; exit 1 if any fails
		  --demo     show it, in about 15 seconds

		AARPTUN and LAB may name binaries to use instead of building them.
		Exit code 77: this kernel or user may not make the namespaces.
	END
}

MODE=test
case "${1:-}" in
"") ;;
--demo) MODE=demo ;;
--inside) MODE=$2 ;;
-h | --help)
	usage
	exit 0
	;;
*)
	usage >&2
	exit 64
	;;
esac

ROOT=$(cd "$(dirname "$0")/.." && pwd)

build() {
	cd "$ROOT"
	[ -n "${AARPTUN:-}" ] || CGO_ENABLED=0 go build -trimpath -o bin/aarptun ./cmd/aarptun
	[ -n "${LAB:-}" ] || CGO_ENABLED=0 go build -trimpath -o bin/lab ./scripts/lab
	export AARPTUN=${AARPTUN:-$ROOT/bin/aarptun} LAB=${LAB:-$ROOT/bin/lab}
}

# shellcheck source=scripts/lab.bash
. "$ROOT/scripts/lab.bash"

if [ "${1:-}" != --inside ]; then
	build
	enter_namespaces "$ROOT/scripts/netns-test.sh" --inside "$MODE"
fi
own_run

PASSED=0 FAILED=0

# check TEXT COMMAND...: one assertion, one line.
check() {
	local text=$1
	shift
	if "$@" >"$TMP/out" 2>&1; then
		PASSED=$((PASSED + 1))
		echo "ok $((PASSED + FAILED)) - $text"
	else
		FAILED=$((FAILED + 1))
		echo "not ok $((PASSED + FAILED)) - $text"
		sed 's/^/#   /' "$TMP/out" | tail -20
	fi
}

not() { ! "$@"; }
says() { # says PATTERN COMMAND...: the command succeeds and prints the pattern
	local pattern=$1 out
	shift
	out=$("$@") || return 1
	echo "$out"
	grep -qE -- "$pattern" <<<"$out"
}
fails_with() { # fails_with PATTERN COMMAND...: the command fails and says so
	local pattern=$1 out
	shift
	if out=$("$@" 2>&1); then
		echo "it succeeded: $out"
		return 1
	fi
	echo "$out"
	grep -qE -- "$pattern" <<<"$out"
}
exits() { # exits CODE COMMAND...
	local want=$1 got=0
	shift
	"$@" || got=$?
	echo "exit code $got, want $want"
	[ "$got" = "$want" ]
}

. "$ROOT/scripts/netns-$MODE.bash"

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

# shellcheck source=scripts/lab.bash
. "$ROOT/scripts/lab.bash"

if [ "${1:-}" != --inside ]; then
	build AARPTUN:cmd/aarptun LAB:scripts/lab
	enter_namespaces "$ROOT/scripts/netns-test.sh" --inside "$MODE"
fi
own_run

# shellcheck source=scripts/check.bash
. "$ROOT/scripts/check.bash"

. "$ROOT/scripts/netns-$MODE.bash"

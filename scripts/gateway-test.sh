#!/usr/bin/env bash
# aarptun on a gateway: three clients on a LAN behind it, IPv4 and IPv6, whose
# flows keep their members through route flips; and with --preserve-source, whose
# own addresses the members see. Each host is a network namespace, real kernels
# all of them. The script lives in namespaces of its own.
set -euo pipefail

usage() {
	cat <<-END
		usage: scripts/gateway-test.sh

		  asserts everything, one line each; exit 1 if any fails

		AARPTUN and LAB may name binaries to use instead of building them.
		Exit code 77: this kernel or user may not make the namespaces.
	END
}

ROOT=$(cd "$(dirname "$0")/.." && pwd)

# shellcheck source=scripts/lab.bash
. "$ROOT/scripts/lab.bash"
command_line "" "$@"

into_namespaces AARPTUN:cmd/aarptun LAB:scripts/lab

. "$ROOT/scripts/gateway-test.bash"

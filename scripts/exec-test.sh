#!/usr/bin/env bash
# Clients in another network namespace than aarptun: 'aarptun run --netns' and
# 'aarptun exec'. Real kernels, in namespaces of the script's own, as in netns-test.sh.
set -euo pipefail

usage() {
	cat <<-END
		usage: scripts/exec-test.sh [PART ...]

		  (nothing)  all parts
		  netns      run --netns, by name, path and process: what it carries, what it
		             leaves alone, the end of the namespace, kill -9
		  run        exec: what CMD is, what it reaches, names
		  terminal   exec: signals, Ctrl-C, Ctrl-Z, at terminals of its own
		  forbidden  exec: what the kernel may not allow
		  leaves     exec: 100 runs, or as many as RUNS says, leave nothing behind

		AARPTUN and LAB may name binaries to use instead of building them.
		Exit code 77: this kernel or user may not make the namespaces, or, for exec,
		is not root, who alone can be two users.
	END
}

ROOT=$(cd "$(dirname "$0")/.." && pwd)

# shellcheck source=scripts/lab.bash
. "$ROOT/scripts/lab.bash"
command_line "netns run terminal forbidden leaves" "$@"

into_namespaces AARPTUN:cmd/aarptun LAB:scripts/lab


for part in netns run terminal limits; do
	# shellcheck source=scripts/exec-netns.bash
	. "$ROOT/scripts/exec-$part.bash"
done

build_lab
start_members
for part in "${PARTS[@]}"; do
	"test_$part"
done
echo "$PASSED passed, $FAILED failed"
[ "$FAILED" = 0 ]

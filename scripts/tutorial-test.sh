#!/usr/bin/env bash
# The tutorial, typed as it is written: each block marked sh is run, in order, in
# one shell with networks of its own, and each line of the block marked text
# behind it must have come, but for the figures in it.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lab.bash
. "$(dirname "$0")/lab.bash"
ROOT=$(cd "$(dirname "$0")/.." && pwd)
cd "$ROOT"

# plain: without figures, times and wide gaps, which differ from run to run.
plain() {
	sed -E 's/\]:[0-9]{5}/]:PORT/g; s/[0-9.]+(µs|ms|s|k)\b/TIME/g; s/^( *)[0-9]+ bytes/\1N bytes/; s/[[:space:]]+/ /g; s/^ | $//g'
}

if [ "${1:-}" != inside ]; then
	build AARPTUN:cmd/aarptun LAB:scripts/lab # what the block marked "sh build" says
	enter_namespaces "$0" inside
fi

TMP=$(mktemp -d)
cp -r bin "$TMP" # the tutorial leaves logs where it is typed
cd "$TMP"
# Each block, then a line with which to know where its output ends.
awk '/^```sh$/ { on = 1; n++; next } /^```/ { if (on) print "echo \"== end of block " n "\""; on = 0 } on' "$ROOT/docs/tutorial.md" >typed
awk '/^```sh$/ { n++ } /^```text$/ { on = 1; next } /^```/ { on = 0 } on { print n "\t" $0 }' "$ROOT/docs/tutorial.md" >shown
bash typed >came 2>&1 </dev/null || { cat came && exit 1; }
failed=0 total=0
while IFS=$'\t' read -r block line; do
	total=$((total + 1))
	want=$(plain <<<"$line")
	awk -v n="$block" '/^== end of block / { at++ ; next } at == n - 1' came | plain >got
	if ! grep -qxF -- "$want" got; then
		echo "not ok - block $block: no line \"$line\"; what came:"
		cat got
		failed=$((failed + 1))
	fi
done <shown
[ "$total" -gt 10 ] || { echo "the tutorial shows only $total lines"; exit 1; }
rm -rf "$TMP"
echo "$((total - failed)) lines of the tutorial came, $failed did not"
[ "$failed" = 0 ]

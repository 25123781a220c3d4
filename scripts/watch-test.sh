#!/usr/bin/env bash
# aarptun is watched: its metrics by promtool, top in a terminal of tmux, a capture
# by tshark, and its log. Real kernels, in namespaces of the script's own, as in
# netns-test.sh.
set -euo pipefail

usage() {
	cat <<-END
		usage: scripts/watch-test.sh [PART ...]

		  (nothing)  all parts
		  metrics    what promtool says of a scrape, of the alerts and their tests
		  top        the screen, driven by keys
		  pcap       what tshark finds in a capture; a disk that is full
		  log        the lines of a flow

		It needs promtool (Debian: prometheus), tmux and tshark. AARPTUN and LAB may name
		binaries to use instead of building them.
		Exit code 77: a program is missing, or this kernel or user may not make the
		namespaces.
	END
}

ROOT=$(cd "$(dirname "$0")/.." && pwd)

# shellcheck source=scripts/lab.bash
. "$ROOT/scripts/lab.bash"
command_line "metrics top pcap log" "$@"

if [ -z "$INSIDE" ]; then
	for pair in promtool:prometheus tmux:tmux tshark:tshark script:bsdutils; do
		command -v "${pair%:*}" >/dev/null || cannot "there is no '${pair%:*}' command: install ${pair#*:}"
	done
fi
into_namespaces AARPTUN:cmd/aarptun LAB:scripts/lab
# shellcheck source=scripts/watch-test.bash
. "$ROOT/scripts/watch-test.bash"

build_lab
start_members
for part in "${PARTS[@]}"; do
	echo "# $part"
	case "$part" in
	metrics) metrics ;;
	top) top ;;
	pcap) pcap ;;
	log) log ;;
	esac
done

if [ "$FAILED" -gt 0 ]; then
	echo "# $FAILED of $((PASSED + FAILED)) failed; the daemon's last words:"
	tail -20 "$TMP/aarptun.log" | sed 's/^/#   /'
	exit 1
fi
echo "# all $PASSED passed"

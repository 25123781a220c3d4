#!/usr/bin/env bash
# Makes what is made from the commands: manual pages and completions.
#
#	scripts/share.sh DIR
#
# AARPTUN names a binary that runs on this machine; it is built if there is none.
set -euo pipefail
DIR=$(realpath -m "${1:?usage: scripts/share.sh DIR}")
ROOT=$(cd "$(dirname "$0")/.." && pwd)
cd "$ROOT"

eval "$(scripts/version.sh 2>/dev/null || echo RELEASE= SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-0}")"
if [ -z "${AARPTUN:-}" ]; then
	AARPTUN=$ROOT/bin/aarptun
	CGO_ENABLED=0 go build -trimpath -o "$AARPTUN" ./cmd/aarptun
fi
rm -rf "$DIR"
mkdir -p "$DIR/completions"
"$AARPTUN" help --json | go run ./scripts/pages man -date "$SOURCE_DATE_EPOCH" -version "$RELEASE" -config internal/config/reference.toml "$DIR/man"
for shell in bash zsh fish; do
	"$AARPTUN" completion $shell >"$DIR/completions/$shell"
done

#!/usr/bin/env bash
# What this source is, as lines for the shell:
#
#	RELEASE=0.1.0                              from cmd/aarptun/version.go
#	COMMIT=0123456789ab                        or "release" if the tag is here
#	PACKAGE_VERSION=0.1.0~git20261126.0123456789ab   sorts before 0.1.0
#	SOURCE_DATE_EPOCH=1764115200               of the commit, unless it is set
#
# A clone and an archive made by git say the same.
set -euo pipefail
cd "$(dirname "$0")/.."

RELEASE=$(sed -n 's/^const release = "\(.*\)"$/\1/p' cmd/aarptun/version.go)
if [ -e .git ]; then
	COMMIT=$(git rev-parse HEAD)
	TIME=$(git log -1 --format=%ct)
	REFS=$(git log -1 --format=%D)
	DIRTY=$(git status --porcelain)
else
	COMMIT=$(sed -n 's/^commit=//p' packaging/source)
	TIME=$(sed -n 's/^time=//p' packaging/source)
	REFS=$(sed -n 's/^refs=//p' packaging/source)
	DIRTY=
fi
case "$RELEASE$COMMIT" in
[0-9]*[0-9a-f]) ;;
*)
	echo "${0##*/}: this is neither a clone nor an archive made by git ('git archive'), so its commit is not known" >&2
	exit 1
	;;
esac
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$TIME}
if [[ ", $REFS," == *", tag: v$RELEASE,"* ]] && [ -z "$DIRTY" ]; then
	COMMIT=release
	PACKAGE_VERSION=$RELEASE
else
	COMMIT=${COMMIT:0:12}
	if [ -n "$DIRTY" ]; then
		COMMIT+=.changed
		echo "${0##*/}: there are changes that are not committed: nobody else can build the same" >&2
	fi
	PACKAGE_VERSION=$RELEASE~git$(date -u -d "@$TIME" +%Y%m%d).$COMMIT
fi
printf '%s\n' "RELEASE=$RELEASE" "COMMIT=$COMMIT" "PACKAGE_VERSION=$PACKAGE_VERSION" "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH"

#!/usr/bin/env bash
# Installs what 'make' has built, or takes it away again.
set -euo pipefail

usage() {
	cat <<-END
		usage: scripts/install.sh [--uninstall]

		  PREFIX      where it goes: /usr/local
		  SYSCONFDIR  where its configuration goes: /etc
		  ZSHDIR      where zsh looks for completions: PREFIX/share/zsh/site-functions
		  DESTDIR     goes before each path, to stage a package
		  BIN, SHARE  what is installed: bin/aarptun, bin/share

		A configuration that is there stays as it is. --uninstall leaves it, if it was
		changed, and keys.
	END
}

UNINSTALL=
case "${1:-}" in
"") ;;
--uninstall) UNINSTALL=1 ;;
-h | --help)
	usage
	exit 0
	;;
*)
	usage >&2
	exit 64
	;;
esac

cd "$(dirname "$0")/.."
PREFIX=${PREFIX:-/usr/local}
SYSCONFDIR=${SYSCONFDIR:-/etc}
ZSHDIR=${ZSHDIR:-$PREFIX/share/zsh/site-functions}
BIN=${BIN:-bin/aarptun}
SHARE=${SHARE:-bin/share}
CONFIG=internal/config/reference.toml

if [ ! -e "$BIN" ] || [ ! -d "$SHARE" ]; then
	echo "${0##*/}: $BIN and $SHARE are not built: run 'make' first" >&2
	exit 1
fi

# put MODE FILE PATH: installs the file, or removes the path.
put() {
	local to=${DESTDIR:-}$3
	if [ -n "$UNINSTALL" ]; then
		rm -fv "$to"
	else
		install -D -m "$1" "$2" "$to"
	fi
}

# unit FILE PATH: with the program and the configuration where they are.
unit() {
	local made
	made=$(mktemp)
	sed "s,/usr/bin/aarptun,$PREFIX/bin/aarptun,; s,/etc/aarptun,$SYSCONFDIR/aarptun," "$1" >"$made"
	put 644 "$made" "$2"
	rm "$made"
}

put 755 "$BIN" "$PREFIX/bin/aarptun"
for page in "$SHARE"/man/*; do
	section=${page%.gz}
	put 644 "$page" "$PREFIX/share/man/man${section##*.}/${page##*/}"
done
put 644 "$SHARE/completions/bash" "$PREFIX/share/bash-completion/completions/aarptun"
put 644 "$SHARE/completions/zsh" "$ZSHDIR/_aarptun"
put 644 "$SHARE/completions/fish" "$PREFIX/share/fish/vendor_completions.d/aarptun.fish"
unit packaging/aarptun.service "$PREFIX/lib/systemd/system/aarptun.service"
unit packaging/aarptun-member.service "$PREFIX/lib/systemd/system/aarptun-member.service"
put 644 packaging/aarptun.sysusers "$PREFIX/lib/sysusers.d/aarptun.conf"

etc=${DESTDIR:-}$SYSCONFDIR/aarptun
if [ -z "$UNINSTALL" ]; then
	[ -e "$etc/aarptun.toml" ] || put 644 $CONFIG "$SYSCONFDIR/aarptun/aarptun.toml"
	if [ -z "${DESTDIR:-}" ] && command -v systemd-sysusers >/dev/null; then
		systemd-sysusers "$PREFIX/lib/sysusers.d/aarptun.conf"
	fi
else
	if cmp -s "$etc/aarptun.toml" $CONFIG; then
		rm -fv "$etc/aarptun.toml"
	fi
	if [ -d "$etc" ]; then
		rmdir -v --ignore-fail-on-non-empty "$etc"
	fi
fi

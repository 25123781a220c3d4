#!/usr/bin/env bash
# Builds what is handed out: static binaries for amd64 and arm64, archives, deb and
# rpm, bills of materials, checksums. Two builds of the same commit, with the same
# release of Go, give the same bytes, wherever and whenever they are made.
set -euo pipefail

usage() {
	cat <<-END
		usage: scripts/dist.sh [DIR]

		Builds into DIR, which is dist if it is not given; what was in it goes. The version
		is what scripts/version.sh says. SOURCE_DATE_EPOCH stands for the time of the
		commit, as reproducible-builds.org has it.
	END
}

case "${1:-}" in
-h | --help)
	usage
	exit 0
	;;
-*)
	usage >&2
	exit 64
	;;
esac
OUT=$(realpath -m "${1:-dist}")
cd "$(dirname "$0")/.."

# What a build must not depend on.
umask 022
export LC_ALL=C TZ=UTC CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOOS='' GOARCH='' GOAMD64=v1 GOARM64=v8.0 GOEXPERIMENT=
versions=$(scripts/version.sh)
eval "$versions"
export RELEASE COMMIT PACKAGE_VERSION SOURCE_DATE_EPOCH

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
rm -rf "$OUT"
mkdir -p "$OUT"

# Tools for this machine.
go build -trimpath -o "$WORK/sbom" ./scripts/sbom
go build -modfile=scripts/dist.mod -o "$WORK/nfpm" github.com/goreleaser/nfpm/v2/cmd/nfpm
# What they all must have, one binary's words for both.
link="-s -w -X main.commit=$COMMIT"
go build -trimpath -ldflags "$link" -o "$WORK/aarptun" ./cmd/aarptun
AARPTUN=$WORK/aarptun scripts/share.sh "$WORK/share"
gzip -n9 "$WORK"/share/man/*

# stage DIR BINARY ZSHDIR: the files of a package.
stage() {
	DESTDIR=$1 BIN=$2 ZSHDIR=$3 PREFIX=/usr SHARE=$WORK/share scripts/install.sh
	install -D -m 644 packaging/copyright "$1/usr/share/doc/aarptun/copyright"
	install -m 644 README.md "$WORK/licences" "$1/usr/share/doc/aarptun"
	gzip -n9 <CHANGELOG.md >"$1/usr/share/doc/aarptun/changelog.gz"
	# Everything is as old as the commit.
	find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
}

# package ARCH KIND: nfpm says what is wrong on standard output.
package() {
	local said
	said=$(GOARCH=$1 STAGE=$WORK/$2-$1 "$WORK/nfpm" package --config packaging/nfpm.yaml --packager "$2" --target "$OUT/" 2>&1) || {
		echo "$said" >&2
		return 1
	}
}

# archive DIR NAME BINARY: the same for who has neither dpkg nor rpm.
archive() {
	mkdir "$1/$2"
	install -m 755 "$3" "$1/$2/aarptun"
	install -m 644 LICENSE README.md CHANGELOG.md "$WORK/licences" packaging/aarptun.service packaging/aarptun-member.service packaging/aarptun.sysusers "$1/$2"
	install -m 644 internal/config/reference.toml "$1/$2/aarptun.toml"
	cp -r "$WORK/share/." "$1/$2"
	tar --sort=name --format=ustar --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=u+rw,go=rX -C "$1" -cf - "$2" | gzip -n9 >"$OUT/$2.tar.gz"
}

for arch in amd64 arm64; do
	binary=$OUT/aarptun-linux-$arch
	GOOS=linux GOARCH=$arch go build -trimpath -ldflags "$link" -o "$binary" ./cmd/aarptun
	"$WORK/sbom" -version "$PACKAGE_VERSION" "$binary" >"$OUT/aarptun-linux-$arch.cdx.json"
	"$WORK/sbom" -licences "$binary" >"$WORK/licences"
	for kind in deb rpm; do
		zsh=/usr/share/zsh/site-functions
		[ $kind = rpm ] || zsh=/usr/share/zsh/vendor-completions
		stage "$WORK/$kind-$arch" "$binary" $zsh
		package "$arch" $kind
	done
	mkdir "$WORK/tar-$arch"
	archive "$WORK/tar-$arch" "aarptun-$PACKAGE_VERSION-linux-$arch" "$binary"
done
(cd "$OUT" && sha256sum -- * >SHA256SUMS)
cat "$OUT/SHA256SUMS"

#!/usr/bin/env bash
# What 'make dist' makes: built twice, at different places and in different ways, it
# is the same to the byte; it is installed, used and taken away on a copy of this
# host; its pages and completions are read by the programs they are for.
set -euo pipefail

usage() {
	cat <<-END
		usage: scripts/dist-test.sh

		What is committed is built and tested. Exit code 77: this kernel or user may not
		make the namespaces, or a program is missing that this is tested with.
	END
}

ROOT=$(cd "$(dirname "$0")/.." && pwd)
TOOLS=(dpkg rpm jq yq mandoc groff man zsh fish file)

# shellcheck source=scripts/lab.bash
. "$ROOT/scripts/lab.bash"
command_line "" "$@"
unset -f aarptun # here it is the program of the package

# build_twice: from a clone, and from an archive that has no repository, with what
# should make no difference changed.
build_twice() {
	echo "# two builds of $(git -C "$ROOT" rev-parse --short HEAD)"
	git clone -q --no-hardlinks "$ROOT" "$WORK/clone"
	mkdir -p "$WORK/a much longer path/source"
	git -C "$ROOT" archive HEAD | tar -x -C "$WORK/a much longer path/source"
	"$WORK/clone/scripts/dist.sh" "$WORK/first" >"$WORK/first.log"
	(umask 077 && cd / && TZ=Asia/Tokyo LANG=tr_TR.UTF-8 GOFLAGS=-v GOAMD64=v3 "$WORK/a much longer path/source/scripts/dist.sh" "$WORK/second" >"$WORK/second.log" 2>"$WORK/second.err")
}

if [ -z "$INSIDE" ]; then
	for tool in "${TOOLS[@]}"; do
		command -v "$tool" >/dev/null || cannot "there is no '$tool' command"
	done
	[ "$(id -u)" = 0 ] || cannot "run as root: packages are installed, on a copy of the host"
	WORK=$(mktemp -d)
	trap 'rm -rf "$WORK"' EXIT
	build_twice
	status=0
	WORK=$WORK unshare --mount --net --pid --fork --kill-child --mount-proc "$ROOT/scripts/dist-test.sh" --inside || status=$?
	exit "$status"
fi
mount --make-rprivate /
TMP=$WORK
# shellcheck source=scripts/check.bash
. "$ROOT/scripts/check.bash"

DIST=$WORK/first
VERSION=$(cd "$WORK/clone" && scripts/version.sh | sed -n 's/^PACKAGE_VERSION=//p')

same_bytes() { diff <(cd "$WORK/first" && sha256sum -- *) <(cd "$WORK/second" && sha256sum -- *); }
sums_are_right() { (cd "$DIST" && sha256sum --strict -c SHA256SUMS) && [ "$(find "$DIST" -type f ! -name SHA256SUMS | wc -l)" = "$(wc -l <"$DIST/SHA256SUMS")" ]; }
is_static() { says "$2.*statically linked" file "$1"; }

# billed ARCH: the bill names the binary's digest and each module that Go knows of.
billed() {
	local bill=$DIST/aarptun-linux-$1.cdx.json binary=$DIST/aarptun-linux-$1
	diff <(go version -m "$binary" | awk '$1 == "dep" {print $2, $3}' | sort) \
		<(jq -r '.components[] | select(.name != "std") | "\(.name) \(.version)"' "$bill" | sort) || return 1
	[ "$(jq -r '.metadata.component.hashes[0].content' "$bill")" = "$(sha256sum <"$binary" | cut -d' ' -f1)" ] || return 1
	# Each has a name of its own, and what depends on what is known.
	jq -e '.bomFormat == "CycloneDX" and .specVersion == "1.6" and ([.components[]["bom-ref"]] | length == (unique | length))
		and (.dependencies[0].dependsOn | sort) == ([.components[]["bom-ref"]] | sort)
		and ([.components[] | select(.name != "std") | .hashes[0].content | test("^[0-9a-f]{64}$")] | all)' "$bill"
}

artefacts() {
	local arch
	echo "# what was built"
	check "both builds made the same bytes" same_bytes
	check "SHA256SUMS has every file, and is right" sums_are_right
	check "the amd64 binary is static" is_static "$DIST/aarptun-linux-amd64" x86-64
	check "the arm64 binary is static" is_static "$DIST/aarptun-linux-arm64" aarch64
	for arch in amd64 arm64; do
		check "$arch: the bill of materials is of the binary and all its modules" billed $arch
		check "$arch: the archive unpacks to one directory" says "^aarptun-[^/]*-linux-$arch/aarptun\$" tar -tzf "$DIST/aarptun-$VERSION-linux-$arch.tar.gz"
	done
}

# copy_host: this host, in $HOST, on which whatever is done is forgotten.
copy_host() {
	mount -t tmpfs tmpfs /mnt
	mkdir /mnt/upper /mnt/work /mnt/host
	mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/host
	HOST=/mnt/host
	mount -t proc proc $HOST/proc
	mount --rbind /dev $HOST/dev
	mount -t tmpfs tmpfs $HOST/run
	mount -t tmpfs tmpfs $HOST/tmp
	# Not what this host may have by hand.
	rm -rf $HOST/etc/aarptun $HOST/usr/bin/aarptun $HOST/usr/local/bin/aarptun
	chroot $HOST sh -c 'getent passwd aarptun >/dev/null && userdel aarptun' || true
	# The packages' documents are installed here too.
	rm -f $HOST/etc/dpkg/dpkg.cfg.d/*
	mkdir -p $HOST/tmp/dist $HOST/usr/share/zsh/site-functions
	cp "$DIST"/*_amd64.deb "$DIST"/*.x86_64.rpm $HOST/tmp/dist
}
on_host() { chroot $HOST env PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"; }

# files: what is on the copy, but for the books of package managers and logs.
files() { (cd $HOST && find etc usr opt var/lib -xdev \( -path var/lib/dpkg -o -path 'var/lib/rpm*' -o -path 'etc/*-' -o -path etc/.pwd.lock \) -prune -o -printf '%p %y %m\n' | sort); }
left_nothing() { diff "$WORK/files.before" <(files); }
enabled() { find $HOST/etc/systemd -name 'aarptun*' | grep .; }

package() { # package NAME INSTALL... : what is the same for deb and rpm
	local name=$1
	shift
	files >"$WORK/files.before"
	check "$name: it is installed" on_host "$@"
	check "$name: its program runs, and says its version" says "^aarptun $(sed 's/~git[0-9]*\./[+]/' <<<"$VERSION") go.* linux/amd64\$" on_host aarptun version
	check "$name: the services' user is there" says '^aarptun:' on_host getent passwd aarptun
	check "$name: the services are there, and not enabled" not enabled
	check "$name: the units name the program and the configuration" grep -qx 'ExecStart=/usr/bin/aarptun run -c /etc/aarptun/aarptun.toml' $HOST/usr/lib/systemd/system/aarptun.service
	check "$name: the configuration is right but for the prefixes" exits 64 on_host aarptun check-config
	check "$name: with one it is right" on_host aarptun check-config -p 2001:db8:aa::/64
	check "$name: the licences of all modules are there" grep -q '^gvisor.dev/gvisor' $HOST/usr/share/doc/aarptun/licences
}

deb() {
	local config=$HOST/etc/aarptun/aarptun.toml
	echo "# the deb, on a copy of this host"
	package deb sh -c 'dpkg -i /tmp/dist/*.deb'
	echo 'prefix = ["2001:db8:aa::/64"]' >>"$config"
	check "deb: an upgrade keeps a changed configuration" on_host sh -c 'dpkg -i /tmp/dist/*.deb && tail -1 /etc/aarptun/aarptun.toml | grep ^prefix'
	check "deb: man finds its pages" says 'carry anycast prefixes until stopped' on_host env MANPAGER=cat man aarptun-run
	pages $HOST/usr/share/man
	check "deb: it is removed" on_host dpkg -r aarptun
	check "deb: that leaves the configuration alone" diff <(files | grep -E '^(etc|usr)/.*aarptun') <(printf '%s\n' 'etc/aarptun d 755' 'etc/aarptun/aarptun.toml f 644')
	check "deb: it is purged" on_host dpkg -P aarptun
	on_host userdel aarptun
	check "deb: that leaves nothing but its user" left_nothing
}

rpm_() {
	echo "# the rpm, on the same copy"
	package rpm sh -c 'rpm -i --nodeps --excludedocs /tmp/dist/*.rpm && rpm -U --nodeps --replacepkgs /tmp/dist/*.rpm'
	check "rpm: it has what the deb has" diff <(on_host sh -c 'dpkg -c /tmp/dist/*.deb' | awk '$1 ~ /^-/ {print $6}' | sed 's,^\.,,; s,/vendor-completions/,/site-functions/,' | sort) \
		<(on_host sh -c 'rpm -qpl /tmp/dist/*.rpm' | while read -r path; do [ -d "$HOST$path" ] || echo "$path"; done | sort)
	check "rpm: the configuration is kept from being replaced" says '^/etc/aarptun/aarptun.toml$' on_host rpm -qc aarptun
	check "rpm: nothing of it was changed" on_host rpm -V --nodeps aarptun
	check "rpm: it is removed" on_host rpm -e aarptun
	on_host userdel aarptun
	check "rpm: that leaves nothing but its user" left_nothing
}

# quiet COMMAND...: it succeeds and has nothing to say.
quiet() {
	local out
	out=$("$@" 2>&1) || {
		echo "$out"
		return 1
	}
	echo "$out"
	[ -z "$out" ]
}
lint() { # lint MAN: mandoc, groff and man-db have nothing to say about a page
	local packed page
	for packed in "$1"/man[58]/aarptun*.gz; do
		page=$WORK/$(basename "$packed" .gz)
		gunzip -c "$packed" >"$page"
		quiet mandoc -Tlint -W warning "$page" || return 1
		quiet groff -ww -man -Tutf8 -z "$page" || return 1
		quiet sh -c 'MANWIDTH=80 LC_ALL=C.UTF-8 man --warnings -l "$1" >"$1.text" && test -s "$1.text"' sh "$page" || return 1
	done
}

every_command_has_a_page() {
	local name
	for name in $("$DIST/aarptun-linux-amd64" help --json | jq -r '.. | objects | select(has("flags")) | .name | gsub(" "; "-")'); do
		[ -e "$1/man8/$name.8.gz" ] || {
			echo "there is none for $name"
			return 1
		}
	done
}

pages() {
	check "each command has its page" every_command_has_a_page "$1"
	check "mandoc, groff and man have nothing to say about any page" lint "$1"
	check "aarptun.toml(5) shows the keys" says '#cache-ttl = "30s"' man -P cat -l "$1/man5/aarptun.toml.5.gz"
}

completions() {
	echo "# completions"
	local bin=$WORK/bin
	mkdir "$bin"
	cp "$DIST/aarptun-linux-amd64" "$bin/aarptun"
	PATH=$bin:$PATH
	local shell
	for shell in bash zsh fish; do
		aarptun completion $shell >"$WORK/$shell.completion"
		check "$shell: a command" says '^run( |	|$)' "$ROOT/scripts/complete.$shell" "$WORK/$shell.completion" aarptun ru
		check "$shell: a flag" says '^--drain-timeout' "$ROOT/scripts/complete.$shell" "$WORK/$shell.completion" aarptun run --drain-
		check "$shell: each word of a choice, and nothing else" diff <(printf '%s\n' flow host source) \
			<("$ROOT/scripts/complete.$shell" "$WORK/$shell.completion" aarptun run --sticky '' | sort)
		check "$shell: nothing where nothing is known" not says . "$ROOT/scripts/complete.$shell" "$WORK/$shell.completion" aarptun run --cache-ttl ''
	done
}

installed_by_hand() {
	echo "# make install"
	local dest=$WORK/dest
	(cd "$WORK/clone" && make -s build share) >"$WORK/make.log" 2>&1
	check "make install" make -s -C "$WORK/clone" install DESTDIR="$dest" PREFIX=/opt/aarptun
	check "what it installed runs" "$dest/opt/aarptun/bin/aarptun" version
	check "its unit names it" grep -qx 'ExecStart=/opt/aarptun/bin/aarptun run -c /etc/aarptun/aarptun.toml' "$dest/opt/aarptun/lib/systemd/system/aarptun.service"
	echo 'log-level = "debug"' >>"$dest/etc/aarptun/aarptun.toml"
	check "again: the configuration stays" says '^log-level' sh -c "make -s -C '$WORK/clone' install DESTDIR='$dest' PREFIX=/opt/aarptun && tail -1 '$dest/etc/aarptun/aarptun.toml'"
	check "make uninstall" make -s -C "$WORK/clone" uninstall DESTDIR="$dest" PREFIX=/opt/aarptun
	check "it leaves the changed configuration alone" diff <(cd "$dest" && find . -type f) <(echo ./etc/aarptun/aarptun.toml)
}

# manifests: the YAML of docs/kubernetes.md.
manifests() { sed -n '/^```yaml$/,/^```$/p' "$ROOT/docs/kubernetes.md" | grep -v '^```'; }
containers() {
	local source
	echo "# containers"
	for source in $(sed -n 's/^COPY \(--[^ ]* \)*\([^ ]*\) .*/\2/p' "$ROOT/Containerfile" | sed 's/\${TARGETARCH}/amd64/; s,^dist/,,'); do
		check "Containerfile: there is $source to copy" test -e "$DIST/$source" -o -e "$ROOT/$source"
	done
	check "docs/kubernetes.md: three objects, and the DaemonSet last" says '^Namespace ConfigMap DaemonSet $' sh -c "printf '%s ' \$(yq -r .kind)" < <(manifests)
	manifests | yq 'select(.kind == "DaemonSet") | .spec.template.spec' >"$WORK/pod.json"
	check "it is on the node's network with the two capabilities and no others" jq -e '.hostNetwork and
		(.containers + .initContainers | all(.securityContext.capabilities == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}))' "$WORK/pod.json"
	check "what it mounts are volumes that it has" jq -e '([.volumes[].name] | sort) as $have | .containers + .initContainers | all([.volumeMounts[].name] | sort == $have)' "$WORK/pod.json"
	manifests | yq -r 'select(.kind == "ConfigMap") | .data["aarptun.toml"]' >"$WORK/aarptun.toml"
	check "aarptun reads its ConfigMap" aarptun check-config -c "$WORK/aarptun.toml"
	# shellcheck disable=SC2046 # words without spaces
	check "and knows the words it is started with" says 'Usage:' aarptun $(jq -r '.containers[0].args | join(" ")' "$WORK/pod.json") --help
}

artefacts
copy_host
deb
rpm_
completions
containers
installed_by_hand
if [ "$FAILED" -gt 0 ]; then
	echo "# $FAILED of $((PASSED + FAILED)) failed"
	exit 1
fi
echo "# all $PASSED passed"

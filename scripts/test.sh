#!/usr/bin/env bash
# Everything that is tested, in the order in which it fails fastest. As root or
# not: what needs root runs in a user namespace where the kernel allows one, and
# says why when it is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
	cat <<-END
		usage: scripts/test.sh [--lint | --end-to-end | --fuzz TIME]

		  (nothing)     format, vet, staticcheck, unit tests with the race detector,
		                then the end-to-end tests in network namespaces
		  --lint        format, vet and staticcheck only
		  --end-to-end  the end-to-end tests only
		  --fuzz TIME   each fuzz target for TIME, such as 10s
	END
}

lint() {
	echo "== gofmt, go vet, staticcheck"
	local unformatted
	unformatted=$(git ls-files '*.go' | xargs gofmt -l)
	if [ -n "$unformatted" ]; then
		printf 'not gofmt-clean:\n%s\n' "$unformatted" >&2
		return 1
	fi
	go vet ./...
	go tool -modfile=scripts/tools.mod staticcheck -checks all ./...
}

# in_namespace runs a command in user, network and mount namespaces of its own,
# with a loopback, so that a plain user may run what needs root and root's tests
# cannot touch the host. What the command needs from the network is fetched
# before.
in_namespace() {
	local flags=(--net --mount)
	[ "$(id -u)" = 0 ] || flags+=(--user --map-root-user)
	if unshare "${flags[@]}" true 2>/dev/null; then
		unshare "${flags[@]}" sh -c 'ip link set lo up && exec "$@"' sh "$@"
	else
		echo "no user namespaces here (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces): tests that need root will say that they are skipped"
		"$@"
	fi
}

unit() {
	echo "== go test -race"
	go mod download
	go build ./...
	in_namespace go test -race ./...
}

# end_to_end SCRIPT...: runs them all, two at a time, since most of what they do is
# to wait, and shows what each has said when it has ended. Exit code 77 says that
# this kernel or user may not make the namespaces, and why.
end_to_end() {
	local script failed=0
	SAID=$(mktemp -d)
	# Built once: what runs cannot be overwritten. Named, so that nobody else does.
	export AARPTUN=$PWD/bin/aarptun LAB=$PWD/bin/lab FIDELITY=$PWD/bin/fidelity SOAK=$PWD/bin/soak BENCH=$PWD/bin/bench
	for script in cmd/aarptun scripts/lab scripts/fidelity scripts/soak scripts/bench; do
		CGO_ENABLED=0 go build -trimpath -o "bin/${script##*/}" "./$script"
	done
	# Jobs of their own groups: those of a shell without job control would ignore Ctrl-C.
	set -m
	RUNNING=()
	trap 'for pid in "${RUNNING[@]}"; do kill -- "-$pid"; done; exit 130' INT TERM
	for script in "$@"; do
		[ ${#RUNNING[@]} -lt 2 ] || next_ends || failed=1
		[ "$failed" = 0 ] || break
		one "$script" </dev/null &
		RUNNING+=($!)
	done
	while [ ${#RUNNING[@]} -gt 0 ]; do next_ends || failed=1; done
	trap - INT TERM
	set +m
	rm -rf "$SAID"
	return "$failed"
}

# next_ends waits for one of those that run, and returns what it does.
next_ends() {
	local status=0 ended='' pid left=()
	wait -n -p ended "${RUNNING[@]}" || status=$?
	for pid in "${RUNNING[@]}"; do
		[ "$pid" = "$ended" ] || left+=("$pid")
	done
	[ -n "$ended" ] || left=() # there is none of them any more
	RUNNING=("${left[@]}")
	return "$status"
}

# one SCRIPT: runs it, and shows what it said in one go. A variable may stand before
# it, and arguments behind it.
one() {
	local status=0 began=$SECONDS said variable=
	said=$(mktemp -p "$SAID")
	case "$1" in *=*\ *) variable=${1%% *} ;; esac
	# shellcheck disable=SC2086 # a script and its arguments
	env $variable scripts/${1#"$variable "} >"$said" 2>&1 || status=$?
	(
		flock 9
		echo "== $1, $((SECONDS - began)) s"
		cat "$said"
		if [ "$status" = 77 ] && [ -z "${AARPTUN_TEST_NO_SKIP:-}" ]; then
			echo "skipped, for the reason above"
		elif [ "$status" != 0 ]; then
			echo "$1 failed: exit code $status"
		fi
	) 9>"$SAID/lock"
	[ "$status" = 0 ] || { [ "$status" = 77 ] && [ -z "${AARPTUN_TEST_NO_SKIP:-}" ]; }
}

all_scripts() {
	end_to_end dist-test.sh netns-test.sh "AARPTUN_RUN_FLAGS=--offload-gso=off netns-test.sh" "AARPTUN_RUN_FLAGS=--offload=nft netns-test.sh" offload-test.sh tutorial-test.sh members-test.sh fidelity.sh "fidelity.sh --offload" \
		attack.sh "soak.sh --for 60s" fault-test.sh gateway-test.sh exec-test.sh unit-test.sh watch-test.sh reload-test.sh "bench.sh --quick"
}

fuzz() {
	local package target
	for package in $(go list ./...); do
		for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
			echo "== fuzz $package $target for $1"
			fuzz_one "$package" "$target" "$1"
		done
	done
}

# fuzz_one PACKAGE TARGET TIME: before Go 1.27 a target may fail for the one reason that
# its time is over (go.dev/issue/75804). That is none: what is found is written down.
fuzz_one() {
	local said status=0
	said=$(mktemp)
	# Where goroutines make the coverage waver, minimising would take the time.
	go test -run "^$" -fuzz "^$2\$" -fuzztime "$3" -fuzzminimizetime 5x "$1" 2>&1 | tee "$said" || status=$?
	if [ "$status" != 0 ] && only_time_is_over <"$said"; then
		echo "its time was over in the middle of an input, and nothing was found"
		status=0
	fi
	rm -f "$said"
	return "$status"
}

# only_time_is_over reads what a target that has failed has said.
only_time_is_over() {
	[ "$(sed '0,/^--- FAIL: /d' | sed '/^FAIL$/,$d')" = "    context deadline exceeded" ]
}

case "${1:-}" in
"")
	# One a line: in a list with && a failure in the middle of one would count for nothing.
	lint
	unit
	all_scripts
	;;
--end-to-end) all_scripts ;;
--lint) lint ;;
--fuzz) fuzz "${2:?--fuzz wants a time, such as 10s}" ;;
-h | --help) usage ;;
*)
	usage >&2
	exit 64
	;;
esac

#!/usr/bin/env bash
# Everything that is tested, in the order in which it fails fastest. As root or
# not: what needs root runs in a user namespace where the kernel allows one, and
# says why when it is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
	cat <<-END
		usage: scripts/test.sh [--lint | --fuzz TIME]

		  (nothing)     format, vet, staticcheck, unit tests with the race detector,
		                then the end-to-end tests in network namespaces
		  --lint        format, vet and staticcheck only
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

# end_to_end SCRIPT...: runs each; exit code 77 says that this kernel or user may
# not make the namespaces, and why.
end_to_end() {
	local script status
	for script in "$@"; do
		echo "== scripts/$script"
		status=0
		# shellcheck disable=SC2086 # a script and its arguments
		scripts/$script || status=$?
		if [ "$status" = 77 ] && [ -z "${AARPTUN_TEST_NO_SKIP:-}" ]; then
			echo "skipped, for the reason above"
		elif [ "$status" != 0 ]; then
			return "$status"
		fi
	done
}

fuzz() {
	local package target
	for package in $(go list ./...); do
		for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
			echo "== fuzz $package $target for $1"
			# Where goroutines make the coverage waver, minimising would take the time.
			go test -run "^$" -fuzz "^$target\$" -fuzztime "$1" -fuzzminimizetime 5x "$package"
		done
	done
}

case "${1:-}" in
"")
	lint && unit && end_to_end netns-test.sh fault-test.sh tutorial-test.sh members-test.sh reload-test.sh gateway-test.sh exec-test.sh watch-test.sh fidelity.sh attack.sh "soak.sh --for 60s" unit-test.sh dist-test.sh "bench.sh --quick" &&
		AARPTUN_RUN_FLAGS="--offload-gso off" end_to_end netns-test.sh
	;;
--lint) lint ;;
--fuzz) fuzz "${2:?--fuzz wants a time, such as 10s}" ;;
-h | --help) usage ;;
*)
	usage >&2
	exit 64
	;;
esac

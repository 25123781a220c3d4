# shellcheck shell=bash
# Assertions, one line each; sourced by netns-test.sh, members-test.sh and attack.sh.

PASSED=0 FAILED=0

# check TEXT COMMAND...: one assertion, one line.
check() {
	local text=$1
	shift
	if "$@" >"$TMP/out" 2>&1; then
		PASSED=$((PASSED + 1))
		echo "ok $((PASSED + FAILED)) - $text"
	else
		FAILED=$((FAILED + 1))
		echo "not ok $((PASSED + FAILED)) - $text"
		sed 's/^/#   /' "$TMP/out" | tail -20
	fi
}

not() { ! "$@"; }
says() { # says PATTERN COMMAND...: the command succeeds and prints the pattern
	local pattern=$1 out
	shift
	out=$("$@") || return 1
	echo "$out"
	grep -qE -- "$pattern" <<<"$out"
}
fails_with() { # fails_with PATTERN COMMAND...: the command fails and says so
	local pattern=$1 out
	shift
	if out=$("$@" 2>&1); then
		echo "it succeeded: $out"
		return 1
	fi
	echo "$out"
	grep -qE -- "$pattern" <<<"$out"
}
exits() { # exits CODE COMMAND...
	local want=$1 got=0
	shift
	"$@" || got=$?
	echo "exit code $got, want $want"
	[ "$got" = "$want" ]
}

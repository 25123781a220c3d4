#!/usr/bin/env bash
# Attackers, in namespaces of the script's own as in netns-test.sh: one off the
# path, that spoofs a million replies, and one on it, that sees each probe and is
# heard first. docs/threats.md says what each may reach; this holds it to that.
set -euo pipefail

usage() {
	cat <<-END
		usage: scripts/attack.sh [PART ...]

		  (nothing)  all parts
		  off        off the path: forged echo replies, STUN answers and ICMP errors
		  on         on the path: answers first, at each level of trust

		AARPTUN and LAB may name binaries to use instead of building them; FORGED is
		the number of replies to forge, 1000000 if unset.
		Exit code 77: this kernel or user may not make the namespaces.
	END
}

ROOT=$(cd "$(dirname "$0")/.." && pwd)

# shellcheck source=scripts/lab.bash
. "$ROOT/scripts/lab.bash"
command_line "off on" "$@"

into_namespaces AARPTUN:cmd/aarptun LAB:scripts/lab

# AA and LO are served by m1 alone, these two by m2 alone.
AA2=2001:db8:aa::2
LO2=2001:db8:ab::2
VICTIM=2001:db8:13::2 # a host that has nothing to do with any of this
ATTACKER=2001:db8:66::2 # the attacker's own address
MEMBERS=(--member-prefix 2001:db8:11::/64 --member-prefix 2001:db8:12::/64)
LO2_4=203.0.113.194
VICTIM_4=198.18.2.2
ATTACKER_4=198.18.1.2
MEMBERS_4=(--member-prefix 192.0.2.0/25 --member-prefix 192.0.2.128/25)


start_one() { # start_one N JOINED ANYCAST ANYCAST: a member with every kind of proof
	spawn "$TMP/member$1.log" ip netns exec "m$1" "$AARPTUN" member --join "$2%eth0" --anycast "$3" --anycast "$4" \
		--psk-file "$TMP/psk" --keyless --ed25519-file "$TMP/key" --rate 100000
	spawn "$TMP/serve$1.log" ip netns exec "m$1" "$LAB" serve --name "m$1" --addr ":$PORT"
	eventually 5 grep -q "^answering $4" "$TMP/member$1.log"
	eventually 5 grep -q "^joined $2%eth0" "$TMP/member$1.log"
	eventually 5 grep -q '^serving' "$TMP/serve$1.log"
}

build_attack() {
	local ns
	build_lab
	for ns in victim attacker; do
		ip netns add $ns
		ip -n $ns link set lo up
	done
	connect victim eth0 $VICTIM 198.18.2.2 router v0 2001:db8:13::1 198.18.2.1
	connect attacker eth0 $ATTACKER 198.18.1.2 router a0 2001:db8:66::1 198.18.1.1
	ip -n victim -6 route add default via 2001:db8:13::1
	ip -n attacker -6 route add default via 2001:db8:66::1
	ip -n victim route add default via 198.18.2.1
	ip -n attacker route add default via 198.18.1.1
	ip -n m1 addr add $LO/128 dev lo nodad
	ip -n m2 addr add $LO2/128 dev lo nodad
	ip -n m1 addr add $LO4/32 dev lo
	ip -n m2 addr add $LO2_4/32 dev lo
	ip -n router route add $LO2_4/32 via $UA2_4
	ip -n router -6 route add $AA2/128 via $UA2
	ip -n router -6 route add $LO2/128 via $UA2
	"$AARPTUN" keygen psk "$TMP/psk"
	PUBLIC=$("$AARPTUN" keygen ed25519 "$TMP/key")
	start_one 1 $AA $LO $LO4
	start_one 2 $AA2 $LO2 $LO2_4
}

build_attack
for part in off on; do # in this order: afterwards the client's link is cut
	[[ " ${PARTS[*]} " == *" $part "* ]] || continue
	# shellcheck source=scripts/attack-off.bash
	# shellcheck source=scripts/attack-on.bash
	. "$ROOT/scripts/attack-$part.bash"
done

if [ "$FAILED" -gt 0 ]; then
	echo "# $FAILED of $((PASSED + FAILED)) failed"
	exit 1
fi
echo "# all $PASSED passed"

#!/usr/bin/env bash
# Which member: four kinds of members under route flips, members that drain, fall
# ill or die, and --sticky and --select over two equal paths (ECMP). Real kernels,
# in namespaces of the script's own, as in netns-test.sh.
set -euo pipefail

usage() {
	cat <<-END
		usage: scripts/members-test.sh [PART ...]

		  (nothing)  all parts
		  kinds      kernel anycast, subnet-router anycast, AA on lo with the
		             responder, in IPv6 and IPv4: each with TCP, UDP and echo flows
		             under route flips
		  fates      a member that drains, is unhealthy, is killed, is cut off
		  drains     --unresolved direct: AA on lo answers an echo, and that leads no
		             new flow to a member that drains, or whose responder has died
		  select     spread, rtt, source

		AARPTUN, LAB and FIDELITY may name binaries to use instead of building them.
		Exit code 77: this kernel or user may not make the namespaces.
	END
}

ROOT=$(cd "$(dirname "$0")/.." && pwd)

# shellcheck source=scripts/lab.bash
. "$ROOT/scripts/lab.bash"
command_line "kinds fates drains select" "$@"

into_namespaces AARPTUN:cmd/aarptun LAB:scripts/lab FIDELITY:scripts/fidelity

# The subnet-router anycast address of a prefix that both members have (RFC 4291
# section 2.6.1): a router answers for it with no software at all.
SUBNET=2001:db8:ac::


# lead N: routes all anycast addresses to member N.
lead() {
	route_to "$1"
	local ua=UA$1
	ip -n router -6 route replace $SUBNET/128 via "${!ua}"
}

# lead_both: routes them over two equal paths.
lead_both() {
	local aa
	for aa in $AA $LO $SUBNET; do
		ip -n router -6 route del $aa/128
		ip -n router -6 route add $aa/128 nexthop via $UA1 nexthop via $UA2
	done
	ip -n router route replace $LO4/32 nexthop via $UA1_4 nexthop via $UA2_4
	ROUTED=both
}

lead_one() { # lead_one N, after lead_both
	local aa
	for aa in $AA $LO $SUBNET; do
		ip -n router -6 route del $aa/128
	done
	lead "$1"
}

# hash_policy N: 0 hashes addresses and flow label, 1 the ports.
hash_policy() {
	set_sysctl router ipv6.fib_multipath_hash_policy "$1"
	set_sysctl router ipv4.fib_multipath_hash_policy "$1"
}

start_member() { # start_member N: the service, and all ways to be found
	local n=$1
	spawn "$TMP/member$n.log" ip netns exec "m$n" "$AARPTUN" member --join "$AA%eth0" --anycast $LO --anycast $LO4 \
		--check "test -e $TMP/healthy$n" --check-interval 100ms
	MEMBER[n]=$SPAWNED
	spawn "$TMP/serve$n.log" ip netns exec "m$n" "$LAB" serve --name "m$n" --addr ":$PORT" --log "$TMP/m$n.flows"
	SERVE[n]=$SPAWNED
	eventually 5 grep -q "^joined $AA%eth0" "$TMP/member$n.log"
	eventually 5 grep -q 'state=answering' "$TMP/member$n.log"
	eventually 5 grep -q '^serving' "$TMP/serve$n.log"
}
MEMBER=() SERVE=()

build_members() {
	local n
	build_lab
	for n in 1 2; do
		ip -n "m$n" addr add $LO/128 dev lo nodad
		ip -n "m$n" addr add $LO4/32 dev lo
		ip -n "m$n" link add subnet type veth peer name subnet-end
		ip -n "m$n" link set subnet-end up
		ip -n "m$n" link set subnet up
		ip -n "m$n" addr add "${SUBNET}$n/64" dev subnet nodad
		touch "$TMP/healthy$n"
		start_member $n
	done
	lead 1
}

run_aarptun() { start_aarptun -p $PREFIX_LO -p $PREFIX_LO4 -p $SUBNET/128 "$@"; }
end_aarptun() { check "the daemon ends with exit code 0" stop "$DAEMON"; }

new_flow_is() { [ "$(lab connect --timeout 10s "$1" | sed 's/.*member=//')" = "$2" ]; }

# one_kind NAME METHOD AA HOST: HOST is AA as it stands before a port.
one_kind() {
	local name=$1 method=$2 aa=$3 to=$4:$PORT pattern i flows
	pattern=$(sed 's/[].[]/\\&/g' <<<"$to")
	lead 1
	check "$name: TCP reaches a member, and getpeername() is AA" eventually 5 says "^peer=$pattern .*member=m1\$" lab connect "$to"
	check "$name: UDP is answered from AA" says "^from=$pattern member=m1\$" lab udp "$to"
	check "$name: ping is answered from AA" says "^from=$aa bytes=56\$" lab ping "$aa"
	check "$name: it was found by $method" says "^$aa +[^ ]+ +$method " aarptun pins
	start_flows "$method-${aa//[:.]/-}" "$to" --tcp 20 --udp 10 --echo 5
	flows=$SPAWNED
	for ((i = 0; i < 21; i++)); do
		lead $((3 - ROUTED))
		sleep 0.1
	done
	check "$name: a new flow goes where the route leads now" eventually 5 new_flow_is "$to" "m$ROUTED"
	check "$name: 20 TCP, 10 UDP and 5 echo flows survive 21 route flips, 0 broken" none_broke "$method-${aa//[:.]/-}" "$flows"
	lead 1
}

kinds() {
	echo "# four kinds of members"
	run_aarptun
	one_kind "kernel anycast" icmp $AA "[$AA]"
	one_kind "subnet-router anycast" icmp $SUBNET "[$SUBNET]"
	one_kind "AA on lo, responder" stun $LO "[$LO]"
	one_kind "IPv4 AA on lo, responder" stun $LO4 $LO4
	check "doctor finds no problem with any of them" not says '^problem' aarptun doctor $AA $SUBNET $LO $LO4
	check "doctor names the member and the way to it" says "^ok +$LO4 member route: the member $UA1_4 is reached by eth0" aarptun doctor $LO4
	check "resolve --explain says what each method answers" says "^stun +won +$UA1 " aarptun resolve --explain $LO
	end_aarptun
}

# all_on MEMBER TO: 20 connections, none fails, all on one member.
all_on() { [ "$(lab count -n 20 "$2" | tee /dev/stderr)" = "$1=20" ]; }
both_serve() { says '^m1=[0-9]+ m2=[0-9]+$' lab count -n 50 "$1"; }

fates() {
	local to="[$LO]:$PORT" old
	echo "# members that drain, are ill, are killed"
	hash_policy 1
	lead_both
	run_aarptun --sticky flow --select spread
	check "both members take flows" eventually 5 both_serve "$to"
	start_flows old "$to" --tcp 20 --udp 10
	old=$SPAWNED
	kill -USR1 "${MEMBER[1]}"
	sleep 1.2 # the TTL is a second
	check "m1 drains: after one TTL new flows go to m2" all_on m2 "$to"
	kill -USR2 "${MEMBER[1]}"
	check "it ends draining: it takes flows again" eventually 5 both_serve "$to"
	rm "$TMP/healthy2"
	eventually 5 grep -q 'state=unhealthy' "$TMP/member2.log"
	sleep 1.2
	check "m2 is unhealthy: after one TTL new flows go to m1" all_on m1 "$to"
	touch "$TMP/healthy2"
	check "it is well: it takes flows again" eventually 5 both_serve "$to"
	check "the flows of before did not notice, 0 broken" none_broke old "$old"

	stop "${SERVE[1]}" KILL || true
	stop "${MEMBER[1]}" KILL || true
	check "m1's processes are killed: the next 20 flows succeed on m2" all_on m2 "$to"
	check "status counts the flows that were dialled once more" says 'retried +[1-9]' aarptun status
	start_member 1
	check "it is back: it takes flows again" eventually 30 both_serve "$to"
	ip -n router link set m1 down
	check "m1 is cut off: the next 20 flows succeed on m2" all_on m2 "$to"
	ip -n router link set m1 up
	ip -n router -6 addr add 2001:db8:11::1/64 dev m1 nodad 2>/dev/null || true # the kernel drops it with the link
	end_aarptun
	lead_both 2>/dev/null || true
	hash_policy 0
}

# none_on TO: new flows are told that the host is unreachable.
none_on() { fails_with EHOSTUNREACH lab connect --timeout 10s "$1"; }

counts() { says "^$1 +[1-9]" aarptun status; }

# drains_one NAME TO AA: over two equal paths, each member drains in turn.
drains_one() {
	local name=$1 to=$2 aa=$3 n old
	check "$name: new flows have a member" lab connect --timeout 10s "$to" # and the hosts know their neighbours
	for n in 1 2; do
		start_flows "drains-$n-${aa//[:.]/-}" "$to" --tcp 10 --udp 5
		old=$SPAWNED
		kill -USR1 "${MEMBER[n]}"
		sleep 1.2 # the TTL is a second
		check "$name: m$n drains: after one TTL new flows go to m$((3 - n))" all_on "m$((3 - n))" "$to"
		check "$name: they are pinned there, and not carried on to AA" says "^$aa +[^ ]+ +stun " aarptun pins
		check "$name: the flows of before did not notice, 0 broken" none_broke "drains-$n-${aa//[:.]/-}" "$old"
		kill -USR2 "${MEMBER[n]}"
		check "$name: it takes flows again" eventually 5 answers "$n" "$aa"
	done
}

# answers N AA: of several questions to AA, one is answered by member N.
answers() { aarptun resolve -n 16 "$2" | grep -qE "^$(ua_of "$1" "$2") "; }
ua_of() { # ua_of N AA
	local ua=UA$1
	[[ $2 == *:* ]] || ua=UA$1_4
	echo "${!ua}"
}

drains() {
	local to="[$LO]:$PORT" old
	echo "# members that drain, at nonce with --unresolved direct"
	hash_policy 1
	lead_both
	run_aarptun --unresolved direct
	drains_one "two paths" "$to" $LO
	drains_one "two paths, IPv4" "$LO4:$PORT" $LO4
	stop "${MEMBER[1]}" KILL || true
	sleep 1.2
	check "two paths: m1's responder is killed, its service and echo are not: new flows go to m2" all_on m2 "$to"
	check "they are pinned there, and not carried on to AA" says "^$LO +$UA2 +stun " aarptun pins
	stop "${SERVE[1]}" KILL || true
	start_member 1
	end_aarptun

	lead_one 2
	run_aarptun --unresolved direct
	check "one path, to m2" eventually 5 new_flow_is "$to" m2
	lead 1
	check "and then to m1" eventually 5 new_flow_is "$to" m1
	start_flows one-path "$to" --tcp 10 --udp 5
	old=$SPAWNED
	kill -USR1 "${MEMBER[1]}"
	sleep 1.2
	check "one path: m1 drains: after one TTL new flows go to m2, which was known before" all_on m2 "$to"
	check "pins shows that nobody answers for it any more" says "^$LO +$UA2 +stun +nonce .*stale" aarptun pins
	check "the flows of before did not notice, 0 broken" none_broke one-path "$old"
	check "resolve --explain names the member that drains" fails_with "^stun +draining +$UA1 .*takes no new flows" aarptun resolve --explain $LO
	check "resolve --explain says why AA's own echo counts for nothing" fails_with "^icmp +refused +$LO .*whose responder was heard of late" aarptun resolve --explain $LO
	check "resolve fails with exit code 69" exits 69 aarptun resolve $LO
	check "doctor warns of it" fails_with "^warning +$LO probe: stun: $UA1 answers .*takes no new flows" aarptun doctor $LO
	end_aarptun

	run_aarptun --unresolved direct
	check "one path, to a member that drains, and no other known: host unreachable" none_on "$to"
	check "status counts what it has said" counts resolver.draining
	kill -USR2 "${MEMBER[1]}"
	check "it takes flows again" eventually 5 new_flow_is "$to" m1
	kill -USR1 "${MEMBER[1]}"
	sleep 1.2
	check "it drains, and is the only one known: it is not used as stale" none_on "$to"
	kill -USR2 "${MEMBER[1]}"
	check "and again" eventually 5 new_flow_is "$to" m1
	stop "${MEMBER[1]}" KILL || true
	sleep 1.2
	check "its responder is killed: that is silence, so it serves on as stale" new_flow_is "$to" m1
	check "and is no self-answer" says "^$LO +$UA1 +stun +nonce .*stale" aarptun pins
	check "status counts the echo that counts for nothing" counts "resolver.refused.the anycast address itself, whose responder was heard of late"
	end_aarptun
	stop "${SERVE[1]}" KILL || true
	start_member 1
	hash_policy 0
	lead 1
}

# within LOW HIGH TO: m1's share of 1,000 flows.
within() {
	local out m1
	out=$(lab count -n 1000 "$3")
	echo "$out"
	m1=$(sed -n 's/^m1=\([0-9]*\) m2=.*/\1/p' <<<"$out")
	[ "${m1:-0}" -ge "$1" ] && [ "$m1" -le "$2" ]
}

# each_keeps TO ADDRESS...: a client address has all its flows with one member,
# and not all have the same.
each_keeps() {
	local to=$1 address out all=
	shift
	for address in "$@"; do
		out=$(lab count -n 20 --source "$address" "$to")
		echo "$address $out"
		[[ $out =~ ^m[12]=20$ ]] || return 1
		all+=" $out"
	done
	[[ $all == *m1=20* && $all == *m2=20* ]]
}

select_one() { # select_one NAME TO: with a route over two equal paths
	run_aarptun --sticky flow --select spread
	check "$1: spread lands 1,000 flows on two members within 40:60" within 400 600 "$2"
	end_aarptun
	run_aarptun --select first
	check "$1: first keeps to one member" says '^m[12]=100$' lab count -n 100 "$2"
	end_aarptun
}

# far N: member N is reached over a wire that takes 5 ms, the other one over the
# usual one.
far() {
	local near=UA$((3 - $1)) aa
	for aa in $AA $LO; do
		ip -n router -6 route del $aa/128
		ip -n router -6 route add $aa/128 nexthop via "2001:db8:f$1::2" nexthop via "${!near}"
	done
}

rtt() {
	local n
	for n in 1 2; do
		spawn "$TMP/wire$n.log" "$FIDELITY" wire router "far$n" "m$n" far0
		eventually 5 grep -q '^wired' "$TMP/wire$n.log"
		ip -n router link set "far$n" up
		ip -n "m$n" link set far0 up
		ip -n router addr add "2001:db8:f$n::1/64" dev "far$n" nodad
		ip -n "m$n" addr add "2001:db8:f$n::2/64" dev far0 nodad
		# An echo is answered by the interface that it came by.
		ip -n "m$n" -6 route add default via "2001:db8:f$n::1" dev far0 metric 2048
	done
	far 1
	hash_policy 0 # by ports, all echo requests would go one way
	run_aarptun --select rtt
	check "rtt picks m2 while m1 is 5 ms away" says '^m2=100$' lab count -n 100 "[$AA]:$PORT"
	hash_policy 1
	check "by STUN too" says '^m2=100$' lab count -n 100 "[$LO]:$PORT"
	far 2
	hash_policy 0
	check "and m1 when m2 is" eventually 10 new_flow_is "[$AA]:$PORT" m1
	check "all flows go there" says '^m1=100$' lab count -n 100 "[$AA]:$PORT"
	end_aarptun
}

selects() {
	local addresses=() i
	echo "# sticky and select over two equal paths"
	lead_both
	hash_policy 0
	select_one "echo, the router hashes the flow label" "[$AA]:$PORT"
	hash_policy 1
	select_one "STUN, the router hashes ports" "[$LO]:$PORT"
	select_one "STUN over IPv4, the router hashes ports" "$LO4:$PORT"
	hash_policy 0
	for i in 1 2 3 4 5 6 7 8; do
		addresses+=("2001:db8:1::10$i")
		ip -n client addr add "2001:db8:1::10$i/64" dev eth0 nodad preferred_lft 0
	done
	run_aarptun --sticky source --select spread
	check "source keeps each of 8 clients on one member, and uses both" each_keeps "[$AA]:$PORT" "${addresses[@]}"
	check "pins names the clients" says "^2001:db8:1::108 +$AA +2001:db8:1[12]::2 +icmp" aarptun pins
	end_aarptun
	rtt
	lead_one 1
}

build_members
for part in "${PARTS[@]}"; do
	case "$part" in
	kinds) kinds ;;
	fates) fates ;;
	drains) drains ;;
	select) selects ;;
	esac
done

if [ "$FAILED" -gt 0 ]; then
	echo "# $FAILED of $((PASSED + FAILED)) failed; the daemon's last words:"
	tail -20 "$TMP/aarptun.log" | sed 's/^/#   /'
	exit 1
fi
echo "# all $PASSED passed"

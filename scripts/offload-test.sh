#!/usr/bin/env bash
# run --offload nft: the kernel carries the flows of pinned addresses. Long flows
# with verified bytes through route flips, pins that expire, kill -9 and restarts,
# reloads; pins that are renewed ahead of their end for the kernel's use of them;
# what becomes of flows in the TUN, of a member that dies, of the rules of others.
# Real kernels, in namespaces of the script's own, as in netns-test.sh.
set -euo pipefail

usage() {
	cat <<-END
		usage: scripts/offload-test.sh [--flows N] [--kills N]

		  --flows N  how many long TCP flows; an eighth as many UDP ones (default 200)
		  --kills N  how often aarptun is killed and started meanwhile (default 3)

		AARPTUN and LAB may name binaries to use instead of building them.
		Exit code 77: this kernel or user may not make the namespaces, or there is no
		nft(8) to look with.
	END
}

INSIDE= FLOWS=200 KILLS=3
while [ $# -gt 0 ]; do
	case "$1" in
	--flows | --kills)
		[[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || { usage >&2; exit 64; }
		if [ "$1" = --flows ]; then FLOWS=$2; else KILLS=$2; fi
		shift
		;;
	--inside) INSIDE=1 ;;
	-h | --help)
		usage
		exit 0
		;;
	*)
		usage >&2
		exit 64
		;;
	esac
	shift
done

ROOT=$(cd "$(dirname "$0")/.." && pwd)

# shellcheck source=scripts/lab.bash
. "$ROOT/scripts/lab.bash"

command -v nft >/dev/null || { echo "there is no nft(8) here: install nftables" >&2; exit 77; }
if [ -z "$INSIDE" ]; then
	build AARPTUN:cmd/aarptun LAB:scripts/lab
	enter_namespaces "$ROOT/scripts/offload-test.sh" --inside --flows "$FLOWS" --kills "$KILLS"
fi
own_run
# shellcheck source=scripts/check.bash
. "$ROOT/scripts/check.bash"

offload() { start_aarptun --offload nft --drain-timeout 0s "$@" || { tail -5 "$TMP/aarptun.log"; return 1; }; }

# on_path PATH [PROTO]: how many flows go that way.
on_path() { aarptun flows --json | tr '{' '\n' | grep -c "\"proto\":\"${2:-.*}\".*\"path\":\"$1\"" || true; }
on_path_is() { [ "$(on_path "$1" "${3:-}")" = "$2" ] || { aarptun flows && false; }; }

# kernel_has AA: the map has a member for it.
kernel_has() {
	local table
	table=$(on client nft list map inet aarptun pins6)
	grep -qE "\b$1 (timeout [0-9a-z]+ )?(expires [0-9a-z]+ )?: " <<<"$table"
}
pin_now() { lab connect "[$AA]:$PORT" && kernel_has "$AA"; }
member_of() { lab connect "$@" "[$AA]:$PORT" | sed 's/.*member=//'; }
member_is() { [ "$(member_of)" = "$1" ]; }

# tracked: what the connection tracking of the client knows of anycast addresses,
# probes of our own aside.
tracked() { on client cat /proc/net/nf_conntrack | grep -E "dst=(2001:0db8:00aa|198\.51\.100\.)"; }

# others: rules of somebody else, which nobody may touch, and what they are.
others() {
	on client nft -f - <<-END
		table inet filter {
			set aarptun {
				type ipv6_addr
				elements = { 2001:db8::1 }
			}
			chain output {
				type filter hook output priority filter; policy accept;
				ip6 daddr @aarptun drop
			}
		}
		table ip nat {
			chain output {
				type nat hook output priority -100; policy accept;
				ip daddr 203.0.113.99 dnat to 203.0.113.98
			}
		}
		table ip6 aarptun {
			chain output {
				type nat hook output priority -100; policy accept;
			}
		}
	END
}
ruleset() { on client nft -j -a list ruleset; }
same_ruleset() { diff "$TMP/ruleset" <(ruleset); }
same_state() { diff "$TMP/state" <(host_state) && same_ruleset; }

# start_long TAG N M: N TCP and M UDP flows, all begun while AA is pinned.
start_long() {
	eventually 10 pin_now
	spawn "$TMP/$1.out" ip netns exec client "$LAB" flows --to "[$AA]:$PORT" --tcp "$2" --udp "$3" --for 120s --tag "$1"
	LONG=$SPAWNED
	eventually 20 grep -qx started "$TMP/$1.out"
}

# end_long TAG: they end well, and each was with one member all the time.
end_long() {
	local status=0
	stop "$LONG" || status=$?
	[ "$status" = 0 ] || { tail -5 "$TMP/$1.out"; return 1; }
	cat "$TMP"/m?.flows | grep -E "^(tcp|udp) $1-" | cut -d' ' -f1,2 | sort | uniq -d | { ! grep .; }
}

flips() { # flips N: every 100 ms
	local i
	for ((i = 0; i < $1; i++)); do
		flip
		sleep 0.1
	done
}

carried() {
	check "the first flow to AA is not pinned yet, and goes through the TUN" lab connect "[$AA]:$PORT"
	check "the kernel is told of the pin" eventually 5 kernel_has "$AA"
	check "getpeername() is AA, and the client's address the uplink's" says "^peer=\[$AA\]:$PORT local=$CLIENT member=m1\$" lab connect "[$AA]:$PORT"
	check "UDP is answered from AA" says "^from=\[$AA\]:$PORT member=m1\$" lab udp "[$AA]:$PORT"
	check "ping is answered from AA" says "^from=$AA bytes=56\$" lab ping $AA
	check "flows are listed with path nft" eventually 5 says 'udp .*established.* nft$' aarptun flows
	check "and counted" says 'nft.flows +[1-9]' aarptun status
	check "IPv4: pinned too" eventually 5 sh -c "$(printf 'ip netns exec client %q connect %s:%s && ip netns exec client nft list map inet aarptun pins4 | grep -q %s' "$LAB" $AA4 $PORT $AA4)"
	check "IPv4: carried" says "^peer=$AA4:$PORT local=203.0.113.2 member=m1\$" lab connect "$AA4:$PORT"
}

# counted NAME: what status says of it, which leaves out what is 0.
counted() { aarptun status | awk -v name="$1" '$1 == name { n = $2 } END { print n + 0 }'; }
connect_for() { # connect_for SECONDS: several times a second
	local until=$(($(date +%s%N) + $1 * 1000000000))
	while [ "$(date +%s%N)" -lt "$until" ]; do
		lab connect "[$AA]:$PORT" || return 1
		sleep 0.1
	done
}

# At a TTL of 3 s.
renewed_ahead() {
	local opened renewals looks
	eventually 10 pin_now
	opened=$(counted nat.tcp_opened) renewals=$(counted resolver.renewals)
	check "the first flow has gone through the TUN" [ "$opened" -ge 1 ]
	check "connects for four lives of a pin are answered" connect_for 12
	check "its use in the kernel had it renewed each time" [ "$(counted resolver.renewals)" -ge $((renewals + 3)) ]
	check "and none of them went through the TUN" [ "$(counted nat.tcp_opened)" = "$opened" ]
	flip
	check "the renewal finds another member: new flows go there, by the kernel" eventually 8 member_is "m$ROUTED"
	check "and none through the TUN" [ "$(counted nat.tcp_opened)" = "$opened" ]
	flip
	check "a pin that nobody uses goes" eventually 8 not kernel_has "$AA"
	renewals=$(counted resolver.renewals) looks=$(counted nft.looks)
	sleep 4
	check "and stays away" not kernel_has "$AA"
	check "so nothing is renewed" [ "$(counted resolver.renewals)" = "$renewals" ]
	check "and nothing looked at" [ "$(counted nft.looks)" = "$looks" ]
}

stays_in_tun() {
	# Its pin is over, so the first of them begins in the TUN, and is pinned meanwhile.
	eventually 10 not kernel_has "$AA"
	spawn "$TMP/tun.out" ip netns exec client "$LAB" flows --to "[$AA]:$PORT" --tcp 1 --for 60s --tag tun
	local flow=$SPAWNED status=0
	eventually 10 grep -qx started "$TMP/tun.out"
	check "a flow that was begun in the TUN is there" eventually 5 on_path_is tun 1 tcp
	flip
	eventually 10 pin_now
	flips 20
	check "its AA was pinned in the middle, and it stays there" on_path_is tun 1 tcp
	stop "$flow" || status=$?
	check "without a wrong byte" exits "$status" true
	route_to 1
	# The kernel must know of it for longer than aarptun does: 300 s.
	eventually 10 not kernel_has "$AA"
	lab udp "[$AA]:$PORT" >/dev/null
	check "a UDP flow in the TUN is known to the kernel for longer than to aarptun" sh -c "ip netns exec client cat /proc/net/nf_conntrack | awk '/udp .*dst=2001:0db8:00aa/ && \$5 > 590 { found = 1 } END { exit !found }'"
	eventually 10 pin_now
	lab udp "[$AA]:$PORT" >/dev/null
	check "and one that the kernel carries is kept for 300 s" sh -c "ip netns exec client cat /proc/net/nf_conntrack | awk '/udp .*dst=2001:0db8:00aa/ && \$5 > 290 && \$5 <= 300 { found = 1 } END { exit !found }'"
}

# files: what is reloaded under flows. One takes their prefix away.
files() {
	local base
	base=$(printf '%s\n' 'offload = "nft"' 'keep-flows = true' 'drain-timeout = "0s"' 'log-level = "debug"')
	cat >"$TMP/first.toml" <<-END
		$base
		cache-ttl = "5s"
		prefix = [{ anycast = "$PREFIX" }, { anycast = "$PREFIX4" }]
	END
	cat >"$TMP/other.toml" <<-END
		$base
		cache-ttl = "2s"
		prefix = [{ anycast = "$PREFIX", member-prefix = ["2001:db8:10::/44"] }, { anycast = "2001:db8:bb::/64" }]
		[limits]
		flows = 600
	END
	cat >"$TMP/gone.toml" <<-END
		$base
		prefix = ["$PREFIX4"]
	END
	cat >"$TMP/slip.toml" <<-END
		$base
		prefix = ["$PREFIX"]
		offlaod = "none"
	END
}

# reloads: with flips between, and the first file in the end.
reloads() {
	local name
	for name in other gone first other; do
		reload $name
		flips 2
	done
	refused slip
	reload first
}

long_flows() {
	local i
	start_long long "$FLOWS" $((FLOWS / 8))
	check "$FLOWS TCP and $((FLOWS / 8)) UDP flows are the kernel's" says '^[0-9]+$' sh -c "[ $(on_path nft) -ge $((FLOWS + FLOWS / 8)) ] && echo $(on_path nft)"
	check "and none is in the TUN" on_path_is tun 0
	for ((i = 0; i < KILLS; i++)); do
		flips 10
		stop "$DAEMON" KILL || true
		flips 5
		run_file first || return 1
		reloads
	done
	check "kill -9, restart and reloads, $KILLS times: those that are left are known to the next run" says '^[0-9]+$' sh -c "[ $(on_path nft) -ge $FLOWS ] && echo $(on_path nft)"
	stop "$DAEMON" TERM || true
	flips 5
	offload
	check "after route flips every 100 ms, expired pins, kills, reloads and a stop with --keep-flows: no flow broken, none moved" end_long long
	route_to 1
}

member_dies() {
	route_to 2
	eventually 10 member_is m2
	eventually 10 pin_now
	ip -n m2 link set eth0 down
	route_to 1
	check "a member that died: its flows fail by their own TCP, and the next goes to another" eventually 5 member_is m1
}

flushed() {
	local cut
	eventually 10 pin_now
	spawn "$TMP/cut.out" ip netns exec client "$LAB" flows --to "[$AA]:$PORT" --tcp 3 --for 60s --tag cut
	cut=$SPAWNED
	eventually 10 grep -qx started "$TMP/cut.out"
	eventually 10 pin_now
	check "pins --flush has the kernel forget a pin at once" says '^[1-9][0-9]* pins forgotten, 0 flows cut$' aarptun pins --flush $AA
	check "so it has" eventually 1 not kernel_has "$AA"
	check "and flows stay" eventually 5 on_path_is nft 3 tcp
	check "with --cut they end" says ' [1-9][0-9]* flows cut$' aarptun pins --flush --cut
	check "and their clients are told" exits 1 wait "$cut"
	check "pins --flush of no address is wrong usage" exits 64 aarptun pins --flush nonsense
}

table_is_taken() {
	on client nft delete table inet aarptun
	check "the table is put back when another program has removed it" eventually 5 on client nft list table inet aarptun
	check "and used" eventually 10 pin_now
	check "that is logged" grep -q 'another program had removed the nftables table' "$TMP/aarptun.log"
}

second_run() {
	local second=(-p 2001:db8:bb::/64 --tun other0 --table 180 --admin-socket /run/aarptun/second.sock)
	check "a second run cannot have it too: exit code 78" exits 78 aarptun run --offload nft "${second[@]}"
	check "and says who has it" fails_with 'process [0-9]+ lets the kernel carry flows' aarptun run --offload nft "${second[@]}"
	spawn "$TMP/second.out" ip netns exec client "$AARPTUN" run --offload auto "${second[@]}"
	local other=$SPAWNED
	check "with --offload auto it does without" eventually 5 grep -qx ready "$TMP/second.out"
	check "in one clear line" grep -q 'the kernel carries flows for another aarptun, so all go through the device' "$TMP/second.out"
	stop "$other" || true
	check "the first still has it" eventually 10 pin_now
}

kernel_without() {
	local run=("$LAB" without-netfilter "$AARPTUN" run -p $PREFIX --drain-timeout 0s)
	check "on a kernel without nftables, --offload nft does not start: exit code 78" exits 78 on client "${run[@]}" --offload nft
	check "and says what is missing, and what to do" fails_with 'the kernel cannot carry flows: it lacks nftables: .*protocol not supported.*use --offload auto$' on client "${run[@]}" --offload nft
	check "the host is as before" same_state
	: >"$TMP/ready"
	spawn "$TMP/without.out" ip netns exec client "${run[@]}" --offload auto
	check "--offload auto does without" eventually 5 grep -qx ready "$TMP/without.out"
	check "and says so in one line" [ "$(grep -c 'the kernel cannot carry flows, so all go through the device' "$TMP/without.out")" = 1 ]
	check "flows have their member" says 'member=m1$' lab udp "[$AA]:$PORT"
	check "in the device" says '^1 +udp .* established ' aarptun flows
	check "it ends with exit code 0" stop "$SPAWNED"
	check "cleanup, too, does without" exits 0 on client "$LAB" without-netfilter "$AARPTUN" cleanup
}

# many_flows: what looks at flows must cope with 100,000 of them.
many_flows() {
	local most
	most=$(on client cat /proc/sys/net/netfilter/nf_conntrack_max)
	if [ "$most" -lt 110000 ]; then
		echo "# the kernel may not know 110,000 flows here, but $most (net.netfilter.nf_conntrack_max): left out"
		return
	fi
	stop "$DAEMON" || true
	offload --cache-ttl 10m
	eventually 10 pin_now
	check "100,000 flows begin" lab scatter --to $AA --flows 100000
	check "status counts them" says 'nft.flows +100[0-9]{3}$' aarptun status
	check "flows lists each" says '^100[0-9]{3}$' on_path nft udp
	check "top looks at some, and knows of all" says ' 100[0-9]{3} in the kernel ' aarptun top --once --interval 100ms
	check "pins --flush --cut ends them" says ' 100[0-9]{3} flows cut$' aarptun pins --flush --cut
	check "none is left" on_path_is nft 0
}

host_comes_back() {
	check "with --netns there is no nft: exit code 78 or 64" fails_with 'exclude each other' aarptun run -p $PREFIX --offload nft --netns client
	stop "$DAEMON" || true
	check "SIGTERM: the host is as before, and so are the rules of others, byte for byte" same_state
	check "and the kernel knows no flow of AA" not tracked
	offload --keep-flows
	eventually 10 pin_now
	stop "$DAEMON" || true
	check "SIGTERM with --keep-flows leaves the table" on client nft list table inet aarptun
	check "without pins" not kernel_has "$AA"
	check "cleanup --dry-run names it" says 'would remove nft table inet aarptun' aarptun cleanup --dry-run
	check "cleanup removes it" says '^removed nft table inet aarptun' aarptun cleanup
	check "and all else" same_state
	check "and what the kernel knows of flows" not tracked
	offload
	eventually 10 pin_now
	stop "$DAEMON" KILL || true
	check "kill -9, then a run without --offload: the table is gone" start_aarptun --drain-timeout 0s
	check "the rules of others are as before" same_ruleset
	stop "$DAEMON" || true
	check "and the host" same_state
}

build_lab
start_members
others
mkdir -p /run/aarptun # made once, it stays
host_state >"$TMP/state"
ruleset >"$TMP/ruleset"
offload
carried
stays_in_tun
stop "$DAEMON" || true
offload --cache-ttl 3s
renewed_ahead
stop "$DAEMON" || true
# The TTL is long enough to begin all flows, and short enough to expire among them.
files
run_file first
long_flows
flushed
member_dies
table_is_taken
second_run
many_flows
host_comes_back
kernel_without

if [ "$FAILED" -gt 0 ]; then
	echo "# the end of aarptun's log:"
	tail -30 "$TMP/aarptun.log" | sed 's/^/#   /'
fi
echo "$PASSED passed, $FAILED failed"
[ "$FAILED" = 0 ]

# shellcheck shell=bash
# On the path; sourced by attack.sh. The attacker is the wire between the client
# and its router: it sees each probe, and the client hears its lie first. The
# member's answer always comes as well, behind the lie.

# cut_in puts the attacker's namespace into the client's link.
cut_in() {
	ip netns add wire
	on wire sh -c 'for f in all default; do echo 1 >/proc/sys/net/ipv6/conf/$f/disable_ipv6; done'
	ip -n router link set c0 netns wire
	ip link add r0 netns wire type veth peer name c0 netns router
	ip -n router addr add 2001:db8:1::1/64 dev c0 nodad
	ip -n router addr add 203.0.113.1/25 dev c0
	ip -n router link set c0 up
	ip -n wire link set c0 up
	ip -n wire link set r0 up
	ip -n client neigh flush dev eth0 # the router's Ethernet address is another now
}

# lying LIE AA OTHER NAME [FLAGS]: the liar begins; truth ends it.
lying() {
	local lie=$1 aa=$2 other=$3 name=$4
	shift 4
	spawn "$TMP/liar.log" ip netns exec wire "$LAB" intercept --inner c0 --outer r0 --lie "$lie" \
		--aa "$aa" --other "$other" --name "$name" --pinned "$PUBLIC" "$@"
	LIAR=$SPAWNED
	eventually 5 grep -qx listening "$TMP/liar.log"
}
truth() { stop "$LIAR" || cat "$TMP/liar.log"; }

# told NUMBER WHAT: so many lies of that kind have gone to the client.
told() {
	cat "$TMP/liar.log"
	local n
	n=$(sed -n "s/^told $2=//p" "$TMP/liar.log")
	[ "${n:-0}" -ge "$1" ]
}

# resolve FLAGS AA: in $TMP/found, its log in $TMP/why, its status in $STATUS.
resolve() {
	STATUS=0
	aarptun resolve -v "$@" >"$TMP/found" 2>"$TMP/why" || STATUS=$?
}

found() { # found PATTERN: the only line of the answer
	cat "$TMP/found" "$TMP/why"
	[ "$(wc -l <"$TMP/found")" = 1 ] && grep -qE "^$1" "$TMP/found"
}
why() { # why PATTERN: a refusal was logged
	cat "$TMP/why"
	grep -qE "because=\"?$1" "$TMP/why"
}
nobody() { # nobody: no answer was believed, and exit code 69 says so
	cat "$TMP/found" "$TMP/why"
	[ "$STATUS" = 69 ] && [ ! -s "$TMP/found" ]
}

ASKED=5

# stopped LEVEL LIE TEXT REASON [FLAGS]: while the liar lies, every one of several
# questions at that level finds the true member. REASON is why the lie was
# refused, - if it answers no open question.
stopped() {
	local level=$1 lie=$2 text=$3 reason=$4 key=(--psk-file "$TMP/psk") least=$ASKED named=$ATTACKER
	shift 4
	[ "$level" = psk ] || key=(--pubkey "$PUBLIC")
	case "$lie" in replay*) least=$((ASKED - 1)) ;; esac # the first has nothing before it
	case "$lie" in bad-* | rename) named=$VICTIM ;; esac
	lying "$lie" $LO $LO2 $named "$@"
	resolve -n $ASKED "${key[@]}" $LO
	truth
	check "$level: $text: 0 accepted, the true member found $ASKED times of $ASKED" found "$UA1 by stun, trust $level, .* seen $ASKED of $ASKED\$"
	check "$level: $text: the client heard each of them first" told "$least" "$lie"
	[ "$reason" = - ] || check "$level: $text: refused, since $reason" why "$reason"
}

# proved: what nobody can do where an answer must be proved.
proved() {
	local mac="the MAC is wrong" signature="the signature is wrong" level
	echo "# on the path, where proof is required"
	stopped psk name "an answer that names the attacker, without proof" "carries no MAC"
	stopped psk bad-mac "an answer that names a victim, with a MAC by a guessed secret" "$mac"
	stopped psk bad-sign "an answer that names a victim, signed by the attacker" "carries no MAC"
	stopped ed25519 name "an answer that names the attacker, without proof" "carries no signature"
	stopped ed25519 bad-key "an answer that names a victim, signed with the attacker's key" "signed with a key that is not pinned"
	stopped ed25519 bad-sign "an answer that names a victim, signed with the attacker's key as the pinned one" "$signature"
	stopped ed25519 expired "an expired answer, signed by the member's own key" "the signature is not valid any more" --private "$TMP/key"
	for level in psk ed25519; do
		local wrong=$mac none="carries no MAC"
		[ $level = psk ] || wrong=$signature none="carries no signature"
		stopped $level flip "the member's answer with a bad proof" "$wrong"
		stopped $level rename "the member's answer, naming a victim" "$wrong"
		stopped $level strip "the member's answer, downgraded to one without proof" "$none"
		stopped $level replay "an earlier answer, replayed" -
		stopped $level replay-id "an earlier answer, replayed with this transaction id" "$wrong"
		stopped $level unreachable "port unreachable in the name of AA" -
		stopped $level unasked "an echo reply instead (downgrade to echo)" -
	done
	stopped ed25519 other "another AA's answer, signed with the same key" "$signature"
	turned psk --psk-file "$TMP/psk"
	turned ed25519 --pubkey "$PUBLIC"
}

# turned LEVEL FLAGS: the question itself, carried to members of another AA.
turned() {
	local level=$1
	shift
	lying turn $LO $LO2 $ATTACKER
	resolve -n $ASKED "$@" $LO
	truth
	check "$level: the question carried to another AA: the true member found $ASKED times of $ASKED" found "$UA1 by stun, trust $level, .* seen $ASKED of $ASKED\$"
	check "$level: the question carried to another AA: its members got it each time" told $ASKED turned
	check "$level: the question carried to another AA: and were silent" not told 1 other
}

# proved_pin makes a flow, since a pin lives for a moment only, and looks.
proved_pin() {
	lab connect "[$LO]:$PORT"
	says "^$LO +$UA1 +stun +ed25519" aarptun pins
}

# whole_daemon: all lies at once, and a flow through the daemon.
whole_daemon() {
	echo "# a daemon, all lies at once, psk and ed25519 together"
	start_aarptun -p $PREFIX_LO --psk-file "$TMP/psk" --pubkey "$PUBLIC" --cache-ttl 100ms
	lying name,bad-mac,bad-key,bad-sign,flip,rename,strip,replay,replay-id,unreachable,unasked $LO $LO2 $VICTIM
	check "20 flows reach the true member, each of them" says '^m1=20$' lab count -n 20 "[$LO]:$PORT"
	check "pins names it, with its proof" eventually 5 proved_pin
	truth
	aarptun status >"$TMP/status"
	check "status counts what had no MAC" grep -E '^stun.refused.carries no MAC +[1-9]' "$TMP/status"
	check "status counts what had a wrong one" grep -E '^stun.refused.the MAC is wrong +[1-9]' "$TMP/status"
	check "status counts the errors" grep -E '^stun.unreachable +[1-9]' "$TMP/status"
	check "the daemon ends with exit code 0" stop "$DAEMON"
}

# lied LIE AA NAME [--confirm] [FLAGS]: asks once while the liar lies about AA.
lied() {
	local lie=$1 aa=$2 name=$3 other=$AA2 confirm=()
	shift 3
	[ "$aa" = $AA ] || other=$LO2
	[ "${1:-}" != --confirm ] || { confirm=(--confirm) && shift; }
	lying "$lie" "$aa" "$other" "$name" "${confirm[@]}"
	# The second question is the one that an earlier answer can be replayed to.
	resolve --timeout 1s -n 2 "$@" "$aa"
	truth
}

# admitted TEXT UA LIE ...: what docs/threats.md says is not stopped is not: the
# lie wins, UA is believed.
admitted() {
	local text=$1 ua=$2
	shift 2
	lied "$@"
	check "$text: believed, $ua" found "$ua by "
	check "$text: the client heard the lie" told 1 "$1"
}

# resisted TEXT UA LIE ...: it is stopped: the true answer wins, UA.
resisted() {
	local text=$1 ua=$2
	shift 2
	lied "$@"
	check "$text: not believed, $ua found" found "$ua by .* seen 2 of 2"
	check "$text: the client heard the lie" told 1 "$1"
}

# refused TEXT REASON LIE ...: it is not believed, but the question is over.
refused() {
	local text=$1 reason=$2
	shift 2
	lied "$@"
	check "$text: not believed, and nobody found" nobody
	check "$text: refused, since $reason" why "$reason"
	check "$text: the client heard the lie" told 2 "$1"
}

# unpinned TEXT REASON LIE ...: nor is it here, but the echo that LO answers itself
# is, at nonce: the flows go on to LO.
unpinned() {
	local text=$1 reason=$2
	shift 2
	lied "$@"
	check "$text: not believed, flows go on to LO itself" found "$LO by icmp, .* answered from itself"
	check "$text: refused, since $reason" why "$reason"
	check "$text: the client heard the lie" told 2 "$1"
}

at_nonce() {
	local no="the member that it names does not confirm"
	echo "# on the path at nonce: what docs/threats.md admits"
	admitted "nonce, echo: the attacker's own address" $ATTACKER echo-name $AA $ATTACKER
	admitted "nonce, echo: a victim's address" $VICTIM echo-name $AA $VICTIM
	admitted "nonce, echo: the probe carried to another AA" $UA2 echo-other $AA $VICTIM
	resisted "nonce, echo: an earlier reply" $UA1 echo-replay $AA $VICTIM
	admitted "nonce, STUN: the attacker's own address, which confirms" $ATTACKER name $LO $ATTACKER --confirm
	admitted "nonce, STUN: a victim's address, confirmed in its name" $VICTIM name $LO $VICTIM --confirm
	unpinned "nonce, STUN: a victim's address" "$no" name $LO $VICTIM
	unpinned "nonce, STUN: another AA's answer" "$no" other $LO $VICTIM
	resisted "nonce, STUN: an earlier answer" $UA1 replay $LO $VICTIM
	unpinned "nonce, STUN: the member's answer, naming a victim" "$no" rename $LO $VICTIM
}

at_allow_list() {
	local out="outside the member prefixes" no="the member that it names does not confirm"
	echo "# on the path at allow-list: what docs/threats.md admits"
	refused "allow-list, echo: the attacker's own address" "$out" echo-name $AA $ATTACKER "${MEMBERS[@]}"
	refused "allow-list, echo: a victim's address" "$out" echo-name $AA $VICTIM "${MEMBERS[@]}"
	admitted "allow-list, echo: a victim among the members" $UA2 echo-name $AA $UA2 "${MEMBERS[@]}"
	admitted "allow-list, echo: the probe carried to another AA, of members in the prefixes" $UA2 echo-other $AA $VICTIM "${MEMBERS[@]}"
	resisted "allow-list, echo: an earlier reply" $UA1 echo-replay $AA $VICTIM "${MEMBERS[@]}"
	refused "allow-list, STUN: the attacker's own address, which confirms" "$out" name $LO $ATTACKER --confirm "${MEMBERS[@]}"
	refused "allow-list, STUN: a victim's address, confirmed in its name" "$out" name $LO $VICTIM --confirm "${MEMBERS[@]}"
	refused "allow-list, STUN: a victim's address" "$no" name $LO $VICTIM "${MEMBERS[@]}"
	admitted "allow-list, STUN: a victim among the members, confirmed in its name" $UA2 name $LO $UA2 --confirm "${MEMBERS[@]}"
	refused "allow-list, STUN: a victim among the members" "$no" name $LO $UA2 "${MEMBERS[@]}"
	resisted "allow-list, STUN: an earlier answer" $UA1 replay $LO $VICTIM "${MEMBERS[@]}"
}

cut_in
proved
whole_daemon
at_nonce
at_allow_list

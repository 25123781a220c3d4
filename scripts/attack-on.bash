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

# resolve FLAGS AA: in $TMP/found, its log in $TMP/why. If it fails it has found
# nobody, and its log says why.
resolve() { aarptun resolve -v "$@" >"$TMP/found" 2>"$TMP/why" || true; }

found() { # found PATTERN: the only line of the answer
	cat "$TMP/found" "$TMP/why"
	[ "$(wc -l <"$TMP/found")" = 1 ] && grep -qE "^$1" "$TMP/found"
}
why() { # why PATTERN: a refusal was logged
	cat "$TMP/why"
	grep -qE "because=\"?$1" "$TMP/why"
}
believed() { # believed UA: it is one of those that were found
	cat "$TMP/found" "$TMP/why"
	grep -qE "^$1 by " "$TMP/found"
}

ASKED=5

# over FAMILY: which addresses the tests below are about: the AA that is asked,
# its member UA, another AA and its member, the attacker's own address, a victim's,
# and where members may be.
over() {
	FAMILY=$1
	case "$1" in
	IPv6) TO=$LO UA=$UA1 TO2=$LO2 OTHER=$UA2 HIM=$ATTACKER HER=$VICTIM ALLOWED=("${MEMBERS[@]}") ;;
	IPv4) TO=$LO4 UA=$UA1_4 TO2=$LO2_4 OTHER=$UA2_4 HIM=$ATTACKER_4 HER=$VICTIM_4 ALLOWED=("${MEMBERS_4[@]}") ;;
	esac
}

# stopped LEVEL LIE TEXT REASON [FLAGS]: while the liar lies, every one of several
# questions at that level finds the true member. REASON is why the lie was
# refused, - if it answers no open question.
stopped() {
	local level=$1 lie=$2 text=$3 reason=$4 key=(--psk-file "$TMP/psk") least=$ASKED named=$HIM
	shift 4
	[ "$level" = psk ] || key=(--pubkey "$PUBLIC")
	case "$lie" in replay*) least=$((ASKED - 1)) ;; esac # the first has nothing before it
	case "$lie" in bad-* | rename) named=$HER ;; draining) named=$UA ;; esac
	lying "$lie" $TO $TO2 $named "$@"
	resolve -n $ASKED "${key[@]}" $TO
	truth
	check "$FAMILY, $level: $text: 0 accepted, the true member found $ASKED times of $ASKED" found "$UA by stun, trust $level, .* seen $ASKED of $ASKED\$"
	check "$FAMILY, $level: $text: the client heard each of them first" told "$least" "$lie"
	[ "$reason" = - ] || check "$FAMILY, $level: $text: refused, since $reason" why "$reason"
}

# proved: what nobody can do where an answer must be proved.
proved() {
	local mac="the MAC is wrong" signature="the signature is wrong" level
	echo "# on the path, where proof is required: $FAMILY"
	stopped psk bad-mac "an answer that names a victim, with a MAC by a guessed secret" "$mac"
	stopped psk bad-sign "an answer that names a victim, signed by the attacker" "carries no MAC"
	stopped psk expired "an expired answer, signed by the member's own key" "carries no MAC" --private "$TMP/key"
	stopped ed25519 bad-key "an answer that names a victim, signed with the attacker's key" "signed with a key that is not pinned"
	stopped ed25519 bad-sign "an answer that names a victim, signed with the attacker's key as the pinned one" "$signature"
	stopped ed25519 expired "an expired answer, signed by the member's own key" "the signature is not valid any more" --private "$TMP/key"
	for level in psk ed25519; do
		local wrong=$mac none="carries no MAC" recoded=$mac
		[ $level = psk ] || wrong=$signature none="carries no signature" recoded=malformed
		stopped $level name "an answer that names the attacker, without proof" "$none"
		stopped $level flip "the member's answer with a bad proof" "$wrong"
		stopped $level rename "the member's answer, naming a victim" "$wrong"
		stopped $level strip "the member's answer, downgraded to one without proof" "$none"
		stopped $level draining "an answer that the member drains, without proof" "$none"
		stopped $level recode "the member's answer, turned into one that it drains" "$recoded"
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
	lying turn $TO $TO2 $HIM
	resolve -n $ASKED "$@" $TO
	truth
	check "$FAMILY, $level: the question carried to another AA: the true member found $ASKED times of $ASKED" found "$UA by stun, trust $level, .* seen $ASKED of $ASKED\$"
	check "$FAMILY, $level: the question carried to another AA: its members got it each time" told $ASKED turned
	check "$FAMILY, $level: the question carried to another AA: and were silent" not told 1 other
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
	lying name,bad-mac,bad-key,bad-sign,flip,rename,recode,draining,strip,replay,replay-id,unreachable,unasked $LO $LO2 $VICTIM
	check "20 flows reach the true member, each of them" says '^m1=20$' lab count -n 20 "[$LO]:$PORT"
	check "pins names it, with its proof" eventually 5 proved_pin
	truth
	aarptun status >"$TMP/status"
	check "status counts what had no MAC" grep -E '^stun.refused.carries no MAC +[1-9]' "$TMP/status"
	check "status counts what had a wrong one" grep -E '^stun.refused.the MAC is wrong +[1-9]' "$TMP/status"
	check "status counts the errors" grep -E '^stun.unreachable +[1-9]' "$TMP/status"
	check "the daemon ends with exit code 0" stop "$DAEMON"
}

# lied LIE AA NAME [--confirm] [FLAGS]: asks while the liar lies about AA.
lied() {
	local lie=$1 aa=$2 name=$3 other=$TO2 confirm=()
	shift 3
	[ "$aa" != $AA ] || other=$AA2
	[ "${1:-}" != --confirm ] || { confirm=(--confirm) && shift; }
	lying "$lie" "$aa" "$other" "$name" "${confirm[@]}"
	# From the second question on there is an earlier answer to be replayed.
	resolve --timeout 1s -n $ASKED "$@" "$aa"
	truth
}

# admitted TEXT UA LIE ...: what docs/threats.md says is not stopped is not: the
# lie is believed, which names UA, unless the truth happens to be faster.
admitted() {
	local text="$FAMILY, $1" ua=$2
	shift 2
	lied "$@"
	check "$text: believed, $ua" believed "$ua"
	check "$text: the client heard the lie" told 1 "$1"
}

# resisted TEXT REASON LIE ...: it is stopped: the true answer behind it wins.
# REASON is why the lie was refused, - if it need not have been judged.
resisted() {
	local text="$FAMILY, $1" reason=$2 ua=$UA
	shift 2
	lied "$@"
	check "$text: not believed, $ua found" found "$ua by .* seen $ASKED of $ASKED\$"
	check "$text: the client heard the lie" told 1 "$1"
	[ "$reason" = - ] || check "$text: refused, since $reason" why "$reason"
}

at_nonce() {
	local no="the member that it names does not confirm"
	echo "# on the path at nonce: what docs/threats.md admits: $FAMILY"
	if [ $FAMILY = IPv6 ]; then # IPv4 has no members that their kernels know as such
		admitted "nonce, echo: the probe carried to another AA" $OTHER echo-other $AA $HER
		resisted "nonce, echo: an earlier reply" - echo-replay $AA $HER
		resisted "nonce, echo: AA itself" - echo-self $AA $HER
	fi
	admitted "nonce, echo: the attacker's own address" $HIM echo-name $TO $HIM
	admitted "nonce, echo: a victim's address" $HER echo-name $TO $HER
	admitted "nonce, STUN: the attacker's own address, which confirms" $HIM name $TO $HIM --confirm
	admitted "nonce, STUN: a victim's address, confirmed in its name" $HER name $TO $HER --confirm
	resisted "nonce, STUN: a victim's address" - name $TO $HER
	resisted "nonce, STUN: another AA's answer" - other $TO $HER
	resisted "nonce, STUN: an earlier answer" - replay $TO $HER
	resisted "nonce, STUN: the member's answer, naming a victim" - rename $TO $HER
	resisted "nonce, STUN: an answer that the member drains" - draining $TO $UA
}

at_allow_list() {
	local out="outside the member prefixes"
	echo "# on the path at allow-list: what docs/threats.md admits: $FAMILY"
	if [ $FAMILY = IPv6 ]; then
		admitted "allow-list, echo: the probe carried to another AA, of members in the prefixes" $OTHER echo-other $AA $HER "${ALLOWED[@]}"
		resisted "allow-list, echo: an earlier reply" - echo-replay $AA $HER "${ALLOWED[@]}"
		resisted "allow-list, echo: AA itself" "the anycast address itself" echo-self $AA $HER "${ALLOWED[@]}"
		resisted "allow-list, echo: the attacker's own address" "$out" echo-name $AA $HIM "${ALLOWED[@]}"
		resisted "allow-list, echo: a victim's address" "$out" echo-name $AA $HER "${ALLOWED[@]}"
	fi
	admitted "allow-list, echo: a victim among the members" $OTHER echo-name $TO $OTHER "${ALLOWED[@]}"
	resisted "allow-list, echo: the attacker's own address, and STUN" "$out" echo-name $TO $HIM "${ALLOWED[@]}"
	resisted "allow-list, STUN: the attacker's own address, which confirms" "$out" name $TO $HIM --confirm "${ALLOWED[@]}"
	resisted "allow-list, STUN: a victim's address, confirmed in its name" "$out" name $TO $HER --confirm "${ALLOWED[@]}"
	resisted "allow-list, STUN: a victim's address" - name $TO $HER "${ALLOWED[@]}"
	admitted "allow-list, STUN: a victim among the members, confirmed in its name" $OTHER name $TO $OTHER --confirm "${ALLOWED[@]}"
	resisted "allow-list, STUN: a victim among the members" - name $TO $OTHER "${ALLOWED[@]}"
	resisted "allow-list, STUN: an earlier answer" - replay $TO $HER "${ALLOWED[@]}"
}

cut_in
for family in IPv6 IPv4; do
	over $family
	proved
	at_nonce
	at_allow_list
done
over IPv6
whole_daemon

# shellcheck shell=bash
# exec: what may be forbidden, and that nothing stays; sourced by exec-test.sh.

# in_userns COMMAND...: as the plain user in a user namespace of its own, whose
# limits can be set.
in_userns() { plain unshare --user --map-current-user --keep-caps sh -c "$1; shift; exec setpriv --ambient-caps=-all --inh-caps=-all \"\$@\"" sh "$@"; }

test_forbidden() {
	make_user
	chmod 0600 "$TMP/tun"
	check "no /dev/net/tun: 77" exits 77 run_cmd -- true
	check "it says which, and the command" fails_with "^aarptun: netns: this user may not open /dev/net/tun: allow it with 'chmod 0666 /dev/net/tun'" run_cmd -- true
	chmod 0666 "$TMP/tun"
	set_sysctl client ipv4.ping_group_range "'1 0'"
	check "no ping sockets: 77" exits 77 run_cmd -- true
	check "it says which, and the command" fails_with "allow ping sockets: sysctl -w net.ipv4.ping_group_range='0 2147483647'" run_cmd -- true
	check "and says nothing else" test "$(run_cmd -- true 2>&1 | wc -l)" = 1
	set_sysctl client ipv4.ping_group_range "'0 2147483647'"
	local setting
	for setting in user net; do
		check "max_${setting}_namespaces 0: 77" exits 77 in_userns "echo 0 >/proc/sys/user/max_${setting}_namespaces" "$TMP/aarptun" exec -- true
		check "it says which, and the command" fails_with "user.max_${setting}_namespaces is 0: allow it with 'sysctl -w user.max_${setting}_namespaces=10000'" in_userns "echo 0 >/proc/sys/user/max_${setting}_namespaces" "$TMP/aarptun" exec -- true
	done
	mkdir -p "$TMP/jail/proc" "$TMP/jail/dev"
	cp "$TMP/aarptun" "$TMP/jail"
	mount --bind /proc "$TMP/jail/proc"
	mount --bind /dev "$TMP/jail/dev"
	check "in a chroot: 77" exits 77 on client chroot --userspec=$USER_ID:$USER_ID "$TMP/jail" /aarptun exec -- /aarptun version
	check "it says what may be the reason" fails_with 'chroot' on client chroot --userspec=$USER_ID:$USER_ID "$TMP/jail" /aarptun exec -- /aarptun version
	umount "$TMP/jail/proc" "$TMP/jail/dev"
	check "all is well again" run_cmd -- true
}

# everything that a run could leave behind.
everything() {
	ps axo pid,stat,args | grep -v 'ps axo\|exec-test.sh\|diff '
	cat /proc/self/mountinfo
	find /tmp /run /dev/shm /var/tmp "$TMP/home" -xdev 2>/dev/null | grep -v "^$TMP/out\|^$TMP/everything\|^$TMP/leaves.out"
	on client cat /proc/net/unix | wc -l
	lsns --noheadings --output NS,TYPE | sort
	ip netns list
}

test_leaves() {
	local i began failed=0 runs=${RUNS:-100} # RUNS=1000 takes two minutes
	make_user
	eventually 10 aarptun resolve $AA || true # the network is up
	run_cmd -- true
	everything >"$TMP/everything.before"
	began=$(date +%s)
	for ((i = 0; i < runs; i++)); do
		case $((i % 4)) in
		0) run_cmd -- true ;;
		1) run_cmd -- "$TMP/lab" connect "[$AA]:$PORT" ;;
		2) run_cmd -- "$TMP/lab" udp "$UA2_4:$PORT" ;;
		3) run_cmd --admin-socket "$TMP/home/admin.sock" -- sh -c 'kill -TERM $$' || test $? = 143 ;;
		esac >"$TMP/leaves.out" 2>&1 || { failed=$((failed + 1)); cat "$TMP/leaves.out"; }
	done
	echo "# $runs runs, one after the other, in $(($(date +%s) - began)) s"
	check "none of $runs runs failed" test $failed = 0
	for ((i = 0; i < 20; i++)); do
		run_cmd -- "$TMP/lab" connect "[$AA]:$PORT" >"$TMP/together.$i" 2>&1 &
		PIDS+=("$!")
	done
	wait "${PIDS[@]: -20}" || true
	check "20 at one time are in nobody's way" test "$(cat "$TMP"/together.* | grep -c 'member=m1$')" = 20
	rm -f "$TMP"/together.*
	check "they leave nothing behind: processes, mounts, files, sockets, namespaces" eventually 10 same_everything
	same_everything || true
}
same_everything() { diff "$TMP/everything.before" <(everything); }

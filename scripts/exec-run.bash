# shellcheck shell=bash
# exec: what it carries, and how CMD is; sourced by exec-test.sh.

USER_ID=4242

# make_user: a plain user, who may do what one usually may. Nothing of it is seen
# outside of the script's own mount namespace.
make_user() {
	[ -z "${HAVE_USER:-}" ] || return 0
	HAVE_USER=1
	mknod -m 0666 "$TMP/tun" c 10 200 2>/dev/null ||
		cannot "being two users takes root, not only in a user namespace: run as root"
	mount --bind "$TMP/tun" /dev/net/tun
	mkdir -p "$TMP/home"
	cp "$AARPTUN" "$TMP/aarptun"
	cp "$LAB" "$TMP/lab"
	chmod 0755 "$TMP/aarptun" "$TMP/lab"
	AARPTUN=$TMP/aarptun LAB=$TMP/lab      # the others may lie in what is hidden now
	mount -t tmpfs -o mode=1777 tmpfs /tmp # which others write to
	(cat /etc/passwd && echo "plain:x:$USER_ID:$USER_ID::$TMP/home:/bin/sh") >"$TMP/passwd"
	mount --bind "$TMP/passwd" /etc/passwd
	chown $USER_ID:$USER_ID "$TMP/home"
	set_sysctl client ipv4.ping_group_range "'0 2147483647'"
}

# PLAIN is what comes before a command of the plain user's on the client's host. It
# becomes that command.
PLAIN=(ip netns exec client setpriv --reuid=$USER_ID --regid=$USER_ID --clear-groups --inh-caps=-all --bounding-set=-all
	env -C "$TMP/home" "HOME=$TMP/home")
plain() { "${PLAIN[@]}" "$@"; }
run_cmd() { plain "$TMP/aarptun" exec "$@"; }

# as_without: CMD is what it is without exec.
as_without() {
	local same
	check "exit code 7 is exit code 7" exits 7 run_cmd -- sh -c 'exit 7'
	check "so is 77, which has another meaning for us" exits 77 run_cmd -- sh -c 'exit 77'
	check "CMD that dies by a signal: so does exec" exits 143 run_cmd -- sh -c 'kill -TERM $$'
	check "by SIGQUIT too, without a word" says '^131 0$' dies_quietly QUIT
	check "no such CMD: 127" exits 127 run_cmd -- no-such-command
	check "and it says so" fails_with 'aarptun: no-such-command: command not found' run_cmd -- no-such-command
	check "a CMD that is no program: 126" exits 126 run_cmd -- /etc/passwd
	printf 'echo "script $1 $0"\n' >"$TMP/home/script"
	chmod 0755 "$TMP/home/script"
	check "a script without a first line is one of sh(1)" says "^script one ./script\$" run_cmd -- ./script one
	plain touch own
	# Of the signals that are ignored, 32 and 33 are the C library's own.
	for same in 'id -u; id -g' pwd env 'umask' 'ulimit -a' 'echo /proc/self/fd/*' 'grep -E "^(Sig(Blk|Cgt)|Cap(Inh|Prm|Eff|Amb)|NoNewPrivs|Groups|Threads)" /proc/self/status' \
		'echo $((0x$(sed -n "s/^SigIgn:\t//p" /proc/self/status) & 0x7fffffff))' 'ls -l own' 'cat'; do
		check "the same as without: $same" same_as_without "$same"
	done
	check "what is after CMD is CMD's" says '^-p --help$' run_cmd -- echo -p --help
	check "also without the two dashes" says '^-p --help$' run_cmd echo -p --help
	check "an open file is handed on" says '^inherited$' inherits
	check "a pipe ends when CMD closes it" closes_early
}

# same_as_without COMMAND. Who runs the tests in the background, or from a program of
# its own, may have had these ignored, and of them exec cannot know
# (docs/howto/exec.md).
same_as_without() {
	local as_usual=(env --default-signal=QUIT,PIPE)
	plain "${as_usual[@]}" sh -c "$1" <<<input >"$TMP/without" 2>&1 3</etc/hosts
	plain "${as_usual[@]}" "$TMP/aarptun" exec -- sh -c "$1" <<<input >"$TMP/with" 2>&1 3</etc/hosts
	diff "$TMP/without" "$TMP/with"
}

dies_quietly() {
	local status=0
	run_cmd -- sh -c "ulimit -c 0; kill -$1 \$\$" 2>"$TMP/quiet" >&2 || status=$?
	echo "$status $(grep -vcE 'Quit' "$TMP/quiet")"
}

inherits() { run_cmd -- sh -c 'cat <&5' 5< <(echo inherited); }

closes_early() {
	mkfifo "$TMP/early"
	"${PLAIN[@]}" "$TMP/aarptun" exec -- sh -c 'echo first; exec >&-; exec sleep 1000' >"$TMP/early" &
	local pid=$! status=0
	PIDS+=("$pid")
	timeout 10 cat "$TMP/early" || status=$?
	stop "$pid" || true
	[ "$status" = 0 ]
}

# carries: pinned, passed through, named.
carries() {
	local flows i status=0
	eventually 10 aarptun resolve $AA || true # the network is up
	check "a static client reaches AA, from an address that is nobody's" says "^peer=\[$AA\]:$PORT local=100::1 member=m1\$" run_cmd -- "$TMP/lab" connect "[$AA]:$PORT"
	check "UDP is answered from AA" says "^from=\[$AA\]:$PORT member=m1\$" run_cmd -- "$TMP/lab" udp "[$AA]:$PORT"
	check "with -p too" says "member=m1\$" run_cmd -p $PREFIX -- "$TMP/lab" connect "[$AA]:$PORT"
	check "IPv4 by a static member" says "^peer=$AA4:$PORT local=192.0.0.1 member=m1\$" run_cmd -p $PREFIX4 --static $AA4=$UA1_4 -- "$TMP/lab" connect "$AA4:$PORT"
	"${PLAIN[@]}" "$TMP/aarptun" exec --cache-ttl 1s --admin-socket "$TMP/home/admin.sock" -- \
		"$TMP/lab" flows --to "[$AA]:$PORT" --tcp 20 --udp 5 --for 60s --tag exec >"$TMP/exec.out" 2>&1 &
	flows=$!
	PIDS+=("$flows")
	eventually 20 grep -qx started "$TMP/exec.out" || true
	for ((i = 0; i < 20; i++)); do
		flip
		sleep 0.1
	done
	check "flows can be looked at by its socket" says "^[0-9]+ +tcp +\[100::1\]:[0-9]+ +\[$AA\]:$PORT +2001:db8:1[12]::2" plain "$TMP/aarptun" flows --admin-socket "$TMP/home/admin.sock"
	stop "$flows" || status=$?
	check "25 flows with verified bytes survive 20 route flips" exits "$status" true
	tail -3 "$TMP/exec.out" | sed 's/^/#   /'
	check "its socket is gone" test ! -e "$TMP/home/admin.sock"
	route_to 1
	check "a unicast server: IPv6" says "^peer=\[$UA2\]:$PORT local=100::1 member=m2\$" run_cmd -- "$TMP/lab" connect "[$UA2]:$PORT"
	check "a unicast server: IPv4" says "^peer=$UA2_4:$PORT local=192.0.0.1 member=m2\$" run_cmd -- "$TMP/lab" connect "$UA2_4:$PORT"
	check "outside of the prefixes: IPv6" says "member=m2\$" run_cmd -p $PREFIX -- "$TMP/lab" connect "[$UA2]:$PORT"
	check "outside of the prefixes: IPv4" says "member=m2\$" run_cmd -p $PREFIX -- "$TMP/lab" connect "$UA2_4:$PORT"
	check "a server that refuses does so" fails_with ECONNREFUSED run_cmd -- "$TMP/lab" connect "$UA2_4:7999"
	check "UDP to it: IPv4" says "^from=$UA2_4:$PORT member=m2\$" run_cmd -- "$TMP/lab" udp "$UA2_4:$PORT"
	set_sysctl m2 ipv4.icmp_echo_ignore_all 1
	set_sysctl m2 ipv6.icmp.echo_ignore_all 1
	check "one that answers no probe: IPv6" says "member=m2\$" run_cmd -- "$TMP/lab" connect "[$UA2]:$PORT"
	check "one that answers no probe: IPv4" says "member=m2\$" run_cmd -- "$TMP/lab" connect "$UA2_4:$PORT"
	set_sysctl m2 ipv4.icmp_echo_ignore_all 0
	set_sysctl m2 ipv6.icmp.echo_ignore_all 0
	check "what CMD sends last arrives, after its end" arrives
	check "its loopback is its own, and works" says '^peer=.*member=inside$' run_cmd -- sh -c "'$TMP/lab' serve --name inside --addr :$PORT >/dev/null & sleep 0.3; '$TMP/lab' connect '[::1]:$PORT' && '$TMP/lab' connect 127.0.0.1:$PORT; kill \$!"
	check "a host that has no IPv6 has none there" says '^$' without_ipv6
}

# arrives: CMD ends at once after it has written a megabyte, and closes nothing.
arrives() {
	local size=1000000
	spawn "$TMP/sink" ip netns exec m2 "$LAB" sink --addr :7001
	eventually 5 grep -q sinking "$TMP/sink"
	run_cmd -- bash -c "exec 3<>/dev/tcp/$UA2_4/7001; head -c $size /dev/zero >&3"
	eventually 5 grep -qx "$size bytes, then EOF" "$TMP/sink"
	cat "$TMP/sink"
	grep -qx "$size bytes, then EOF" "$TMP/sink"
}

without_ipv6() {
	unshare --net sh -c "ip link set lo up; echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range
		exec setpriv --reuid=$USER_ID --regid=$USER_ID --clear-groups '$TMP/aarptun' exec -- sh -c 'ip -6 route show default; ip route show default'"
}

# names: a name server on the host's loopback.
names() {
	printf 'search lab.example\nnameserver 127.0.0.53\noptions timeout:1\n' >"$TMP/resolv.conf"
	mount --bind "$TMP/resolv.conf" /etc/resolv.conf
	spawn "$TMP/dns.log" ip netns exec client "$LAB" dns --a $UA2_4 --aaaa $UA2
	eventually 5 grep -qx naming "$TMP/dns.log"
	spawn "$TMP/web.log" ip netns exec m2 "$LAB" web --name m2
	eventually 5 grep -q serving "$TMP/web.log"
	check "resolv.conf names another address" says '^nameserver 192.0.0.2$' run_cmd -- cat /etc/resolv.conf
	check "and all else that it said" says '^search lab.example$' run_cmd -- cat /etc/resolv.conf
	check "nothing of that is seen outside" says '^nameserver 127.0.0.53$' plain cat /etc/resolv.conf
	check "a name is looked up there, over UDP" says "^\[$UA2_4 $UA2\]|\[$UA2 $UA2_4\]" run_cmd -- "$TMP/lab" lookup any.example
	check "and over TCP" says "$UA2_4" run_cmd -- "$TMP/lab" lookup --tcp any.example
	check "by the C library too" says "$UA2" run_cmd -- getent ahosts any.example
	check "nothing but names leads to the host's loopback" only_names
	check "a web server by its name" says '^hello from m2$' run_cmd -- "$TMP/lab" get http://any.example/
	if command -v curl >/dev/null; then
		check "curl: by name" says '^hello from m2$' run_cmd -- curl -sS http://any.example/
		check "curl: IPv4" says '^hello from m2$' run_cmd -- curl -sS4 http://any.example/
		check "curl: IPv6" says '^hello from m2$' run_cmd -- curl -sS6 http://any.example/
	fi
	umount /etc/resolv.conf
}

only_names() {
	spawn "$TMP/secret.log" ip netns exec client "$LAB" serve --name secret --addr 127.0.0.53:$PORT
	eventually 5 grep -q serving "$TMP/secret.log"
	says secret on client "$LAB" connect 127.0.0.53:$PORT &&
		fails_with ECONNREFUSED run_cmd -- "$TMP/lab" connect 192.0.0.2:$PORT &&
		fails_with ECONNREFUSED run_cmd -- "$TMP/lab" udp 192.0.0.2:$PORT
}

test_run() {
	make_user
	as_without
	carries
	names
}

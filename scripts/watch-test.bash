# shellcheck shell=bash
# The assertions; sourced by watch-test.sh.

end_aarptun() { check "the daemon ends with exit code 0" stop "$DAEMON"; }

# start_watched ARGUMENTS...: in the background; its PID is in $FLOWS.
start_watched() {
	spawn "$TMP/flows.out" ip netns exec client "$LAB" flows --to "[$AA]:$PORT" --for 120s --tag watched "$@"
	FLOWS=$SPAWNED
	eventually 20 grep -qx started "$TMP/flows.out"
}

# scrape asks as Prometheus does, and prints the body. The inner shell has the socket.
scrape() {
	# shellcheck disable=SC2016
	on client bash -c 'exec 3<>/dev/tcp/127.0.0.1/9470 || exit 1; printf "GET /metrics HTTP/1.0\r\n\r\n" >&3; cat <&3' | sed '1,/^\r$/d'
}
scraped() { scrape >"$TMP/scrape" && grep -qE -- "$1" "$TMP/scrape"; }

# all_there FILE: each metric of ours that the file names is in the scrape.
all_there() {
	local name missing=0 names
	names=$(grep -oE '\baarptun_[a-z_]+' "$1" | sort -u)
	[ "$(wc -l <<<"$names")" -gt 10 ] || { echo "hardly any metric is named" && return 1; }
	for name in $names; do
		grep -qE "^$name[{ ]" "$TMP/scrape" || { echo "no $name" && missing=1; }
	done
	return $missing
}

metrics() {
	local rules=$ROOT/contrib/prometheus/aarptun.rules
	start_aarptun --metrics-listen 127.0.0.1:9470
	lab connect --timeout 10s "[$AA]:$PORT" >/dev/null # and the hosts know their neighbours
	start_watched --tcp 3 --udp 2 --echo 1
	check "the metrics count the flows" eventually 5 scraped '^aarptun_flows\{proto="tcp"\} 3$'
	check "of each transport" eventually 5 scraped '^aarptun_flows\{proto="udp"\} 2$'
	check "the time to connect is a histogram" scraped '^aarptun_dial_duration_seconds_bucket\{le="\+Inf"\} [1-9]'
	check "so is the RTT of probes, by method" scraped '^aarptun_resolver_rtt_seconds_count\{method="icmp"\} [1-9]'
	check "promtool finds nothing wrong with them" promtool check metrics <"$TMP/scrape"
	check "no address is in them" not grep -E '2001:db8|198\.51\.100|203\.0\.113' "$TMP/scrape"
	check "the dashboard is of what is shown" all_there "$ROOT/contrib/grafana/aarptun.json"
	check "the alerts are of what is shown" all_there "$rules.yml"
	check "promtool finds nothing wrong with the alerts" promtool check rules "$rules.yml"
	check "each alert fires when it should, and not else" promtool test rules "$rules.test.yml"
	stop "$FLOWS" || true
	end_aarptun
	check "then nobody listens" not scrape
}

screen() { tmux -S "$TMP/tmux" capture-pane -p -t top "$@"; }
keys() { tmux -S "$TMP/tmux" send-keys -t top "$@"; }
sees() { screen | grep -qE -- "$1"; } # sees PATTERN: it is on the screen

# masked prints the screen without what differs from run to run; rows are ordered.
masked() {
	screen | sed -E 's/ +/ /g; s/ $//; s/aarptun [^ ]+ up [0-9]+[smhd]/aarptun VERSION up TIME/; s/(out|in) [^ ]+\/s/\1 RATE/g
		s/\[2[^ ]*:[0-9]+ \[2[^ ]*\]:7000/CLIENT AA/; s/\[2[^ ]*:[0-9]+ \[2[^ ]*\]:0/CLIENT AA/; s/ [0-9]+s [^ ]+ [^ ]+$/ AGE RATE RATE/; s/ [0-9.]+(µs|ms|s)/ RTT/; s/ [0-9]+s$/ TTL/
		/^[0-9]/s/RTT [^ ]+ [^ ]+$/RTT BYTES BYTES/' |
		awk '/^(tcp|udp|echo) / { rows[++n] = $0; next } { while (n) { print rows[1] | "sort"; for (i = 1; i < n; i++) rows[i] = rows[i + 1]; n-- } close("sort"); print }' | sed '/^$/d'
}

shows() { # shows TEXT: the masked screen becomes this
	local i
	for ((i = 0; i < 100; i++)); do
		[ "$(masked)" = "$1" ] && return
		sleep 0.1
	done
	echo "the screen is"
	screen
	echo "masked"
	masked
	echo "want"
	echo "$1"
	return 1
}

HEAD='aarptun VERSION up TIME aarptun0 6 flows, 0 opening 1 pins
out RATE in RATE refused 0 limited 0 reset 0'
FOOT='q quit 1-3 tab list s sort r reverse / filter space hold arrows move'
FLOWS_SCREEN="$HEAD
[1 flows] 2 pins 3 members by rate
PROTO CLIENT ANYCAST MEMBER STATE AGE OUT/S IN/S
echo CLIENT AA $UA1 estab AGE RATE RATE
tcp CLIENT AA $UA1 estab AGE RATE RATE
tcp CLIENT AA $UA1 estab AGE RATE RATE
tcp CLIENT AA $UA1 estab AGE RATE RATE
udp CLIENT AA $UA1 estab AGE RATE RATE
udp CLIENT AA $UA1 estab AGE RATE RATE
$FOOT"

# plain COMMAND...: in a terminal, it prints exactly its own words.
plain() {
	local got want
	want=$("$@")
	got=$(TERM=xterm-256color script -qec "$*" /dev/null </dev/null | tr -d '\r')
	[ "$got" = "$want" ] || { printf 'it wrote %q, want %q\n' "$got" "$want" && return 1; }
}

top() {
	check "no command asks the terminal anything" plain "$AARPTUN" version
	# The terminal that top runs in, and then what came before is there again.
	tmux -S "$TMP/tmux" -f /dev/null new-session -d -s top -x 80 -y 24 "ip netns exec client env -u NO_COLOR PS1='prompt> ' bash --norc --noprofile"
	eventually 5 sees '^prompt>' || true
	keys "stty -g >$TMP/stty1; echo before" Enter
	eventually 5 sees '^before' || true
	keys "$AARPTUN top --interval 300ms" Enter
	check "without a daemon it says so, and waits" eventually 5 sees "^no aarptun is running at /run/aarptun/admin.sock: start it with 'aarptun run',"
	start_aarptun --cache-ttl 60s --static "$AA4=$UA1_4"
	start_watched --tcp 3 --udp 2 --echo 1
	check "the daemon comes, and there are its flows" shows "$FLOWS_SCREEN"
	check "their rates are known" eventually 5 sees '^tcp .* [0-9.]+k? +[0-9.]+k?$'
	check "colours are there" grep -q $'\x1b\\[7m' <(screen -e)
	keys 2
	check "2 shows the pins" shows "$HEAD
1 flows [2 pins] 3 members
ANYCAST MEMBER CLIENT METHOD TRUST RTT TTL
$AA $UA1 - icmp nonce RTT TTL
$FOOT"
	keys Tab
	check "Tab shows the members" shows "$HEAD
1 flows 2 pins [3 members]
MEMBER FLOWS PINS METHOD RTT OUT IN
$UA1 6 1 icmp RTT BYTES BYTES
$FOOT"
	keys 1 s
	check "s sorts otherwise" eventually 5 sees '^\[1 flows\] .* by out$'
	keys r
	check "r turns it round" eventually 5 sees ' by out reversed$'
	keys / u d p Enter
	check "/ lets in what has the text" eventually 5 sees 'filter: udp  2 of 6$'
	check "and no other flow" not sees '^tcp'
	keys Escape
	check "Escape lets in all" eventually 5 sees '^tcp'
	tmux -S "$TMP/tmux" resize-window -t top -x 60 -y 12
	check "it fits a terminal of 60x12" eventually 5 sees '^q quit .* move$|^q quit .*…'
	tmux -S "$TMP/tmux" resize-window -t top -x 80 -y 24
	stop "$FLOWS" || true
	stop "$DAEMON" || true
	check "the daemon goes: it says so" eventually 5 sees "^no aarptun is running"
	start_aarptun
	check "another comes: it is shown" eventually 5 sees ' 0 flows, 0 opening '
	keys q
	check "q ends it, and the terminal is as it was" eventually 5 sees '^before'
	keys "stty -g >$TMP/stty2; echo 'code' \$?" Enter
	eventually 5 sees '^code 0' || true
	check "with exit code 0, and the modes are as they were" cmp "$TMP/stty1" "$TMP/stty2"
	keys "clear; NO_COLOR=1 $AARPTUN top" Enter
	eventually 5 sees '0 flows' || true
	check "NO_COLOR: no colours" not grep -q $'\x1b\\[[0-9;]*m' <(screen -e)
	keys C-c
	check "Ctrl-C ends it too" eventually 5 sees '^prompt> *$'
	keys "clear; $AARPTUN top; echo ended \$?" Enter
	eventually 5 sees '0 flows' || true
	pkill_top
	check "SIGTERM ends it with exit code 0, and the terminal is given back" eventually 5 sees '^ended 0$'
	keys "stty -g >$TMP/stty3; echo done" Enter
	eventually 5 sees '^done' || true
	check "the modes are as they were" cmp "$TMP/stty1" "$TMP/stty3"
	check "--once prints it for scripts" says '^ANYCAST +MEMBER +CLIENT' aarptun top --once --interval 100ms
	tmux -S "$TMP/tmux" kill-server
	end_aarptun
}

# pkill_top ends what the terminal runs: this is a pid namespace of ours.
pkill_top() { kill -TERM "$(pgrep -nf "$AARPTUN top")"; }

# say TEXT: sends it as a line over TCP to AA, and gets it back.
say() {
	# shellcheck disable=SC2016
	on client timeout 10 bash -c 'exec 3<>"/dev/tcp/$0/$1"; printf "%s\n%s\n" id "$2" >&3; read -r _ <&3; read -r back <&3; [ "$back" = "$2" ]' "$AA" "$PORT" "$1"
}

# found FILE FILTER: how many packets tshark finds.
found() { tshark -r "$1" -Y "$2" 2>/dev/null | wc -l; }
finds() { test "$(found "$1" "$2")" -ge 1; }

pcap() {
	local file=$TMP/x.pcapng marker=watched-by-tshark i
	start_aarptun --pcap "$file"
	check "a flow goes through" say $marker
	check "ping of 60,000 bytes goes through" lab ping --size 60000 "$AA"
	check "status counts what was written" eventually 5 says '^capture.packets +[1-9]' aarptun status
	end_aarptun
	check "only its owner may read it" test "$(stat -c %a "$file")" = 600
	check "tshark finds the client's bytes, out" finds "$file" "tcp contains \"$marker\" && frame.packet_flags_direction == 2 && ipv6.dst == $AA"
	check "and the member's, in, from AA" finds "$file" "tcp contains \"$marker\" && frame.packet_flags_direction == 1 && ipv6.src == $AA"
	check "it finds the ping and its answer" test "$(found "$file" 'icmpv6.type == 128')" -ge 1 -a "$(found "$file" 'icmpv6.type == 129')" -ge 1
	check "it finds nothing malformed" test "$(found "$file" '_ws.malformed')" = 0
	mkdir -p "$TMP/small"
	mount -t tmpfs -o size=1m tmpfs "$TMP/small"
	: >"$TMP/aarptun.log"
	start_aarptun --pcap "$TMP/small/x.pcapng"
	for ((i = 0; i < 15; i++)); do
		lab ping --size 60000 "$AA" >/dev/null
	done
	check "the disk is full: what is not written is counted" eventually 5 says '^capture.dropped_failed +[1-9]' aarptun status
	check "traffic goes on" say $marker
	check "it is said once" test "$(grep -c 'the capture cannot be written' "$TMP/aarptun.log")" = 1
	end_aarptun
	check "what was written can be read to its end" tshark -r "$TMP/small/x.pcapng"
	check "a file that is none is refused" exits 78 aarptun run -p $PREFIX --pcap /dev/null
	ln -s "$file" "$TMP/link"
	check "so is a link" exits 78 aarptun run -p $PREFIX --pcap "$TMP/link"
}

log() {
	: >"$TMP/aarptun.log"
	start_aarptun
	say logged
	local who="proto=tcp client=\[$CLIENT\]:[0-9]+ anycast=\[$AA\]:$PORT member=$UA1 method=icmp"
	check "a flow's begin is a line" eventually 5 grep -E "msg=\"flow begins\" id=1 $who" "$TMP/aarptun.log"
	check "its end is another" eventually 5 grep -E "msg=\"flow ends\" id=1 $who duration=[^ ]+ bytes_out=10 bytes_in=[0-9]+ end=" "$TMP/aarptun.log"
	end_aarptun
}

# shellcheck shell=bash
# exec: signals and the terminal; sourced by exec-test.sh.

# counts SIGNAL...: a CMD that says "up", counts each signal, and ends with SIGUSR1.
counting() {
	local trap='n=0; trap "echo total \$n; exit 5" USR1; ' signal
	for signal in "$@"; do
		trap+="trap 'n=\$((n+1)); echo $signal \$n' $signal; "
	done
	echo "$trap echo up; while :; do sleep 0.05; done"
}

# sent: signals that are sent to exec alone get to CMD, each once.
sent() {
	local signal pid
	spawn "$TMP/sent" env --default-signal=INT,QUIT "${PLAIN[@]}" "$TMP/aarptun" exec -- sh -c "$(counting HUP INT QUIT TERM USR2 WINCH)"
	pid=$SPAWNED
	eventually 10 grep -qx up "$TMP/sent"
	for signal in HUP INT QUIT TERM USR2 WINCH; do
		kill "-$signal" "$pid"
		check "SIG$signal gets to CMD" eventually 5 grep -q "^$signal " "$TMP/sent"
	done
	kill -USR1 "$pid"
	check "CMD's exit code is that of exec" exits 5 wait "$pid"
	check "each signal has come once" grep -qx 'total 6' "$TMP/sent"
}

# killed_hard: kill -9 of exec is kill -9 of CMD, and nothing of it stays.
killed_hard() {
	local pid
	spawn "$TMP/hard" "${PLAIN[@]}" "$TMP/aarptun" exec -- sh -c 'echo $$; exec sleep 1000'
	pid=$SPAWNED
	eventually 10 test -s "$TMP/hard"
	stop "$pid" KILL || true
	check "kill -9 of exec ends CMD" eventually 5 not kill -0 "$(cat "$TMP/hard")"
	check "and the daemon" eventually 5 no_exec
}
no_exec() { ! pgrep -f "^$TMP/aarptun exec" >&2; }

# at_terminal SCRIPT: runs a shell script at a terminal of its own, with job
# control, as the plain user; what is written to $TMP/keys are its keys.
at_terminal() {
	rm -f "$TMP/keys" "$TMP/screen"
	mkfifo "$TMP/keys"
	printf '%s\n' "$1" >"$TMP/job"
	# It ends when its keys do, so they are held open. A shell starts what is in the
	# background with these signals ignored.
	spawn /dev/null env --default-signal=INT,QUIT sh -c "exec script -qfec '${PLAIN[*]} ${2:-bash --norc -m $TMP/job}' $TMP/screen <$TMP/keys"
	exec 9>"$TMP/keys"
	TERMINAL=$SPAWNED
}
types() { printf "$1" >&9; }
# shows PATTERN: a line that begins so, but for a key that the terminal has shown.
shows() { eventually 10 grep -qE -- "^(\\^[A-Z])*$1" "$TMP/screen"; }
screen() { sed 's/^/  /' "$TMP/screen"; }
closes() { # the terminal's program ends
	exec 9>&-
	eventually 10 not kill -0 "$TERMINAL" || kill -KILL "$TERMINAL"
}

terminal() {
	local cmd
	cmd=$(counting INT TERM WINCH)
	at_terminal "$TMP/aarptun exec -- sh -c '${cmd//\'/\'\\\'\'}'; echo code \$?; echo end"
	check "CMD has a terminal" shows 'up'
	types '\003'
	check "Ctrl-C gets to it" shows 'INT 1'
	types '\003'
	check "each time" shows 'INT 2'
	pgrep -f "^$TMP/aarptun exec" | head -1 | xargs kill -INT
	check "and so does a SIGINT that is sent to exec alone" shows 'INT 3'
	pgrep -f "^$TMP/aarptun exec" | head -1 | xargs kill -USR1
	check "none of them twice" shows 'total 3'
	check "the shell sees CMD's exit code" shows 'code 5'
	closes

	at_terminal "$TMP/aarptun exec -- sh -c 'test -t 0 && test -t 1 && test -t 2 && tty; read -r a; echo got \$a; read -r b; echo then \$b'; echo stopped \$?; jobs; fg; echo code \$?"
	check "CMD's streams are the terminal" shows '/dev/pts/'
	types 'one\n'
	check "and it may read from it" shows 'got one'
	types '\032'
	check "Ctrl-Z stops it, and the shell goes on" shows 'stopped 148'
	check "and lists it as stopped" shows '.*Stopped'
	types 'two\n'
	check "fg continues it, and it reads on" shows 'then two'
	check "its exit code is 0" shows 'code 0'
	closes

	at_terminal "$TMP/aarptun exec -- sh -c 'echo up; kill -STOP \$\$; echo on'; echo stopped \$?; sleep 0.2; kill -CONT %1; wait %1; echo code \$?"
	check "CMD that stops itself stops exec" shows 'stopped 147'
	check "SIGCONT to the job continues it" shows 'on'
	check "and it ends well" shows 'code 0'
	closes

	at_terminal "$TMP/aarptun exec -- sh -c 'echo up; sleep 1000' | cat"
	check "in a pipeline: it runs" shows 'up'
	types '\003'
	check "in a pipeline: Ctrl-C kills it, and the script, as it does without" shows '.*COMMAND_EXIT_CODE="130"'
	closes

	at_terminal "exec $TMP/aarptun exec -- sh -c 'trap \"echo int; exit 6\" INT; echo up; read -r a; echo got \$a; while :; do sleep 0.05; done'" "sh $TMP/job"
	check "without a shell, as a terminal's first program: it runs" shows 'up'
	types 'three\n'
	check "and reads" shows 'got three'
	types '\003'
	check "and Ctrl-C gets to it" shows 'int'
	closes

	at_terminal "$TMP/aarptun exec -- bash --norc -i; echo code \$?"
	types 'echo in $((20 + 3))\n'
	check "an interactive shell: it runs" shows '.*in 23'
	types 'sleep 1000\n'
	sleep 0.3
	types '\032'
	check "with job control of its own" shows '.*Stopped'
	types 'kill %%1\n'
	types 'exit 4\n'
	types 'exit 4\n'
	check "and ends as it is told to" shows 'code 4'
	closes

	at_terminal "$TMP/aarptun exec -- sh -c 'trap \"echo hup >$TMP/home/hup; exit\" HUP; echo up; while :; do sleep 0.05; done'"
	check "a terminal that goes away" shows 'up'
	kill -KILL "$TERMINAL"
	check "sends CMD a SIGHUP" eventually 5 test -s "$TMP/home/hup"
	check "and nothing stays" eventually 5 no_exec
	exec 9>&-
}

test_terminal() {
	make_user
	sent
	killed_hard
	terminal
	[ "$FAILED" = 0 ] || screen | sed 's/^/#/'
}

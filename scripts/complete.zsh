#!/usr/bin/env zsh
# Prints what zsh offers: complete.zsh SCRIPT WORD... (the last is completed). A shell
# on a terminal of its own is asked with Tab, and says each match that is added.
zmodload zsh/zpty
where=$(mktemp -d)
trap 'rm -rf $where' EXIT
cp $1 $where/_aarptun
shift
cat >$where/.zshrc <<'END'
PROMPT= RPROMPT=
fpath=($ZDOTDIR $fpath)
autoload -Uz compinit && compinit -u -D
compadd() {
	local -a found
	# With -O or -D nothing is added yet.
	if (( ! $@[(I)-[OAD]] )); then
		builtin compadd -O found "$@"
		(( $#found )) && print -rl -- "@match "$^found
	fi
	builtin compadd "$@"
}
tell() {
	print
	_main_complete
	print -r -- @end
}
zle -C tell complete-word tell
bindkey '^I' tell
print -r -- @ready
END
export ZDOTDIR=$where
zpty shell zsh -d -i
local line
until [[ $line == *@ready* ]]; do zpty -r shell line || exit 1; done
zpty -w -n shell "$*"$'\t'
while zpty -r shell line; do
	[[ $line == *@end* ]] && break
	[[ $line == *@match* ]] && print -r -- ${${${line#*@match }%$'\n'}%$'\r'}
done | sort -u
zpty -d shell

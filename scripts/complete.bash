#!/usr/bin/env bash
# Prints what bash offers: complete.bash SCRIPT WORD... (the last is completed)
script=$1
shift
# shellcheck source=/dev/null
. /usr/share/bash-completion/bash_completion
# shellcheck source=/dev/null
. "$script"
compopt() { :; } # is for the line that is being typed, and there is none
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
COMP_LINE="$*"
COMP_POINT=${#COMP_LINE}
COMP_TYPE=9 # Tab
COMP_KEY=9
COMPREPLY=()
"$(complete -p aarptun | sed 's/.* -F \([^ ]*\) .*/\1/')" "$1" "${*: -1}" "${*: -2:1}"
[ ${#COMPREPLY[@]} = 0 ] || printf '%s\n' "${COMPREPLY[@]}" | sed 's/ *$//; s/  *(.*//'

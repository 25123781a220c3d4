#!/usr/bin/env fish
# Prints what fish offers: complete.fish SCRIPT WORD... (the last is completed)
source $argv[1]
complete -C "$(string join ' ' -- $argv[2..])" | string replace -r '\t.*' ''

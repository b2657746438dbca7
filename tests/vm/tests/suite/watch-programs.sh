#!/bin/bash
# Notes the arguments and the environment of every program that runs, each once, a few times a second. Starts nothing itself.
exec {never}<> <(:)
declare -A seen kernel_threads
while true; do
    for process in /proc/[0-9]*; do
        [[ ${kernel_threads[$process]} ]] && continue
        if [[ ! -e $process/exe ]]; then
            kernel_threads[$process]=yes
            continue
        fi
        mapfile -d '' -t words <"$process/cmdline" || continue
        arguments="${words[*]}"
        # A process on its way out has none, and an empty subscript would end this shell.
        [[ -n $arguments ]] || continue
        [[ ${seen[$arguments]} ]] && continue
        seen[$arguments]=yes
        mapfile -d '' -t environment <"$process/environ"
        echo "$arguments | ${environment[*]}" >>"$1"
    done 2>/dev/null
    read -r -t 0.3 -u "$never"
done

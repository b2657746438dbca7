#!/bin/bash
# cost.sh NAME COMMAND...: runs it and says what it took: wall time, and processes and threads that the machine started meanwhile.
set -eu
name=$1
shift
started() { awk '/^processes/ { print $2 }' /proc/stat; }
before=$(started)
start=$(date +%s%N)
"$@" >/run/cost.log 2>&1 || { cat /run/cost.log; exit 1; }
end=$(date +%s%N)
echo "$name: $(((end - start) / 1000000)) ms, $(($(started) - before - 3)) processes and threads"

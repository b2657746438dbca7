#!/bin/sh
# Runs a program of this machine while a root, of which nothing is changed, is mounted at DIR/root: what is written goes to DIR/changed.
#   on-root.sh ROOT DIR PROGRAM ARGUMENTS...
set -eu
root=$1
dir=$2
shift 2
mkdir -p "$dir/changed" "$dir/work" "$dir/root"
exec unshare --mount sh -eu -c '
    root=$1
    dir=$2
    shift 2
    mount -t overlay overlay -o "lowerdir=$root,upperdir=$dir/changed,workdir=$dir/work" "$dir/root"
    mount -t tmpfs tmpfs "$dir/root/tmp"
    mount -t proc proc "$dir/root/proc"
    exec "$@"
' sh "$root" "$dir" "$@"

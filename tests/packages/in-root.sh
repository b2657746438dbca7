#!/bin/sh
# Runs a program in a root of which nothing is changed: what it writes goes to DIR/changed.
#   in-root.sh ROOT DIR PROGRAM ARGUMENTS...
# DIR/given is there as /tmp/given. No systemd runs in it: as in an image that is being built.
set -eu
root=$1
dir=$2
shift 2
mkdir -p "$dir/changed" "$dir/work" "$dir/root" "$dir/given"
exec unshare --mount --pid --net --fork --kill-child sh -eu -c '
    root=$1
    dir=$2
    shift 2
    mount -t overlay overlay -o "lowerdir=$root,upperdir=$dir/changed,workdir=$dir/work" "$dir/root"
    mount -t proc proc "$dir/root/proc"
    mount -t tmpfs tmpfs "$dir/root/tmp"
    mkdir "$dir/root/tmp/given"
    mount --bind "$dir/given" "$dir/root/tmp/given"
    exec env --ignore-environment PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive chroot "$dir/root" "$@"
' sh "$root" "$dir" "$@"

#!/bin/sh
# Unpacks Debian's containerd 1.6, 1.7 and 2 below target/containerd-SERIES/, for the tests that ask a real one.
# Nothing is installed; what is there is kept. No address is written down: the mirror is the one that apt here knows.
set -eu

here=$(dirname "$(readlink -f "$0")")
target=$(readlink -f "$here/../..")/target
failed=

fetch() { # fetch SERIES SUITE
    into=$target/containerd-$1
    [ ! -x "$into/usr/bin/containerd" ] || return 0
    work=$(mktemp -d)
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/debs" "$work/root"
    echo "deb $mirror $2 main" >"$work/sources.list"
    # The sandbox user of apt cannot read a directory of ours.
    apt() {
        apt-get --quiet --quiet -o APT::Sandbox::User=root -o Dir::Etc::SourceList="$work/sources.list" \
            -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" "$@"
    }
    if apt update && (cd "$work/debs" && apt download containerd); then
        case $(echo "$work"/debs/*.deb) in
            */containerd_"$1".*) dpkg-deb -x "$work"/debs/*.deb "$work/root" ;;
            *) echo "fetch.sh: Debian $2 has $(ls "$work/debs"), not containerd $1" >&2 ;;
        esac
    fi
    if [ -x "$work/root/usr/bin/containerd" ]; then
        mkdir -p "$target"
        rm -rf "$into"
        mv "$work/root" "$into"
    else
        failed="$failed $1"
    fi
    rm -rf "$work"
}

mirror=$("$here/../vm/mirror.sh") || mirror=
if [ -n "$mirror" ]; then
    fetch 1.6 bookworm
    fetch 1.7 trixie
    fetch 2 sid
else
    failed=" 1.6 1.7 2"
fi
# Not an error: the test that wants one says SKIPPED.
[ -z "$failed" ] || echo "fetch.sh: could not fetch containerd$failed" >&2

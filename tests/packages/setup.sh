#!/bin/sh
# Installs what the package tests need, and makes their roots: TARGET/packages/{debian-12,debian-13}. Safe to run again.
set -eu
umask 022
export LC_ALL=C.UTF-8
PATH=$PATH:/usr/sbin:/sbin
here=$(dirname "$(readlink -f "$0")")
out=${CARGO_TARGET_DIR:-$here/../../target}/packages

missing=
for program in mmdebstrap rpm dnf lintian rpmlint; do
    command -v $program >/dev/null || missing="$missing $program"
done
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing="$missing debian-archive-keyring"
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "setup.sh: missing:$missing; run this as root, or install them yourself" >&2
        exit 1
    fi
    apt-get update
    # shellcheck disable=SC2086 # a list of package names
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
fi

make_root() { # make_root NAME SUITE
    root=$out/$1-$(sed -n '/^make_root()/,/^}/p' "$0" | sha256sum | cut -c1-16)
    if ! [ -e "$root" ]; then
        echo "setup.sh: making the root $1" >&2
        mkdir -p "$out"
        rm -rf "$out/$1"-*
        # With what our package depends on, so that the tests need no mirror.
        mmdebstrap --quiet --mode=root --variant=apt --include=systemd,kmod \
            --aptopt='APT::Install-Recommends "false"' "$2" "$root.new" \
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $2 main"
        mv "$root.new" "$root"
    fi
    ln -sfn "$(basename "$root")" "$out/$1"
}

mirror=$("$here/../vm/mirror.sh")
make_root debian-12 bookworm
make_root debian-13 trixie

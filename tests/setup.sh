#!/bin/sh
# Installs what building and testing without a VM need, and only what is missing. Safe to run again.
set -eu

missing=
need() { # need PROGRAM-OR-FILE PACKAGE
    case $1 in
        /*) [ -e "$1" ] && return ;;
        *) command -v "$1" >/dev/null 2>&1 && return ;;
    esac
    missing="$missing $2"
}

PATH=$PATH:/usr/sbin:/sbin
need cc gcc
need /usr/include/stdio.h libc6-dev
need pkg-config pkg-config
need curl curl
need nft nftables
need ip iproute2
need unshare util-linux
need sysctl procps
# What others put on disks, for the tests that it stays there.
need mkfs.ext4 e2fsprogs
need mkfs.xfs xfsprogs
need mkfs.btrfs btrfs-progs
need mkfs.vfat dosfstools
need mkfs.exfat exfatprogs
need mkntfs ntfs-3g
need cryptsetup cryptsetup-bin
need pvcreate lvm2
need make-bcache bcache-tools
need mkfs.f2fs f2fs-tools
need mkfs.jfs jfsutils
need mkreiserfs reiserfsprogs
need mkfs.nilfs2 nilfs-tools
need mkfs.ocfs2 ocfs2-tools
need mkudffs udftools
need genisoimage genisoimage
need mksquashfs squashfs-tools
need mkfs.erofs erofs-utils
need sgdisk gdisk
need sfdisk fdisk
pkg-config --exists libsystemd 2>/dev/null || missing="$missing libsystemd-dev"
command -v cargo >/dev/null 2>&1 || {
    echo "setup.sh: no cargo; install Rust 1.95 or later (rustup reads rust-toolchain.toml)" >&2
    exit 1
}
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "setup.sh: missing:$missing; run this as root, or install them yourself" >&2
    exit 1
fi
apt-get update
# shellcheck disable=SC2086 # a list of package names
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing

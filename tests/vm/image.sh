#!/bin/sh
# Builds the Debian 13 image of the VM tests: OUTDIR/base.raw (ext4, no partitions, no initrd) and OUTDIR/vmlinuz.
#   image.sh OUTDIR
#   image.sh OUTDIR NAME HOOK...     and then OUTDIR/NAME.raw: the same with what `HOOK... ROOT` does to its root; made anew each time
# Both steps are cached by a digest of what they are made from: packages (about a minute), then tree + configure + file
# system (about 15 s). With nothing changed it takes no time. What changes often (nap-agent, kubelet, units) is not in
# here: the driver writes it into each VM's copy of base.raw.
set -eu
umask 022

here=$(dirname "$(readlink -f "$0")")
mkdir -p "${1:?usage: image.sh OUTDIR}"
out=$(readlink -f "$1")
suite=trixie
size=4G
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C.UTF-8

digest() { cat "$@" | sha256sum | cut -c1-16; }
note() { echo "image.sh: $*" >&2; }

packages_digest=$( { echo $suite; sed -n '/^make_rootfs()/,/^}/p' "$0"; cat "$here/image/packages"; } | digest -)
image_digest=$( { echo "$packages_digest $size"; sed -n '/^make_root()/,/^}/p; /^make_disk()/,/^}/p' "$0"
    cat "$here/image/configure"
    cd "$here/image/tree"; find . -type f | sort | while read -r file; do echo "$file"; cat "$file"; done; } | digest -)
rootfs=$out/rootfs-$packages_digest
image=$out/image-$image_digest

make_rootfs() { # make_rootfs DIR
    mirror=$("$here/mirror.sh")
    mmdebstrap --quiet --mode=root --variant=apt --include="$(paste -sd, "$here/image/packages")" \
        --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        $suite "$1" "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
}

make_root() { # make_root DIR
    cp -a "$rootfs" "$1"
    cp -R --remove-destination "$here/image/tree/." "$1/"
    cp "$here/image/configure" "$1/configure"
    unshare --mount sh -c 'mount -t proc proc "$0/proc" && exec chroot "$0" /bin/sh /configure' "$1"
    rm "$1/configure"
}

make_disk() { # make_disk ROOT FILE: what is in ROOT, which is removed
    # Without metadata_csum debugfs can write into the file system later, and without lazy init no thread of the guest does.
    truncate -s $size "$2"
    mkfs.ext4 -q -F -O ^metadata_csum,^64bit -E lazy_itable_init=0,lazy_journal_init=0 -d "$1" "$2"
    rm -rf "$1"
}

make_image() { # make_image DIR
    mkdir "$1"
    make_root "$1/root"
    cp "$1"/root/boot/vmlinuz-* "$1/vmlinuz"
    make_disk "$1/root" "$1/base.raw"
}

publish() { # publish FINAL FUNCTION: built beside, then renamed, so that an interrupted run leaves nothing half done
    [ -e "$1" ] && return
    note "building $(basename "$1")"
    if [ "$(id -u)" != 0 ]; then note "needs root (mmdebstrap, chroot, mount)"; exit 1; fi
    rm -rf "$1.new"
    "$2" "$1.new"
    mv "$1.new" "$1"
}

exec 9>"$out/image.lock"
flock 9
if [ ! -e "$image" ]; then
    publish "$rootfs" make_rootfs
    publish "$image" make_image
fi
for old in "$out"/rootfs-* "$out"/image-*; do
    case $old in "$rootfs" | "$image") ;; *) rm -rf "$old" ;; esac
done
ln -sfn "$(basename "$image")/base.raw" "$out/base.raw"
ln -sfn "$(basename "$image")/vmlinuz" "$out/vmlinuz"

[ $# -gt 1 ] || exit 0
name=$2
shift 2
note "building $name.raw"
rm -rf "$out/$name.new"
make_root "$out/$name.new"
"$@" "$out/$name.new"
make_disk "$out/$name.new" "$out/$name.raw"

#!/bin/sh
# Makes an image of a root as an image pipeline does: kubelet, the deb, and what nap-image-builder bakes, when it is given.
#   install-package.sh KUBELET DEB [BUILDER] ROOT
set -eu
kubelet=$1 deb=$2
builder= root=$3
[ $# = 3 ] || { builder=$3; root=$4; }
install -D -m 0755 "$kubelet" "$root/opt/bin/kubelet"
cp "$deb" "$root/nap-agent.deb"
unshare --mount sh -c 'mount -t proc proc "$0/proc" && exec chroot "$0" dpkg --install /nap-agent.deb' "$root"
rm "$root/nap-agent.deb"
[ -n "$builder" ] || exit 0
"$builder" bake --root "$root"
"$builder" check --root "$root" --network none
"$builder" generalize --root "$root"

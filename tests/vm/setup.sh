#!/bin/sh
# Installs what building the image and running the VM needs, and only what is missing. Safe to run again.
#   setup.sh            QEMU, mmdebstrap, genisoimage
#   setup.sh --cluster  etcd too, for the tests with the real kube-apiserver ($NAP_KUBE_BIN)
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
need qemu-system-x86_64 qemu-system-x86
need /usr/share/seabios/bios-256k.bin seabios
need mmdebstrap mmdebstrap
need genisoimage genisoimage
need mkfs.ext4 e2fsprogs
need debugfs e2fsprogs
need setpriv util-linux
need /usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
if [ "${1-}" = --cluster ]; then need etcd etcd-server; fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "setup.sh: missing:$missing; run this as root, or install them yourself" >&2
    exit 1
fi

install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

# The packages of QEMU must be of one version. Where qemu-utils came from backports, the others must too.
backports() {
    case $(dpkg-query -W -f '${Version}' qemu-utils 2>/dev/null || true) in
        *~bpo*) . /etc/os-release; echo "$VERSION_CODENAME-backports" ;;
    esac
}

apt-get update
suite=$(backports)
if [ -n "$suite" ]; then
    echo "setup.sh: qemu-utils is from $suite, so QEMU is taken from there too" >&2
    if ! apt-get indextargets --format '$(RELEASE)' 'Created-By: Packages' | grep -qx "$suite"; then
        here=$(dirname "$(readlink -f "$0")")
        mirror=$("$here/mirror.sh")
        echo "deb $mirror $suite main" >/etc/apt/sources.list.d/nap-vm-backports.list
        apt-get update
    fi
    # shellcheck disable=SC2086 # a list of package names
    install -t "$suite" $missing
else
    # shellcheck disable=SC2086 # a list of package names
    install $missing
fi

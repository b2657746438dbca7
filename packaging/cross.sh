#!/bin/sh
# Prints the variables with which cargo builds for another processor; gets its compiler and libraries first.
#   eval "$(cross.sh arm64)"
# The libraries are Debian's, unpacked below TARGET/cross and not installed: this machine's own stay as they are.
set -eu
architecture=${1:?usage: cross.sh arm64}
here=$(dirname "$(readlink -f "$0")")
target=$(readlink -f "${CARGO_TARGET_DIR:-$here/../target}")
case $architecture in
    arm64) triple=aarch64-unknown-linux-gnu; gnu=aarch64-linux-gnu ;;
    *) echo "cross.sh: found $architecture, want arm64" >&2; exit 1 ;;
esac
command -v rustup >/dev/null && rustup --quiet target add $triple >&2
if ! command -v $gnu-gcc >/dev/null || ! [ -d /usr/$gnu/include ]; then
    [ "$(id -u)" = 0 ] || { echo "cross.sh: install gcc-$gnu and libc6-dev-$architecture-cross" >&2; exit 1; }
    apt-get update >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends gcc-$gnu libc6-dev-$architecture-cross >&2
fi
root=$target/cross/$architecture
if ! [ -e "$root" ]; then
    mkdir -p "$target/cross"
    rm -rf "$root.new"
    . /etc/os-release
    mmdebstrap --quiet --mode=root --variant=extract --architectures="$architecture" --include=libsystemd-dev \
        "$VERSION_CODENAME" "$root.new" \
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $("$here/../tests/vm/mirror.sh") $VERSION_CODENAME main" >&2
    mv "$root.new" "$root"
fi
lower=$(echo $triple | tr - _)
upper=$(echo $lower | tr a-z A-Z)
# Each for that processor alone: what is built for this machine at the same time finds this machine's libraries.
echo "export CARGO_TARGET_${upper}_LINKER=$gnu-gcc"
echo "export CC_$lower=$gnu-gcc"
echo "export PKG_CONFIG_ALLOW_CROSS_$lower=1"
echo "export PKG_CONFIG_SYSROOT_DIR_$lower=$root"
echo "export PKG_CONFIG_LIBDIR_$lower=$root/usr/lib/$gnu/pkgconfig"
# libsystemd's own libraries are found at link time only.
echo "export CROSS_RUSTFLAGS=-Clink-arg=-Wl,-rpath-link,$root/usr/lib/$gnu:$root/lib/$gnu"

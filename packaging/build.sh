#!/bin/sh
# Builds what the packages take: TARGET/dist/ARCH/{nap-agent,nap-agent.debug,nap-agent.1,nap-agent.{bash,zsh,fish},nap-agent.cdx.json}.
#   build.sh ARCH [PROFILE]     amd64 or arm64; the one that this machine is not needs cross.sh's compiler and libraries. Of the profile `dev`,
#                               for the tests of the packages, it takes the program that every other test has: the optimised one takes ten minutes
# The same commit and toolchain give the same bytes in any folder of any machine.
set -eu
umask 022
export LC_ALL=C.UTF-8

architecture=${1:?usage: build.sh amd64|arm64 [dev|shipped]}
profile=${2:-shipped}
cd "$(dirname "$(readlink -f "$0")")/.."
target=${CARGO_TARGET_DIR:-target}
date=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
# With it in the environment the crates that compile C, and all that stands on them, are built anew for each commit. No time gets into them.
unset SOURCE_DATE_EPOCH
case $architecture in
    amd64) triple=x86_64-unknown-linux-gnu ;;
    arm64) triple=aarch64-unknown-linux-gnu ;;
    *) echo "build.sh: found $architecture, want amd64 or arm64" >&2; exit 1 ;;
esac
# No path of this machine gets into the program.
flags="--remap-path-prefix=$PWD=/usr/src/nap-agent --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/usr/src/cargo"
prefix=
if [ "$triple" != "$(rustc -vV | sed -n 's/^host: //p')" ]; then
    prefix=$(echo "$triple" | sed 's/-unknown//')-
    eval "$(packaging/cross.sh "$architecture")"
fi

# What makes the texts is built as every other program of this machine, so that nothing is built twice.
cargo build --quiet --locked --workspace --bins
built=$target/debug/nap-agent
if [ "$profile" = shipped ]; then
    RUSTFLAGS="$flags ${CROSS_RUSTFLAGS-}" cargo build --quiet --locked --profile shipped --package nap-agent --target "$triple"
    built=$target/$triple/shipped/nap-agent
fi
out=$target/dist/$architecture
mkdir -p "$out"
"${prefix}objcopy" --only-keep-debug --compress-debug-sections "$built" "$out/nap-agent.debug"
"${prefix}objcopy" --strip-all --remove-section=.comment "$built" "$out/nap-agent"
chmod 644 "$out/nap-agent.debug"
(cd "$out" && "${prefix}objcopy" --add-gnu-debuglink=nap-agent.debug nap-agent)
# A program of another processor cannot be asked; this machine's says the same.
"$target/debug/nap-agent" man >"$out/nap-agent.1"
for shell in bash zsh fish; do "$target/debug/nap-agent" completions $shell >"$out/nap-agent.$shell"; done
cargo metadata --quiet --locked --format-version 1 --filter-platform "$triple" |
    "$target/debug/nap-image-builder" sbom --date "$date" >"$out/nap-agent.cdx.json"

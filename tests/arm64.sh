#!/bin/sh
# Starts the arm64 program and runs the unit tests for arm64, under emulation of the processor (qemu-user): `make arm64`, which says how long.
#   arm64.sh [PROGRAM]    PROGRAM is what packaging/build.sh arm64 made; without it only the unit tests run, with a program of theirs
# System calls are this machine's kernel's: what only Linux on arm64 would say (firmware, modules, disks) is not tried by this.
set -eu
export LC_ALL=C.UTF-8
cd "$(dirname "$(readlink -f "$0")")/.."
target=$(readlink -f "${CARGO_TARGET_DIR:-target}")
if ! command -v qemu-aarch64 >/dev/null; then
    [ "$(id -u)" = 0 ] || { echo "arm64.sh: install qemu-user" >&2; exit 1; }
    apt-get update >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends qemu-user >&2
fi
eval "$(packaging/cross.sh arm64)"
emulator="qemu-aarch64 -L $target/cross/arm64"

starts() { # starts PROGRAM: it says its version, and plans the same node as this machine's own program
    $emulator "$1" --version
    for custom_data in none.yaml overlay.yaml everything.yaml; do
        plan="plan --os ubuntu-24.04 --output json --custom-data agent/model/testdata/$custom_data"
        # shellcheck disable=SC2086 # words
        $emulator "$1" $plan >"$target/plan-arm64"
        # shellcheck disable=SC2086 # words
        "$target/debug/nap-agent" $plan >"$target/plan-here"
        cmp "$target/plan-arm64" "$target/plan-here"
        echo "arm64.sh: plans $custom_data as this machine's program does: $(wc -c <"$target/plan-arm64") bytes"
    done
}

cargo build --quiet --locked --package nap-agent
[ $# = 0 ] || starts "$1"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$emulator"
export RUSTFLAGS="$CROSS_RUSTFLAGS"
cargo test --locked --target aarch64-unknown-linux-gnu --lib --bins \
    --package nap-model --package nap-host --package nap-agent --package nap-image-builder

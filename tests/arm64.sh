#!/bin/sh
# Starts the arm64 program and runs the unit tests for arm64, under emulation of the processor (qemu-user): `make arm64`, which says how long.
#   arm64.sh [PROGRAM]    PROGRAM is what packaging/build.sh arm64 made; without it only the unit tests run, with a program of theirs
# System calls are this machine's kernel's: what only Linux on arm64 would say (firmware, modules, disks) is not tried by this.
set -eu
export LC_ALL=C.UTF-8
cd "$(dirname "$(readlink -f "$0")")/.."
target=$(readlink -f "${CARGO_TARGET_DIR:-target}")
# Debian 13's emulator, which needs no libraries; Debian 12's own does not know openat2, by which every file is opened here.
qemu=$target/cross/qemu
if ! [ -e "$qemu" ]; then
    mkdir -p "$target/cross"
    rm -rf "$qemu.new"
    mmdebstrap --quiet --mode=root --variant=extract --include=qemu-user trixie "$qemu.new" \
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(tests/vm/mirror.sh) trixie main" >&2
    mv "$qemu.new" "$qemu"
fi
eval "$(packaging/cross.sh arm64)"
emulator="$qemu/usr/bin/qemu-aarch64 -L $target/cross/arm64"

starts() { # starts PROGRAM: it says its version, and plans the same node as this machine's own program
    cargo build --quiet --locked --workspace --bins
    $emulator "$1" --version
    for custom_data in none.yaml overlay.yaml cilium.yaml local-disks.yaml; do
        plan="plan --os ubuntu-24.04 --output json --custom-data agent/model/testdata/$custom_data"
        # shellcheck disable=SC2086 # words
        $emulator "$1" $plan >"$target/plan-arm64"
        # shellcheck disable=SC2086 # words
        "$target/debug/nap-agent" $plan >"$target/plan-here"
        cmp "$target/plan-arm64" "$target/plan-here"
        echo "arm64.sh: plans $custom_data as this machine's program does: $(wc -c <"$target/plan-arm64") bytes"
    done
}

[ $# = 0 ] || starts "$1"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$emulator"
export RUSTFLAGS="$CROSS_RUSTFLAGS"
# A sixteenth of the random inputs that each property gets: the emulator is many times slower.
export PROPTEST_CASES=16
# Left out: what the emulator does otherwise. A program that cannot be started ends with 127 there; /proc/self is not the kernel's, and / is the
# folder of arm64's libraries, which has no /proc; ten milliseconds are this machine's.
cargo test --quiet --locked --target aarch64-unknown-linux-gnu --lib --bins \
    --package nap-model --package nap-host --package nap-agent --package nap-image-builder -- \
    --skip a_program_sees_no_environment_and_its_failure_tells_all \
    --skip our_own_state_is_read_from_the_real_kernel \
    --skip this_machine_is_looked_at_within_the_limit \
    --skip sixteen_disks_are_scanned_in_ten_milliseconds

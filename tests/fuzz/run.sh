#!/bin/sh
# run.sh TARGET SECONDS: looks for an input at which a promise breaks; ends at the first. Goes on from what earlier runs kept.
set -eu
target=${1:?TARGET, one of tests/fuzz/fuzz_targets}
seconds=${2:?SECONDS}
cd "$(dirname "$0")"
work=${CARGO_TARGET_DIR:-$PWD/target}
export CARGO_TARGET_DIR="$work"
mkdir -p "corpus/$target" "artifacts/$target" "$work"

# libFuzzer takes words of the formats as a whole; they stand in our tables.
grep -ohE '"[A-Za-z][A-Za-z0-9_.=/-]{2,63}"' ../../agent/model/src/config/*.rs ../../agent/model/src/clouds.rs | sort -u >"$work/words.dict"

# Stable Rust has no switch for sanitizers. There is no unsafe code of ours to watch; what they cost goes into more inputs.
# src/lib.rs limits the memory of one input as a whole, so -malloc_limit_mb counts only where somebody turns a sanitizer on.
export RUSTC_BOOTSTRAP=1
exec cargo fuzz run --fuzz-dir . --sanitizer "${SANITIZER:-none}" "$target" "corpus/$target" "seeds/$target" -- \
    -max_total_time="$seconds" -timeout=1 -malloc_limit_mb=64 -rss_limit_mb=2048 -max_len=65535 \
    -dict="$work/words.dict" -print_final_stats=1

#!/bin/sh
# Takes each guard of local disks away in turn, in a copy of the tree, and fails unless a test notices. Minutes; not part of `make test`.
set -eu
cd "$(dirname "$0")/.."
copy=$PWD/target/guards/tree
export CARGO_TARGET_DIR="$PWD/target/guards/build"
fault=0

without() { # without NAME FILE LINE REPLACEMENT: the line must be there once
    rm -rf "$copy"
    mkdir -p "$copy"
    git ls-files -z | xargs -0 cp --parents -t "$copy"
    [ "$(grep -cF -- "$3" "$2")" = 1 ] || { echo "guards.sh: $2 has no single line: $3" >&2; exit 1; }
    awk -v line="$3" -v new="$4" 'index($0, line) { print new; next } { print }' "$2" >"$copy/$2"
    if (cd "$copy" && cargo test --quiet --package nap-model disks) >"$copy.log" 2>&1; then
        echo "guards.sh: nobody misses $1" >&2
        fault=1
    elif grep -q '^test result: FAILED' "$copy.log"; then
        echo "$1: missed by $(grep -c -- '--- FAILED\|^    plan::disks\|^    facts::disks' "$copy.log") lines of the test's output"
    else
        echo "guards.sh: without $1 it does not build; see $copy.log" >&2
        fault=1
    fi
}

facts=agent/model/src/facts/disks.rs
plan=agent/model/src/plan/disks.rs
without "identity by model" $facts '&& LOCAL_MODELS.contains(&self.model.as_str())' ''
without "identity by vendor" $facts '&& self.pci_vendors.iter().all(|vendor| vendor == MICROSOFT)' ''
without "identity by Azure's word" $facts '&& says("type").is_none_or(|kind| kind == "local")' ''
without "the system's disk" $facts '&& !self.system' ''
without "emptiness" $plan 'Some(content) => Some(content.describe()),' 'Some(_) => None,'
without "exclusivity" $plan 'Some(Content::Blank) => Some(format!("is in use: {}", disk.used_by.join(", "))),' 'Some(Content::Blank) => None,'
exit $fault

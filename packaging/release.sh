#!/bin/sh
# Makes a release of HEAD in TARGET/release-VERSION: deb and rpm of each processor, their debug symbols, SBOM, checksums and notes.
#   release.sh [amd64 arm64]
set -eu
umask 022
export LC_ALL=C.UTF-8
cd "$(dirname "$(readlink -f "$0")")/.."
target=${CARGO_TARGET_DIR:-target}
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
out=$target/release-$version
rm -rf "$out"
mkdir -p "$out"
[ $# -gt 0 ] || set -- amd64 arm64
for architecture; do
    echo "release.sh: building for $architecture" >&2
    packaging/build.sh "$architecture"
    "$target/debug/nap-image-builder" package --built "$target/dist/$architecture" --out "$out" --version "$version"
    cp "$target/dist/$architecture/nap-agent.debug" "$out/nap-agent_${version}_$architecture.debug"
    cp "$target/dist/$architecture/nap-agent.cdx.json" "$out/nap-agent_${version}_$architecture.cdx.json"
done
"$target/debug/nap-image-builder" notes --version "$version" >"$out/NOTES.md"
(cd "$out" && sha256sum -- * >SHA256SUMS)
ls -l "$out"

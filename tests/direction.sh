#!/bin/sh
# Prints which of our crates depends on which, and fails when something points up: daemon -> host -> model; image-builder -> {host, model}.
set -eu
ours='nap-model|nap-host|nap-agent|nap-image-builder'
fault=0
for crate in nap-model nap-host nap-image-builder nap-agent; do
    case $crate in
        nap-model) allowed='' ;;
        nap-host) allowed='nap-model' ;;
        nap-image-builder) allowed='nap-model nap-host' ;;
        nap-agent) allowed='nap-model nap-host' ;;
    esac
    # Test-only dependencies may look anywhere; what ships may not.
    uses=$(cargo tree --quiet --package "$crate" --edges normal,build --prefix none --depth 1 |
        awk 'NR > 1 { print $1 }' | grep -E "^($ours|pretend-|nap-e2e|nap-vm)" | sort -u | tr '\n' ' ')
    echo "$crate -> ${uses:-nothing of ours}"
    for used in $uses; do
        case " $allowed " in
            *" $used "*) ;;
            *)
                echo "direction.sh: $crate must not depend on $used" >&2
                fault=1
                ;;
        esac
    done
done
# The workspace denies unsafe code; the one file that may have it says why.
unsafe=$(grep -rl --include='*.rs' -E 'unsafe( |_code)' agent image-builder tests | grep -v '^agent/host/src/nvme.rs$' || true)
if [ -n "$unsafe" ]; then
    echo "direction.sh: unsafe code outside agent/host/src/nvme.rs: $unsafe" >&2
    fault=1
fi
exit $fault

#!/bin/sh
# Prints the address of this machine's own Debian mirror, as its apt knows it. No address is written down here.
set -eu
. /etc/os-release
uri=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
    awk -v suite="$VERSION_CODENAME" '$1 == suite && $2 == "main" { print $3; exit }')
if [ -z "$uri" ]; then
    echo "mirror.sh: apt on this machine has no Debian suite $VERSION_CODENAME in its sources" >&2
    exit 1
fi
echo "$uri"

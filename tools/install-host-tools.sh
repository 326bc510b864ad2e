#!/bin/sh
# Installs the Debian packages that the dcd at $1 says this host lacks, and those named after it that are
# not installed. Nothing missing, nothing done.
set -eu
missing=$("$1" doctor --packages)
shift
for package in "$@"; do
    dpkg-query --show --showformat '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
        missing="$missing $package"
done
[ -n "${missing# }" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "these packages are missing; install them as root: $missing" >&2
    exit 1
fi
apt-get update -q
# One word a package: the list must be split.
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing

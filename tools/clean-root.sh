#!/usr/bin/env bash
# Runs a command in a clone of this checkout's last commit, in a new root file system of this Debian release
# with little more than git, make and python3 in it. What was installed on this host by hand is not there, so
# a missing install step shows. Takes the host's configuration of apt and pip along. Needs root and namespaces.
#
# clean-root.sh COMMAND...      Everything it makes is below $CLEAN_DIR (/var/tmp) and is removed at the end.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd)
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
place=$(mktemp -d "${CLEAN_DIR:-/var/tmp}/dcd-clean.XXXXXX")
root=$place/root
# Stays on one file system: a mount that is still there is not emptied.
trap 'rm -rf --one-file-system "$place"' EXIT
trap 'exit 143' HUP INT TERM

if ! command -v mmdebstrap >/dev/null; then
    apt-get update -q
    apt-get install -y -q --no-install-recommends mmdebstrap
fi
mmdebstrap --quiet --mode=root --variant=apt --include=ca-certificates,git,make,mount,python3 "$release" "$root"

take() {
    rm -rf "${root:?}$1"
    [ ! -e "$1" ] || { mkdir -p "$root${1%/*}" && cp -aL "$1" "$root$1"; }
}
for part in apt/sources.list apt/sources.list.d apt/auth.conf.d apt/keyrings apt/preferences.d apt/trusted.gpg.d \
    ssl/certs/ca-certificates.crt pip.conf xdg/pip hosts resolv.conf; do
    take "/etc/$part"
done
take "${HOME:-/root}/.config/pip"
# The host's proxies and transports, but not what its other packages hook into apt.
for file in /etc/apt/apt.conf /etc/apt/apt.conf.d/*; do
    [ ! -f "$file" ] || grep -qE 'Invoke|Install-Pkgs|Post-' "$file" || take "$file"
done

git clone --quiet "$checkout" "$root/srv/dcd"
mapfile -t settings < <(env | grep -E '^(CI|PIP_[A-Z_]+|[a-z]+_proxy|[A-Z]+_PROXY|PYTEST_ARGS)=' || true)

# Its shell is the first process of the PID namespace: whatever the command leaves behind ends with it.
# shellcheck disable=SC2016
enter='
    root=$1; shift
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    # Indexes of Python packages may be files of the host.
    [ ! -d /opt ] || mount --rbind -o ro /opt "$root/opt"
    # The root of the namespace, not only of the process: nsenter(1) enters by the namespace.
    cd "$root"
    mkdir -p .host
    pivot_root . .host
    umount --lazy /.host
    exec "$@"
'
# shellcheck disable=SC2016
unshare --mount --pid --fork --kill-child --propagation=slave bash -euc "$enter" clean-root "$root" \
    /usr/bin/env -i HOME=/root LANG=C.UTF-8 TERM="${TERM:-dumb}" \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "${settings[@]}" \
    sh -c 'cd /srv/dcd && exec "$@"' sh "$@"

#!/bin/sh
# Builds the Debian package of this checkout: build-deb.sh BIN OUTDIR. BIN is the bin directory of an
# environment with the development dependencies (it makes manual pages and completions).
#
# Debian 12 has the daemon's libraries only in older versions, so the package carries them in a virtual
# environment below /usr/lib/dcd, on Debian's own Python. They are collected here as wheels, by pip as it
# is configured; the package is then built from the staged tree without network. lxml is compiled, so that
# hostile XML meets Debian's libxml2, which gets security updates. For the same reason psycopg, which members
# of a farm need, is its pure Python and uses Debian's libpq5.
#
# OUTDIR/wheels keeps the wheels. With WHEELS=OUTDIR/wheels a later run uses them, and no network at all.
set -eu
bin=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

stage=$work/dcd
mkdir "$stage" "$stage/wheels"
cp -r "$root/packaging/debian" "$stage/debian"
cp -r "$root/examples" "$stage"
for kind in service socket; do
    cp "$root/systemd/dcd.$kind" "$stage/debian/dcd.$kind"
done
for kind in sysusers tmpfiles; do
    cp "$root/systemd/$kind.conf" "$stage/debian/dcd.$kind"
done

if ! (cd "$stage" && dpkg-checkbuilddeps 2>"$work/missing"); then
    if [ "$(id -u)" -ne 0 ]; then
        cat "$work/missing" >&2
        echo "install these as root: apt-get install dpkg-dev, then apt-get build-dep $root/packaging" >&2
        exit 11
    fi
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get build-dep -y -q --no-install-recommends "$stage"
fi

(
    cd "$root"
    "$bin/python" -m cli.generate man "$stage/man"
    "$bin/python" -m cli.generate completions "$stage/completions"
    "$bin/python" -m dcd.configuration.describe manual >"$stage/man/dcd.toml.5"
    "$bin/python" -m dcd.configuration.describe example >"$stage/dcd.toml"
    PYTHONPATH=. "$bin/argparse-manpage" --module dcd.main --function build_parser --prog dcd \
        --project-name dcd --manual-section 8 --manual-title "System Administration" \
        --description "distribution constructor daemon" --include packaging/dcd.8.include \
        >"$stage/man/dcd.8"
)
mkdir "$stage/completions/bash"
mv "$stage/completions/dcctl.bash" "$stage/completions/bash/dcctl"

# From a copy: setuptools leaves files in the tree that it builds.
mkdir "$work/source"
(cd "$root" && tar -c LICENSE NOTICE README.md pyproject.toml cli dcd smf statemachine store) |
    tar -x -C "$work/source" --exclude=__pycache__
/usr/bin/python3 -m venv "$work/venv"
pip="$work/venv/bin/pip --quiet --disable-pip-version-check"
farm="procrastinate>=3.10,<3.11 psycopg>=3.2,<4"
if [ -n "${WHEELS:-}" ]; then
    cp "$WHEELS"/*.whl "$stage/wheels"
    rm -f "$stage"/wheels/dcd-*.whl
    $pip wheel --no-index --find-links "$stage/wheels" -w "$stage/wheels" "$work/source[sbom,sign,web]" $farm
else
    $pip wheel -w "$stage/wheels" "setuptools>=77" wheel
    $pip wheel --no-binary lxml -w "$stage/wheels" "$work/source[sbom,sign,web]" $farm
fi

(cd "$stage" && dpkg-buildpackage --build=binary --no-sign) >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    exit 1
}
mkdir -p "$out/wheels"
cp "$stage"/wheels/*.whl "$out/wheels"
cp "$work"/dcd_*.deb "$out"
ls "$out"/dcd_*.deb

#!/bin/sh
# Builds the IPS package of this checkout on an illumos host: build-p5m.sh BIN OUTDIR. BIN is the bin
# directory of an environment with the development dependencies, of the Python that the package runs on.
# OUTDIR/dcd.p5p is an archive for `pkg install -g`. The libraries are in the package, in a virtual
# environment below /opt/dcd; pip takes or compiles them as it is configured.
#
# With STAGE_ONLY=1 it ends after the files of the package are below OUTDIR/proto, on any system.
set -eu
bin=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
proto=$out/proto

if [ -z "${STAGE_ONLY:-}" ]; then
    for tool in pkgsend pkgmogrify pkgdepend pkglint pkgrecv pkgrepo; do
        command -v "$tool" >/dev/null || {
            echo "$tool is missing: build the package on an illumos host with the package package/pkg" >&2
            exit 11
        }
    done
fi

version() { "$bin/python" -c "$1"; }
pyver=$(version 'import sys; print("%d.%d" % sys.version_info[:2])')
release=$(version 'import tomllib; print(tomllib.load(open("'"$root"'/pyproject.toml", "rb"))["project"]["version"])')
python=$(version 'import os, sys; print(os.path.realpath(sys.executable))')

rm -rf "$proto"
home=$proto/opt/dcd
site=$home/lib/python$pyver/site-packages
mkdir -p "$home/bin" "$home/lib" "$home/share/man/man1" "$home/share/man/man5" "$home/share/man/man8" \
    "$proto/lib/svc/manifest/application"
(
    cd "$root"
    "$bin/python" -m dcd.main smf-manifest --prefix /opt/dcd >"$proto/lib/svc/manifest/application/dcd.xml"
    "$bin/python" -m cli.generate man "$home/share/man/man1"
    "$bin/python" -m dcd.configuration.describe manual >"$home/share/man/man5/dcd.toml.5"
    PYTHONPATH=. "$bin/argparse-manpage" --module dcd.main --function build_parser --prog dcd \
        --project-name dcd --manual-section 8 --manual-title "System Administration" \
        --description "distribution constructor daemon" --include packaging/dcd.8.include \
        >"$home/share/man/man8/dcd.8"
)
cp "$root/smf/svc-dcd.sh" "$home/lib/svc-dcd"
for kind in auth prof exec; do
    mkdir -p "$proto/etc/security/${kind}_attr.d"
    cp "$root/smf/${kind}_attr" "$proto/etc/security/${kind}_attr.d/dcd"
done
# A virtual environment by hand: `python -m venv` would write the build's paths into it.
printf 'home = %s\ninclude-system-site-packages = false\n' "${python%/*}" >"$home/pyvenv.cfg"
ln -s "$python" "$home/bin/python3"
for name in dcd:dcd.main dcctl:cli.main distro_const:cli.distro_const; do
    printf '#!/bin/sh\nexec /opt/dcd/bin/python3 -I -m %s "$@"\n' "${name#*:}" >"$home/bin/${name%%:*}"
done
chmod 755 "$home/bin/dcd" "$home/bin/dcctl" "$home/bin/distro_const" "$home/lib/svc-dcd"
[ -z "${STAGE_ONLY:-}" ] || exit 0

# From a copy: setuptools leaves files in the tree that it builds.
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
(cd "$root" && tar cf - LICENSE README.md pyproject.toml cli dcd smf statemachine store) |
    (cd "$source" && tar xf -)
"$bin/python" -m pip --quiet install --no-compile --target "$site" "$source[sbom,sign,web]"
rm -rf "$site/bin"
# Valid whatever the source files' times are: pkg(1) gives them that of the installation.
"$bin/python" -m compileall -q --invalidation-mode unchecked-hash -s "$proto" -p / "$site"

cd "$out"
pkgsend generate "$proto" >generated.p5m
pkgmogrify -D VERSION="$release" -D PYV="$(echo "$pyver" | tr -d .)" \
    -D ARCH="$(uname -p)" "$root/packaging/illumos/dcd.p5m" generated.p5m >mogrified.p5m
pkgdepend generate -md "$proto" mogrified.p5m >depends.p5m
pkgdepend resolve -m depends.p5m
pkglint depends.p5m.res
rm -rf repository dcd.p5p
pkgrepo create repository
pkgrepo set -s repository publisher/prefix=dcd
pkgsend -s repository publish -d "$proto" -d "$root" depends.p5m.res
pkgrecv -s repository -a -d dcd.p5p dcd
ls "$out/dcd.p5p"

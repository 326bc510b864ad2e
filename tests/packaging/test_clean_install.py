"""The Debian package on a clean machine: a minimal Debian with what the package depends on, and no more."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcd.platform import apt

pytestmark = [pytest.mark.system, pytest.mark.root, pytest.mark.timeout(1800)]

SCRIPT = Path(__file__).with_name("clean_install.sh")

ENTER = """
set -eu
mount --bind "$1" "$1"
mount --rbind /dev "$1/dev"
mount -t proc proc "$1/proc"
mount -t sysfs sysfs "$1/sys"
mount -t tmpfs tmpfs "$1/run"
cd "$1"
exec chroot . /bin/sh /clean_install.sh
"""


@pytest.fixture
def minimal_debian(debian_package: Path, tmp_path: Path) -> Iterator[Path]:
    """The root of one, with the package in it, not installed."""
    if not shutil.which("mmdebstrap"):
        pytest.skip("mmdebstrap is not installed")
    depends = subprocess.run(
        ["dpkg-deb", "--field", debian_package, "Depends"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    # The first of alternatives, without its version.
    names = {re.split(r"[ |]", entry.strip())[0] for entry in depends.split(",")}
    root = tmp_path / "root"
    sources = tmp_path / "debian.sources"
    suite = apt.host_codename()
    sources.write_text(apt.source_list(apt.sources_for(apt.host_sources(), suite)))
    subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"),
            f"--include={','.join(sorted(names))}",
            *(suite, root, sources),
        ],
        check=True,
    )
    shutil.copyfile(debian_package, root / "dcd.deb")
    shutil.copyfile(SCRIPT, root / "clean_install.sh")
    yield root
    shutil.rmtree(root)


def test_the_package_installs_works_and_purges_without_a_trace(minimal_debian: Path) -> None:
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation=slave"]
    result = subprocess.run(
        [*namespaces, "sh", "-c", ENTER, "sh", minimal_debian],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
    )

    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    assert "root:dcd 750 /run/dcd\nroot:dcd 660 /run/dcd/dcd.sock\n" in result.stdout
    assert "root:root 711 /var/lib/dcd\n" in result.stdout
    assert result.stdout.endswith("clean\n")

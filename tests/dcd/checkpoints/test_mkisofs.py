"""How xorriso is called: the same bytes as by its default, without its pause of a second at the end."""

import shutil
import subprocess
from pathlib import Path

import pytest

from dcd.checkpoints.mkisofs import MKISOFS


@pytest.mark.skipif(shutil.which("xorriso") is None, reason="xorriso is not installed")
def test_the_bytes_are_those_of_the_default(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"content" * 100_000)
    written = []
    for start in (MKISOFS, ("xorriso", "-no_rc", "-as", "mkisofs", "-quiet")):
        target = tmp_path / f"{len(written)}.iso"
        done = subprocess.run(
            [*start, "-r", "-V", "TEST", "-o", target, tree],
            env={"PATH": "/usr/bin", "SOURCE_DATE_EPOCH": "1700000000"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "WARNING" not in done.stderr
        written.append(target.read_bytes())
    assert written[0] == written[1]

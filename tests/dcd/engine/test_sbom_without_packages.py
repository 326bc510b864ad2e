"""An image without a package database, with a real daemon: its exit code, and nothing is delivered."""

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

MANIFEST = """<dc><distro name="bare"><execution>
<checkpoint name="files" type="CustomScript"><args>echo x > {PKG_IMAGE_PATH}/x</args></checkpoint>
<checkpoint name="list" type="WriteSBOM"/>
</execution></distro></dc>
"""


def test_the_build_fails_with_a_code_of_its_own_and_delivers_nothing(
    daemon: Any, tmp_path: Path
) -> None:
    manifest = tmp_path / "bare.xml"
    manifest.write_text(MANIFEST)

    done = daemon.run("submit", manifest, "--follow")

    assert done.returncode == 28
    assert "the image has no package database" in done.stdout + done.stderr
    (build,) = [each for each in daemon.json("list") if each["name"] == "bare"]
    status = daemon.json("status", build["id"])
    assert status["error"]["problem"] == "no-package-database"
    assert status["artifacts"] == []
    assert daemon.run("follow", build["id"]).returncode == 28

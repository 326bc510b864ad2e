"""The error of a failed checkpoint names the line of the manifest that its author wrote."""

import io
import tarfile
from pathlib import Path

import pytest

from tests.conftest import Daemon

MODULE = "dcd/checkpoints/"
SCRIPT = f'mod_path="{MODULE}custom_script" checkpoint_class="CustomScript"'


def failure(daemon: Daemon, manifest: Path) -> tuple[str, str]:
    """What a build of the manifest fails with."""
    build = daemon.json("submit", manifest)["id"]
    daemon.run("follow", build)
    error = daemon.json("status", build)["error"]
    return error["brief"], error["details"]


def written(tmp_path: Path, execution: str) -> Path:
    manifest = tmp_path / "lines.xml"
    manifest.write_text(
        f'<dc><distro name="lines"><execution>\n{execution}\n</execution></distro></dc>'
    )
    return manifest


@pytest.mark.root
def test_a_text_of_the_manifest_is_named_by_its_own_lines(daemon: Daemon, tmp_path: Path) -> None:
    manifest = written(
        tmp_path,
        f"""<checkpoint name="c"
   {SCRIPT}><kwargs><arg
     name="text">

#!/bin/sh -e
true
nosuchprogram --option
</arg></kwargs></checkpoint>""",
    )
    brief, details = failure(daemon, manifest)
    assert brief.startswith(f"the script at {manifest}:6 failed with exit status 127")
    assert f"{manifest} line 8: nosuchprogram: not found" in details


@pytest.mark.root
def test_a_text_of_an_included_file_is_named_by_that_file(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "post.sh").write_text("\ntrue\nnosuchprogram\n")
    (tmp_path / "part.xml").write_text(
        f"""<checkpoint name="c" {SCRIPT} xmlns:xi="http://www.w3.org/2001/XInclude">
<kwargs><arg name="text">
<xi:include href="post.sh" parse="text"/></arg></kwargs></checkpoint>"""
    )
    manifest = written(
        tmp_path,
        '<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="part.xml"/>',
    )
    brief, details = failure(daemon, manifest)
    assert brief.startswith(f"the script at {tmp_path}/post.sh:2 failed")
    assert f"{tmp_path}/post.sh line 3: nosuchprogram: not found" in details


@pytest.mark.root
def test_a_command_is_named_by_its_line(daemon: Daemon, tmp_path: Path) -> None:
    manifest = written(
        tmp_path, f'<checkpoint name="c" {SCRIPT}>\n<args>echo broken; exit 3</args></checkpoint>'
    )
    brief, details = failure(daemon, manifest)
    assert brief == f"the command at {manifest}:3 failed with exit status 3"
    assert details == "its last lines:\nbroken"


@pytest.mark.root
def test_a_damaged_archive_is_named_by_its_line(daemon: Daemon, tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("file"), io.BytesIO())
    (tmp_path / "root.tar.gz").write_bytes(content.getvalue()[:30])
    manifest = written(
        tmp_path,
        f'''<checkpoint name="c" mod_path="{MODULE}transfer/archive"
 checkpoint_class="TransferArchive">
<args>root.tar.gz</args></checkpoint>''',
    )
    brief, details = failure(daemon, manifest)
    assert brief.startswith("root.tar.gz cannot be unpacked")
    assert f"the archive is named at {manifest}:4" in details

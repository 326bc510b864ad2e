"""What a checkpoint says that its result lacks is kept with the result, and shown wherever a user looks."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.conftest import Daemon

SAID = "the tar archive has no end; it may be cut off"


@pytest.mark.root
def test_a_warning_is_shown_for_the_build_that_made_the_result_and_for_those_that_reuse_it(
    daemon: Daemon, tmp_path: Path
) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        member = tarfile.TarInfo("file")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"12345"))
    (tmp_path / "root.tar").write_bytes(content.getvalue()[: 2 * 512])
    manifest = tmp_path / "m.xml"
    manifest.write_text(
        '<dc><distro name="lossy"><execution><checkpoint name="unpack" '
        'mod_path="dcd/checkpoints/transfer/archive" checkpoint_class="TransferArchive">'
        "<args>root.tar</args></checkpoint></execution></distro></dc>"
    )
    for kind in ("CheckpointCompleted", "CheckpointReused"):
        build = daemon.submit(manifest)
        status = daemon.wait(build, "completed")
        assert status["checkpoints"][0]["warnings"] == [SAID]
        (event,) = [event for event in daemon.events(build) if event["type"] == kind]
        assert event["data"]["warnings"] == [SAID]
        for command in ("status", "follow"):
            assert f"warning: unpack: {SAID}" in daemon.ctl(command, build)
        told = [json.loads(line) for line in daemon.ctl("follow", build, "--json").splitlines()]
        assert [SAID] in [each.get("data", {}).get("warnings") for each in told]
    first = daemon.json("list")[-1]["id"]
    assert f"# warning: {SAID}" in daemon.ctl("logs", first, "unpack")

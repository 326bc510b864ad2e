"""Checkpoints that publish, with a real daemon: in every build, last, recorded, and not in repetitions."""

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.daemon]

SCRIPT = 'mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript"'
MANIFEST = f"""<dc><distro name="small" source_date_epoch="1700000000"><execution>
<checkpoint name="pack" {SCRIPT}><args>echo a &gt; {{MEDIA_DIR}}/root.tar</args>
<kwargs><arglist name="deliver"><argitem>{{MEDIA_DIR}}/root.tar</argitem></arglist></kwargs></checkpoint>
<checkpoint name="publish" mod_path="dcd/checkpoints/publish/directory" checkpoint_class="PublishDirectory">
<kwargs><arg name="destination">PLACE</arg>MORE</kwargs></checkpoint>AFTER</execution></distro></dc>"""


def written(directory: Path, place: Path, more: str = "", after: str = "") -> Path:
    path = directory / "small.xml"
    text = MANIFEST.replace("PLACE", str(place)).replace("MORE", more)
    path.write_text(text.replace("AFTER", after))
    return path


def test_products_are_published_in_every_build_and_recorded(
    daemon: Any, tmp_path: Path, public_path: Path
) -> None:
    manifest = written(tmp_path, public_path)
    sent = []
    for _ in range(2):
        build = daemon.submit(manifest)
        shown = daemon.wait(build, "completed")
        pack, publish = shown["checkpoints"]
        assert publish["state"] == "completed", "it is never reused"
        assert pack["publications"] == []
        sent.append([each["uploaded"] for each in publish["publications"]])
    assert sent == [[True, True], [False, False]]
    assert (public_path / "latest/root.tar").read_text() == "a\n"
    event = next(
        each["data"]
        for each in daemon.events(build)
        if each["type"] == "CheckpointCompleted" and each["data"]["checkpoint"] == "publish"
    )
    assert event["publications"] == publish["publications"]
    url = publish["publications"][0]["url"]
    assert url.startswith(str(public_path))
    assert url in daemon.ctl("status", build)
    statement = json.loads(daemon.ctl("provenance", build))
    assert url in {each["uri"] for each in statement["predicate"]["runDetails"]["byproducts"]}

    (public_path / "latest").unlink()
    assert daemon.json("reproduce", build)["identical"]
    rebuilt = daemon.json("rebuild", build)
    assert rebuilt["good"]
    assert not (public_path / "latest").exists(), "repetitions publish nothing"


def test_what_is_published_comes_last_and_is_verified_or_not_on_purpose(
    daemon: Any, tmp_path: Path
) -> None:
    after = f'<checkpoint name="after" {SCRIPT}><args>true</args></checkpoint>'
    result = daemon.run("validate", written(tmp_path, Path("/srv"), after=after))
    assert (result.returncode, "after runs after it" in result.stdout) == (8, True)
    warned = daemon.run("validate", written(tmp_path, Path("/srv")))
    assert "publishes what nothing has verified" in warned.stdout
    meant = '<arg name="unverified">true</arg>'
    assert "warning" not in daemon.ctl("validate", written(tmp_path, Path("/srv"), meant))

"""`dcctl download`: the files of a build, through the daemon, as files of one's own."""

from pathlib import Path
from typing import Any

import pytest

from cli.client import build_path, exchange

MODULE = """
from dcd.checkpoints.interface import Checkpoint
from dcd.checkpoints.media.deliver import deliver_file


class Made(Checkpoint):
    def execute(self, context):
        with (context.media / "disk.raw").open("wb") as disk:
            disk.write(b"begin")
            disk.truncate(8 << 20)
            disk.seek(0, 2)
            disk.write(b"end")
        (context.media / "console.log").write_text("login:")
        deliver_file(context, context.media / "disk.raw", "raw")
        deliver_file(context, context.media / "console.log", "text", evidence=True)
"""
CONTENT = b"begin" + bytes((8 << 20) - 5) + b"end"


@pytest.fixture
def build(cold_daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A completed build with a sparse product and a record of a test."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/dcd_test_made.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    cold_daemon.settings["checkpoint_modules"] = ["dcd_test_made"]
    manifest = tmp_path / "made.xml"
    manifest.write_text(
        '<dc><distro name="made"><execution><checkpoint name="made"'
        ' mod_path="dcd_test_made" checkpoint_class="Made"/></execution></distro></dc>'
    )
    identity: str = cold_daemon.start().submit(manifest)
    cold_daemon.wait(identity, "completed")
    return identity


@pytest.mark.root
def test_a_build_is_downloaded_whole_in_part_and_not_once_it_is_removed(
    cold_daemon: Any, tmp_path: Path, build: str
) -> None:
    daemon, out = cold_daemon, tmp_path / "out"
    copied = daemon.json("download", build, "-o", out)
    names = [item["name"] for item in copied]
    assert {"disk.raw", "console.log", "SHA256SUMS"} <= set(names)
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    disk = out / "disk.raw"
    assert disk.read_bytes() == CONTENT
    assert disk.stat().st_blocks * 512 < 1 << 20, "holes stay holes"

    (out / "console.log").unlink()
    again = daemon.json("download", build, "disk.raw", "console.log", "-o", out)
    assert [item["copied"] for item in again] == [False, True]

    path = build_path(build, "artifacts", "disk.raw")
    for asked, status, content in (
        ("bytes=0-4", 206, b"begin"),
        ("bytes=-3", 206, b"end"),
        (f"bytes={len(CONTENT) - 3}-", 206, b"end"),
    ):
        with exchange(str(daemon.socket), "GET", path, headers={"Range": asked}) as answer:
            assert (answer.status, answer.read()) == (status, content)
            assert answer.headers["ETag"].strip('"') == copied[names.index("disk.raw")]["sha256"]
    with exchange(
        str(daemon.socket), "GET", path, headers={"Range": "bytes=5-", "If-Range": '"other"'}
    ) as answer:
        assert (answer.status, len(answer.read())) == (200, len(CONTENT))

    assert "it has disk.raw" in daemon.run("download", build, "disc.raw", "-o", out).stderr
    daemon.ctl("rm", build)
    assert "was removed" in daemon.run("download", build, "-o", out).stderr
    daemon.ctl("download", build, "-o", out, status=7)
    with pytest.raises(Exception, match="removed"), exchange(str(daemon.socket), "GET", path):
        pass
    assert disk.read_bytes() == CONTENT

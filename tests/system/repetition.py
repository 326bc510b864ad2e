"""Images that are built a second time in varied surroundings, and compared byte by byte."""

import filecmp
import re
from pathlib import Path
from typing import Any

from cli import client

SECONDS = 900.0


def without_boots(manifest: Path) -> Path:
    """The manifest without the proof of boots, which takes minutes and delivers only evidence."""
    pattern = r'<checkpoint [^>]*checkpoint_class="VerifyBoot".*?</checkpoint>'
    text, count = re.subn(pattern, "", manifest.read_text(), flags=re.DOTALL)
    assert count == 1
    path = manifest.with_name(f"lean-{manifest.name}")
    path.write_text(text)
    return path


def assert_identical_again(
    daemon: Any, manifest: Path, first: str | None = None, *options: str
) -> None:
    """Build it with these options of the submission, repeat the build from the checkpoint `first` on, and
    compare every product."""
    build = daemon.submit(manifest, *options)
    daemon.wait(build, "completed", seconds=SECONDS)
    socket = str(daemon.socket)
    at = client.build_path(build, "reproduce")
    again = client.request(socket, "POST", at, body={"from": first})["id"]
    daemon.wait(again, "completed", seconds=SECONDS)
    found = client.request(socket, "GET", client.build_path(again, "comparison"))
    different = {name: found[name] for name in ("checkpoint", "files", "changed", "products")}
    assert found["identical"], different
    assert found["products"]
    assert all(one["identical"] for one in found["checkpoints"])
    for product in found["products"]:
        paths = [daemon.state_dir / "artifacts" / each / product["name"] for each in (build, again)]
        assert filecmp.cmp(*paths, shallow=False), product["name"]
    daemon.ctl("rm", again)

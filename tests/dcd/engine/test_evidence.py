"""Products and evidence are two classes: what differs each time is not among the digests of products."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

MODULE = """
from dcd.checkpoints.interface import Checkpoint
from dcd.checkpoints.media.deliver import deliver_file


class Tried(Checkpoint):
    def execute(self, context):
        for name, evidence in (("product.img", False), ("console.log", True)):
            (context.media / name).write_text(name)
            deliver_file(context, context.media / name, "text", evidence=evidence)
"""


@pytest.mark.root
def test_digests_of_products_leave_evidence_out(
    cold_daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/dcd_test_tried.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    cold_daemon.settings["checkpoint_modules"] = ["dcd_test_tried"]
    daemon = cold_daemon.start()
    manifest = tmp_path / "tried.xml"
    manifest.write_text(
        '<dc><distro name="tried"><execution><checkpoint name="tried" mod_path="dcd_test_tried"'
        ' checkpoint_class="Tried"/></execution></distro></dc>'
    )
    build = daemon.submit(manifest)
    daemon.wait(build, "completed")
    found = {each["name"]: each for each in daemon.json("artifacts", build)}
    listed = {
        name: [line.split("  ")[1] for line in Path(found[name]["path"]).read_text().splitlines()]
        for name in ("SHA256SUMS", "SHA256SUMS.evidence")
    }
    assert listed == {
        "SHA256SUMS": ["product.img", "tried.xml"],
        "SHA256SUMS.evidence": ["console.log", "tried.provenance.json"],
    }
    assert [name for name, each in found.items() if each["evidence"]] == [
        "console.log",
        "tried.provenance.json",
    ]
    log = Path(found["console.log"]["path"]).read_bytes()
    assert hashlib.sha256(log).hexdigest() == found["console.log"]["sha256"]
    daemon.ctl("artifacts", build, "--verify")
    assert daemon.stop() == 0

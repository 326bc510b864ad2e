"""A full disk and a daemon killed in the middle: a layer is whole or not there."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from store.host.durable import DiskFull
from store.layers.content import read_fingerprint, read_text
from store.layers.copy import CopyTrees
from store.layers.directory import LayerDirectory
from store.layers.interface import LayerRecord
from store.layers.overlay import OverlayTrees
from store.layers.trees import Trees
from tests.store.layers.conftest import Subject, key_of

pytestmark = pytest.mark.root


def fill(directory: Path) -> Path:
    """Take all space that is left there. Returns the file that has it."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return filler


@pytest.mark.parametrize("trees", [OverlayTrees(), CopyTrees()], ids=["overlay", "copy"])
def test_a_commit_without_space_can_be_repeated_with_space(small_disk: Path, trees: Trees) -> None:
    (small_disk / "layers").mkdir()
    subject = Subject(LayerDirectory(small_disk / "layers", trees))
    subject.store.prepare()
    workspace = subject.begin(None)
    subject.change(workspace, lambda root: (root / "file").write_text("x"))
    filler = fill(small_disk)
    with pytest.raises(DiskFull) as told:
        subject.commit(workspace, "one")
    assert told.value.cause.errno == errno.ENOSPC
    assert subject.store.find(key_of("one")) is None
    filler.unlink()
    subject.commit(workspace, "one")
    assert subject.read("one", lambda tree: (tree / "file").read_text()) == "x"


def test_a_copy_without_space_leaves_nothing(small_disk: Path) -> None:
    subject = Subject(LayerDirectory(small_disk / "layers", CopyTrees()))
    subject.store.prepare()
    subject.make("one", None, lambda root: (root / "file").write_bytes(os.urandom(8 * 2**20)))
    free = shutil.disk_usage(small_disk).free
    with pytest.raises(DiskFull) as told:
        subject.begin("one")
    assert told.value.cause.errno == errno.ENOSPC
    assert subject.work() == []
    assert shutil.disk_usage(small_disk).free >= free - 2**16


COMMIT = """
import sys
from dataclasses import replace
from pathlib import Path
from store.layers.directory import LayerDirectory
from store.layers.interface import LayerRecord
from store.layers.overlay import OverlayTrees
store = LayerDirectory(Path(sys.argv[1]), OverlayTrees())
store.prepare()
workspace = store.begin(None, "attempt")
for name in "abc":
    (workspace.directory / "layer" / "tree" / name).write_text(name)
workspace.document.write_text("<persistent/>")
store.commit(workspace, LayerRecord("1" * 64, None, "build", "checkpoint", 1, 1.0))
print("committed", flush=True)
"""

CALLS = ("fsync", "fdatasync", "rename", "renameat", "renameat2", "mkdir", "unlink", "unlinkat",
         "rmdir")  # fmt: skip


@pytest.mark.faults
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("call", CALLS)
def test_a_commit_killed_at_any_point_makes_a_whole_layer_or_none(
    tmp_path: Path, call: str
) -> None:
    for number in range(1, 60):
        directory = tmp_path / str(number)
        inject = f"--inject={call}:signal=KILL:when={number}"
        python = [sys.executable, "-B", "-c", COMMIT, directory]
        ended = subprocess.run(
            ["strace", "-f", "-qq", "-o", "/dev/null", f"--trace={call}", inject, *python],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
        said = "committed" in ended.stdout
        store = LayerDirectory(directory, OverlayTrees())
        store.prepare()
        found = store.find("1" * 64)
        assert found is not None or not said
        store.reconcile({"1" * 64}, ())
        assert list((directory / ".work").iterdir()) == []
        assert store.find("1" * 64) == found
        if found is not None:
            record = LayerRecord("1" * 64, None, "build", "checkpoint", 1, 1.0)
            manifest = read_text(found.directory)
            assert manifest is not None
            digest = hashlib.sha256(manifest).hexdigest()
            assert found.record == replace(record, content=digest)
            assert read_fingerprint(found.directory) is not None
            assert [store.file("1" * 64, name).read_text() for name in "abc"] == ["a", "b", "c"]
            assert store.document("1" * 64) == "<persistent/>"
        if ended.returncode == 0:
            assert said
            return
    pytest.fail("the commit never came through")

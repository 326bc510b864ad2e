"""Layer stores on real file systems, and a mount namespace to enter workspaces in."""

import ctypes
import os
import pickle
import subprocess
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from store.layers.btrfs import BtrfsTrees
from store.layers.copy import CopyTrees
from store.layers.directory import LayerDirectory
from store.layers.interface import Layer, LayerRecord, Workspace
from store.layers.overlay import OverlayTrees
from store.layers.zfs import ZfsTrees
from tests.store.conftest import loop_mounted

CLONE_NEWNS, MS_REC, MS_SLAVE = 0x00020000, 0x4000, 0x80000


def in_namespace(function: Callable[[], Any]) -> Any:
    """Call a function in a child process with a mount namespace of its own; return its result."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.unshare(CLONE_NEWNS) == 0
            assert libc.mount(b"none", b"/", None, MS_REC | MS_SLAVE, None) == 0
            answer: tuple[bool, Any] = (True, function())
        except BaseException:  # noqa: BLE001 - told to the parent
            answer = (False, traceback.format_exc())
        with os.fdopen(sending, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        answer = pickle.load(pipe)
    os.waitpid(child, 0)
    if not answer[0]:
        pytest.fail(answer[1])
    return answer[1]


def key_of(name: str) -> str:
    """A key, the same for the same name."""
    return name.encode().hex().ljust(64, "0")


@dataclass
class Subject:
    """A layer store under test, and short ways to use it."""

    store: LayerDirectory
    keeps_attributes: bool = True
    """Whether extended attributes and ACLs are kept (zfs-fuse has none)."""

    time_grain_ns: int = 1
    """What times are rounded to."""

    keeps_hard_links: bool = True
    """Whether the links of a file of an earlier layer stay one file when it is written to."""

    def begin(self, parent: str | None, name: str = "attempt") -> Workspace:
        return self.store.begin(key_of(parent) if parent else None, name)

    def change(self, workspace: Workspace, work: Callable[[Path], Any]) -> Any:
        """Do something in an entered workspace."""

        def entered() -> Any:
            with self.store.enter(workspace) as root:
                return work(root)

        return in_namespace(entered)

    def commit(self, workspace: Workspace, name: str, seconds: float = 1.0) -> Layer:
        record = LayerRecord(key_of(name), workspace.parent, "build", "checkpoint", 1, seconds)
        return self.store.commit(workspace, record)

    def make(self, name: str, parent: str | None, work: Callable[[Path], Any]) -> Layer:
        """A layer from what `work` does to the tree of its parent."""
        workspace = self.begin(parent, f"making-{name}")
        self.change(workspace, work)
        return self.commit(workspace, name)

    def read(self, name: str, look: Callable[[Path], Any]) -> Any:
        """What `look` finds in a layer."""

        def opened() -> Any:
            with self.store.open(key_of(name)) as tree:
                return look(tree)

        return in_namespace(opened)

    def work(self) -> list[str]:
        """What is in the working directory: workspaces and rubbish. On a slow machine zfs-fuse is busy with a
        dataset for long; what is left for the next removal then, is removed now."""
        place = self.store.directory / ".work"
        deadline = time.monotonic() + 60
        while self.store.name == "zfs" and time.monotonic() < deadline:
            if not (rubbish := list(place.glob("removed-*"))):
                break
            for each in rubbish:
                self.store._erase_rubbish(each)
        return sorted(path.name for path in place.iterdir())


# In the process's own namespace: a mount made before another fixture begins one would stay outside it.
@pytest.fixture(scope="session")
def btrfs(own_mounts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from loop_mounted(tmp_path_factory.mktemp("btrfs"), 256, "mkfs.btrfs")


@pytest.fixture(scope="session")
def xfs(own_mounts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from loop_mounted(tmp_path_factory.mktemp("xfs"), 320, "mkfs.xfs", "-m", "reflink=1")


@pytest.fixture(scope="session")
def zfs(zfs_fuse: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A pool on zfs-fuse."""
    directory = tmp_path_factory.mktemp("zfs")
    image, pool = directory / "image", f"dcdtest{uuid.uuid4().hex[:8]}"
    with image.open("wb") as file:
        file.truncate(512 * 2**20)
    create = ["zpool", "create", "-m", directory / "pool", pool, image]
    subprocess.run(create, check=True, capture_output=True)
    yield directory / "pool"
    image.unlink()


BACK_ENDS = {
    "overlay": (OverlayTrees, None),
    "copy": (CopyTrees, None),
    "copy-reflink": (CopyTrees, "xfs"),
    "btrfs": (BtrfsTrees, "btrfs"),
    "zfs": (ZfsTrees, "zfs"),
}


# `make check` has those that need no file system of their own.
@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.slow if needed else ())
        for name, (_, needed) in BACK_ENDS.items()
    ]
)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    """Each back end in turn."""
    trees, file_system = BACK_ENDS[request.param]
    place = tmp_path
    if file_system:
        place = request.getfixturevalue(file_system) / uuid.uuid4().hex
        place.mkdir()
    (place / "layers").mkdir()
    store = LayerDirectory(place / "layers" / trees.name, trees())
    store.prepare()
    subject = Subject(
        store,
        keeps_attributes=request.param != "zfs",
        time_grain_ns=1_000_000_000 if request.param == "zfs" else 1,
        keeps_hard_links=request.param != "overlay",
    )
    yield subject
    store.reconcile((), ())

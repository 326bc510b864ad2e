"""Layer stores on real file systems, and a mount namespace to enter workspaces in."""

import contextlib
import ctypes
import fcntl
import os
import pickle
import select
import shutil
import signal
import subprocess
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from store.layers.btrfs import BtrfsTrees
from store.layers.copy import CopyTrees
from store.layers.directory import LayerDirectory
from store.layers.interface import Layer, LayerRecord, Workspace
from store.layers.overlay import OverlayTrees
from store.layers.zfs import ZfsTrees
from tests.store.conftest import loop_mounted, shared_mount

CLONE_NEWNS, MS_REC, MS_SLAVE = 0x00020000, 0x4000, 0x80000
ZFS_LOCK = Path("/run/lock/dcd-tests-zfs-fuse")
ZFS_PID = Path("/run/dcd-tests-zfs-fuse.pid")


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
        """What is in the working directory: workspaces and rubbish."""
        return sorted(path.name for path in (self.store.directory / ".work").iterdir())


@pytest.fixture(scope="session")
def btrfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from loop_mounted(tmp_path_factory.mktemp("btrfs"), 256, "mkfs.btrfs")


@pytest.fixture(scope="session")
def xfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from loop_mounted(tmp_path_factory.mktemp("xfs"), 320, "mkfs.xfs", "-m", "reflink=1")


@contextlib.contextmanager
def zfs_fuse() -> Iterator[None]:
    """zfs-fuse, whose daemon is shared by all test runs on the host."""
    if shutil.which("zfs-fuse") is None:
        pytest.skip("zfs-fuse is not installed")
    with ZFS_LOCK.open("w") as users, ZFS_LOCK.with_suffix(".turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if _alone(users):
            _end_zfs_fuse()  # a killed test run left it, perhaps with a mount namespace that is gone
            _start_zfs_fuse()
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(turn, fcntl.LOCK_EX)
            if _alone(users):
                _end_zfs_fuse()


def _alone(users: IO[str]) -> bool:
    """Whether no other test run uses zfs-fuse; the lock is exclusive then."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start_zfs_fuse() -> None:
    if subprocess.run(["zpool", "list"], capture_output=True).returncode == 0:
        return  # the host's own
    subprocess.run(["zfs-fuse", "-p", ZFS_PID], check=True, capture_output=True)
    listing = ["zpool", "list", "-H", "-o", "name"]
    known = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split()
    for pool in known:  # of test runs that were killed
        if pool.startswith("dcdtest"):
            destroy_pool(pool)


def _end_zfs_fuse() -> None:
    """Until the daemon is gone: another cannot start before."""
    if not ZFS_PID.exists():
        return
    number = int(ZFS_PID.read_text())
    with contextlib.suppress(ProcessLookupError):
        process = os.pidfd_open(number)
        try:
            if Path(f"/proc/{number}/comm").read_text().strip() != "zfs-fuse":
                return  # the number has another owner since
            signal.pidfd_send_signal(process, signal.SIGTERM)
            if not select.select([process], [], [], 20)[0]:
                signal.pidfd_send_signal(process, signal.SIGKILL)
                select.select([process], [], [], 20)
        finally:
            os.close(process)
            ZFS_PID.unlink(missing_ok=True)


def destroy_pool(pool: str) -> None:
    """Destroy it as soon as zfs-fuse lets go of it, which is some time after its last use."""
    for _ in range(50):
        destroyed = subprocess.run(["zpool", "destroy", "-f", pool], capture_output=True, text=True)
        if destroyed.returncode == 0:
            return
        time.sleep(0.1)
    pytest.fail(f"the pool {pool} cannot be destroyed: {destroyed.stderr}")


@pytest.fixture(scope="session")
def zfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A pool on zfs-fuse."""
    directory = tmp_path_factory.mktemp("zfs")
    with zfs_fuse(), shared_mount(directory):
        yield from zfs_pool(directory)


def zfs_pool(directory: Path) -> Iterator[Path]:
    """A pool in a file, mounted as long as the generator lives."""
    image, pool = directory / "image", f"dcdtest{uuid.uuid4().hex[:8]}"
    with image.open("wb") as file:
        file.truncate(512 * 2**20)
    create = ["zpool", "create", "-m", directory / "pool", pool, image]
    subprocess.run(create, check=True, capture_output=True)
    try:
        yield directory / "pool"
    finally:
        destroy_pool(pool)
        image.unlink()


BACK_ENDS = {
    "overlay": (OverlayTrees, None),
    "copy": (CopyTrees, None),
    "copy-reflink": (CopyTrees, "xfs"),
    "btrfs": (BtrfsTrees, "btrfs"),
    "zfs": (ZfsTrees, "zfs"),
}


# zfs-fuse takes about half a second for each test.
@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.slow if name == "zfs" else ()) for name in BACK_ENDS
    ]
)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    """Each back end in turn."""
    trees, file_system = BACK_ENDS[request.param]
    place = tmp_path
    if file_system:
        place = request.getfixturevalue(file_system) / uuid.uuid4().hex
        place.mkdir()
    store = LayerDirectory(place / "layers", trees())
    store.prepare()
    subject = Subject(
        store,
        keeps_attributes=request.param != "zfs",
        time_grain_ns=1_000_000_000 if request.param == "zfs" else 1,
        keeps_hard_links=request.param != "overlay",
    )
    yield subject
    store.reconcile((), ())

"""The start of the launcher: the state directory's owners, the remains of a dead daemon, the layer back end.

    STATE/                  root, mode 0711
    STATE/layers            root only; `varied` for builds that repeat others
    STATE/artifacts         root, and the group that may read artifacts
    STATE/logs, packages    root, read by the daemon's group
    STATE/events, blobs     the daemon's user only

Only root changes the names of the directories, so what is below them is always where its path says. All of
it is repeated at each start, and may end at any point. Raises DcdError and OSError.
"""

import fcntl
import os
import secrets
import stat
import time
from pathlib import Path

from dcd.launcher.operations import Operations
from dcd.launcher.orders import Prepared, Setup
from dcd.platform import control_group
from dcd.platform.control_group import Delegated
from dcd.worker.kinds import Kind, chosen_kind
from dcd.worker.permission import require_namespaces
from dcd.worker.recover import detach_loops, kill_leftovers, noted_contracts
from statemachine.errors import Unavailable, Unprepared
from store.artifacts import Artifacts
from store.host.durable import sync_directory, write_file
from store.layers.choose import VARIED, choose, retired, with_second_place
from store.logs import AttemptLogs
from store.packages import Packages

_LOCK_SECONDS = 30.0
"""How long the launcher of a dead daemon may take to end."""

_OPEN = ("events", "blobs")
"""The directories of the daemon's user."""

_CLOSED = ("layers", "artifacts", "logs", "packages")
"""The directories of root."""


def prepare(setup: Setup) -> tuple[Operations, Prepared]:
    """Make the state directory ready."""
    _only_one(setup.state_dir / "launcher.lock")
    mark = setup.state_dir / "id"
    places = (setup.state_dir / "layers", setup.state_dir / "layers" / VARIED)
    contracts = set().union(*map(noted_contracts, places))
    killed = kill_leftovers(f"{_mark(mark)}:", contracts)
    removed = [f"process {each.pid} of {each.attempt}" for each in killed]
    for place in places:
        removed += (f"device {device}" for device in detach_loops(place))
    if mark.stat().st_mode & 0o077:
        # Version 0.1.0 let everybody read it. All processes with the old mark have ended.
        mark.unlink()
    groups = _groups(removed)
    _own(setup)
    artifacts = Artifacts(setup.state_dir / "artifacts", setup.artifact_gid)
    artifacts.prepare()
    gid = setup.gid if setup.separate else -1
    logs = AttemptLogs(setup.state_dir / "logs")
    logs.prepare(gid)
    packages = Packages(setup.state_dir / "packages")
    packages.prepare(gid)
    kind, kind_reason = chosen_kind(setup.worker)
    mounts = kind is Kind.NAMESPACES
    place = setup.state_dir / "layers"
    main, reason = choose(place, setup.backend, mounts=mounts)
    place.chmod(0o700)
    others = retired(place, main.name)
    layers = with_second_place(main, place / VARIED, mounts=mounts)
    layers.prepare()
    operations = Operations(
        layers=layers,
        artifacts=artifacts,
        logs=logs,
        blobs=setup.state_dir / "blobs",
        packages=packages,
        state_id=_mark(mark),
        key=_kept(setup.state_dir / "secret-digests.key", secrets.token_bytes(32)),
        retired=others,
        bounds=setup.bounds,
        groups=groups,
        gid=gid,
        settings_command=setup.settings_command,
        worker=setup.worker,
        signing=setup.signing,
    )
    controllers = tuple(sorted(groups.controllers)) if groups else ()
    names = tuple(store.name for store in others)
    return operations, Prepared(
        layers.name, reason, names, controllers, tuple(removed), kind, kind_reason, *_obstacle(kind)
    )


def _obstacle(kind: Kind) -> tuple[str, str]:
    """Why no worker of this kind can be started, with the remedy; "" as far as that is known. Root learns it
    with the first worker."""
    if kind is Kind.NAMESPACES and os.geteuid() != 0:
        try:
            require_namespaces()
        except Unprepared as error:
            return f"{error.brief}: {error.details}", error.resolution
    return "", ""


def _only_one(lock: Path) -> None:
    """Wait until the launcher of a dead daemon has ended. The lock ends with this process."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Unavailable(
                    "the launcher of an earlier daemon does not end",
                    f"it holds {lock}",
                    "it hangs in the kernel; restart the machine",
                ) from None
            time.sleep(0.02)


def _kept(path: Path, first: bytes) -> bytes:
    """The content of a file that only root reads, with this content when it is new."""
    if not path.exists():
        write_file(path, first, 0o600)
    return path.read_bytes()


def _mark(path: Path) -> str:
    """The mark of the processes of this state directory."""
    return _kept(path, secrets.token_hex(16).encode()).decode().strip()


def _groups(removed: list[str]) -> Delegated | None:
    try:
        groups = control_group.take_over()
        removed += (f"control group {name}" for name in (groups.clear() if groups else ()))
    except OSError as error:
        removed.append(f"nothing; attempts get no control groups: {error}")
        return None
    return groups


def _own(setup: Setup) -> None:
    """Give each directory of the state directory, and what it holds, to the user who may change it."""
    state_dir = setup.state_dir
    for name in (*_OPEN, *_CLOSED):
        (state_dir / name).mkdir(mode=0o700, exist_ok=True)
    _move_log(state_dir)
    if not setup.separate:
        state_dir.chmod(0o700)
        return
    for name in _CLOSED:
        os.chown(state_dir / name, 0, -1, follow_symlinks=False)
    os.chown(state_dir, 0, 0)
    state_dir.chmod(0o711)
    for name in _OPEN:
        for _, directories, files, parent in os.fwalk(state_dir / name):
            for each in (".", *directories, *files):
                _give(each, parent, setup.uid, setup.gid)


def _move_log(state_dir: Path) -> None:
    """Move the event log of version 0.1.0 to its directory. The log itself comes last, so that a start after
    a crash continues."""
    if not (state_dir / "events.db").exists():
        return
    for path in sorted(state_dir.glob("events.db*"), key=lambda path: -len(path.name)):
        path.rename(state_dir / "events" / path.name)
    sync_directory(state_dir / "events")
    sync_directory(state_dir)


def _give(name: str, parent: int, uid: int, gid: int) -> None:
    """Give what has a name in the directory open as `parent` to the daemon's user, unless it may be a file of
    somebody else's. Processes of that user may still run and change names: it is given as it was seen."""
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if (status.st_uid, status.st_gid) == (uid, gid) or not _is_ours(status):
        return
    opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    try:
        if _is_ours(os.fstat(opened)):
            os.fchown(opened, uid, gid)
    finally:
        os.close(opened)


def _is_ours(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)

"""The user as which dcd's unprivileged processes run.

The service has the system user `dcd`. A daemon that root starts on a host without that user, for a
test or for one image, takes a number of its own, from a range that nothing else uses; all files of the state
directory keep it. A daemon that another user starts runs as that user.

Source: credentials(7), capabilities(7); systemd's UIDS-GIDS.md for the range.
"""

import os
import pwd
import stat
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from statemachine.errors import Unprepared
from store.host.capabilities import NEEDS_NAMESPACES, become
from store.host.mounts import (
    NO_DEVICES,
    NO_SUID,
    attach,
    can_restrict,
    copy_of,
    mount,
    new_mount_namespace,
    restrict,
)

USER = "dcd"

STARTED_BY_ROOT = "DCD_STARTED_BY_ROOT"
"""The variable that root sets for its processes without root."""

_FIRST, _COUNT = 0x7000_0000, 0x0FFF_FFFF
"""The numbers that systemd's documentation leaves to nobody."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A user and group by number; `groups` are its further groups. `separate`: it differs from the user who
    starts the daemon."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    separate: bool = True


def service_identity(state_dir: Path) -> Identity:
    """The identity for the unprivileged processes of the daemon of this state directory."""
    if os.geteuid() != 0:
        return Identity(os.geteuid(), os.getegid(), separate=False)
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        number = _FIRST + zlib.crc32(os.fsencode(state_dir.resolve())) % _COUNT
        return Identity(number, number)
    return Identity(user.pw_uid, user.pw_gid)


def owner_of_nothing(purpose: str) -> int:
    """The number of a user that owns no file and no other process, for a purpose."""
    return _FIRST + _COUNT - zlib.crc32(purpose.encode()) % 0xFFFF


def workers_are_root() -> bool:
    """Whether the workers of this process's daemon run as root: because it runs as root itself, or because
    root started it."""
    return os.geteuid() == 0 or STARTED_BY_ROOT in os.environ


def give_up_root(
    identity: Identity, shown: Iterable[Path], filled_by_root: Iterable[Path] = ()
) -> None:
    """Give up root for good: this process runs on as `identity`, without capabilities, and gains none. It
    still reaches the paths `shown` where directories above them are closed to that user. In directories
    `filled_by_root`, it can open no device and runs no set-user-id program. For a process with one thread.
    Raises Unprepared when the host lets root make no mount namespace, and OSError."""
    if not identity.separate:
        return
    try:
        _open_ways(identity, shown)
        _tame(filled_by_root)
    except PermissionError as error:
        raise Unprepared(
            "this host lets root make no mount namespaces",
            f"the daemon gives up root in one; {error}",
            NEEDS_NAMESPACES,
        ) from error
    os.chdir("/")
    os.environ[STARTED_BY_ROOT] = "1"
    become(identity.uid, identity.gid, identity.groups)


def _open_ways(identity: Identity, paths: Iterable[Path]) -> None:
    """Show paths in a mount namespace of this process's own, in which the directories above them can be
    entered. On hosts without one, permissions have to do."""
    closed: dict[Path, list[Path]] = {}
    for path in map(Path.resolve, paths):
        barred = [each for each in path.parents if not _may_enter(identity, each)]
        if barred:
            closed.setdefault(barred[-1], []).append(path)
    if not closed or not can_restrict():
        return
    new_mount_namespace()
    for directory, hidden in closed.items():
        copies = [(path, copy_of(path)) for path in sorted(set(hidden))]
        mount("tmpfs", directory, "mode=711,size=1m", NO_SUID | NO_DEVICES)
        for path, copy in copies:
            if not path.exists():
                path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
                path.mkdir() if stat.S_ISDIR(os.fstat(copy).st_mode) else path.touch()
                attach(copy, path)
            os.close(copy)


def _tame(directories: Iterable[Path]) -> None:
    """Take the effect from nodes and modes in directories, in a mount namespace of this process's own."""
    if not can_restrict():
        return
    new_mount_namespace()
    for directory in directories:
        copy = copy_of(directory)
        try:
            restrict(copy, NO_SUID | NO_DEVICES)
            attach(copy, directory)
        finally:
            os.close(copy)


def _may_enter(identity: Identity, directory: Path) -> bool:
    status = directory.stat()
    mine = stat.S_IXUSR if status.st_uid == identity.uid else 0
    groups = stat.S_IXGRP if status.st_gid in (identity.gid, *identity.groups) else 0
    return bool(status.st_mode & (mine or groups or stat.S_IXOTH))

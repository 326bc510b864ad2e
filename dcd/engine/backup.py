"""Backups of the event log: taken while the daemon runs, restored while it is stopped.

Blocking. Only the log cannot be rebuilt. Backups do not contain layers, blobs and artifacts:
docs/how-to/back-up-and-restore.md describes the effect on builds.
"""

import contextlib
import hashlib
import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from statemachine.errors import Refused, Unavailable
from store.eventlog import EventLog, LogDamaged, SqliteLog
from store.eventlog.high_water import HighWater
from store.host.durable import sync_directory, sync_file

_ASIDE = "backup-"
_FILES = ("-wal", "-shm", "")
"""The suffixes of the files of a database."""


def copy_of(events: EventLog, state_dir: Path) -> tuple[BinaryIO, int, bytes]:
    """A consistent copy of the log as an open, unnamed file, with its size in bytes and its sha256.
    Raises Unavailable (the disk is full)."""
    path = state_dir / f"{_ASIDE}{secrets.token_hex(8)}"
    events.backup(path)
    copy = path.open("rb")
    path.unlink()
    digest = hashlib.file_digest(copy, "sha256").digest()
    size_bytes = copy.tell()
    copy.seek(0)
    return copy, size_bytes, digest


def remove_leftovers(state_dir: Path) -> None:
    """Remove unfinished copies of a dead daemon."""
    for pattern in (f"{_ASIDE}*", f".{_ASIDE}*"):
        for path in state_dir.glob(pattern):
            path.unlink()


def restore(backup: Path, state_dir: Path, force: bool) -> tuple[int, Path | None]:
    """Install a backup as the event log of a state directory that no daemon uses. Returns the number of
    its events, and the new path of the log that it replaces.

    All events of the backup are verified first; the backup itself is not changed. Raises Refused when a
    log exists and `force` is not set, LogDamaged when the backup is invalid, Unavailable.
    """
    target = state_dir / "events.db"
    if target.exists() and not force:
        raise Refused(
            f"{state_dir} already has an event log",
            f"{target} would be replaced",
            "restore into an empty directory, or give --force: the present log is kept beside it",
        )
    aside = state_dir / f"{_ASIDE}restored-{secrets.token_hex(4)}.db"
    try:
        with _explained(backup, aside):
            shutil.copyfile(backup, aside)
        count = _verified(aside, backup)
        sync_file(aside)
        kept = _set_aside(target) if target.exists() else None
        HighWater(target).forget()
        aside.rename(target)
        sync_directory(state_dir)
    finally:
        for suffix in (*_FILES, ".reserve"):
            aside.with_name(aside.name + suffix).unlink(missing_ok=True)
    return count, kept


def _verified(copy: Path, backup: Path) -> int:
    """The number of events of a verified log. Raises LogDamaged."""
    with SqliteLog(copy) as log:
        problems = log.verify_all()
        count = log.position
    if problems:
        raise LogDamaged(
            f"the backup {backup} is damaged", "\n".join(problems), "use another backup"
        )
    return count


def _set_aside(log: Path) -> Path:
    """Rename a log. Its companion files are renamed first: SQLite would apply a remaining -wal to the
    next database."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    kept = log.with_name(f"{log.name}.replaced-{stamp}")
    for suffix in _FILES:
        with contextlib.suppress(FileNotFoundError):
            log.with_name(log.name + suffix).rename(kept.with_name(kept.name + suffix))
    return kept


@contextlib.contextmanager
def _explained(backup: Path, aside: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"the backup {backup} cannot be copied to {aside.parent}", error.strerror or str(error)
        ) from error

"""Backups of the event log: taken while the daemon runs, restored while it does not. Blocking.

The log is the only thing that cannot be made again. Layers, blobs and artifacts are not in a backup:
docs/how-to/back-up-and-restore.md says what becomes of builds without them.
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
from store.eventlog import EventLog, LogDamaged
from store.eventlog.high_water import HighWater
from store.host.durable import sync_directory, sync_file

_ASIDE = "backup-"
_FILES = ("-wal", "-shm", "")
"""The files of a database, by what is appended to its name."""


def copy_of(events: EventLog, state_dir: Path) -> tuple[BinaryIO, int, bytes]:
    """A consistent copy of the log as an open file without a name, its size in bytes, its sha256.
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
    """Remove copies that a dead daemon was just making."""
    for pattern in (f"{_ASIDE}*", f".{_ASIDE}*"):
        for path in state_dir.glob(pattern):
            path.unlink()


def restore(backup: Path, state_dir: Path, force: bool) -> tuple[int, Path | None]:
    """Put a backup into a state directory that no daemon uses, as its event log. Returns the number of
    its events, and where the log that it replaces has been kept.

    The backup is verified first, all of its events, and changed in nothing. Raises Refused when there is a
    log already and not `force`, LogDamaged when the backup cannot be trusted, Unavailable.
    """
    target = state_dir / "events.db"
    if target.exists() and not force:
        raise Refused(
            f"{state_dir} has an event log already",
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
    """The number of events of a log that is whole."""
    with EventLog(copy) as log:
        problems = log.verify_all()
        count = log.position
    if problems:
        raise LogDamaged(
            f"the backup {backup} is damaged", "\n".join(problems), "use another backup"
        )
    return count


def _set_aside(log: Path) -> Path:
    """Keep a log under another name. What belongs to it goes first: SQLite would take a -wal that
    stays behind for that of the next database."""
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

"""The output of attempts: their logs, and the files that they leave beside them, such as the serial console
and the screen of a guest. Both can be read while the attempt runs.

A worker writes these files, and what it runs may be hostile: only regular files directly in an attempt's
directory count that the daemon's user may read, and no link is followed. Blocking.
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from dcd.engine.stores import Stores
from statemachine.build import BuildState
from statemachine.errors import NotFound

MOST_FILES = 200
"""How many files of an attempt are listed."""

MEDIA_TYPES = {".log": "text/plain; charset=utf-8", ".png": "image/png"}
"""By the end of a file's name; others are only bytes."""

_ATTEMPT = re.compile(r"[1-9][0-9]{0,6}")
_NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+-]{0,199}")


@dataclass(frozen=True, slots=True)
class LogFile:
    """The output of one attempt."""

    checkpoint: str
    attempt: int
    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class AttemptFile:
    """A file that an attempt has left, or is writing. `media_type` is that of its content."""

    name: str
    size_bytes: int
    changed_at: datetime
    media_type: str


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outputs in `stores`."""

    stores: Stores

    def logs(self, state: BuildState) -> tuple[LogFile, ...]:
        """The logs of a build's attempts."""
        return tuple(
            LogFile(name, attempt, str(path), path.stat().st_size)
            for name, attempts in state.attempts.items()
            for attempt in range(1, attempts + 1)
            if (path := self.stores.logs.path(state.id, name, attempt)).is_file()
        )

    def open_log(self, state: BuildState, checkpoint: str, attempt: str) -> BinaryIO:
        """The open log of an attempt, with its number as text. Raises NotFound."""
        number = number_of(state, checkpoint, attempt)
        path = self.stores.logs.path(state.id, checkpoint, number)
        found = _opened(path)
        if found is None:
            raise NotFound(f"build {state.id} has no log of {checkpoint}, attempt {number}")
        return found

    def files(self, state: BuildState, checkpoint: str, attempt: str) -> tuple[AttemptFile, ...]:
        """The files of an attempt, with its number as text, by name. Raises NotFound."""
        directory = self._directory(state, checkpoint, attempt)
        return tuple(sorted(_files(directory), key=lambda file: file.name)[:MOST_FILES])

    def open_file(self, state: BuildState, checkpoint: str, attempt: str, name: str) -> BinaryIO:
        """An open file of an attempt. Raises NotFound."""
        directory = self._directory(state, checkpoint, attempt)
        found = _opened(directory / name) if _NAME.fullmatch(name) else None
        if found is None:
            known = ", ".join(file.name for file in self.files(state, checkpoint, attempt))
            raise NotFound(
                f"attempt {attempt} of {checkpoint} in build {state.id} has no file {name[:200]!r}",
                f"it has {known}" if known else "it has left none",
            )
        return found

    def _directory(self, state: BuildState, checkpoint: str, attempt: str) -> Path:
        number = number_of(state, checkpoint, attempt)
        return self.stores.logs.evidence(state.id, checkpoint, number)


def number_of(state: BuildState, checkpoint: str, attempt: str) -> int:
    """The number of an attempt that has begun, from its text. Raises NotFound."""
    begun = state.attempts.get(checkpoint, 0)
    if _ATTEMPT.fullmatch(attempt) and int(attempt) <= begun:
        return int(attempt)
    if not begun and checkpoint in {record.name for record in state.checkpoints}:
        raise NotFound(f"build {state.id} has not run {checkpoint}")
    ran = ", ".join(f"{name} ({count})" for name, count in state.attempts.items())
    raise NotFound(
        f"build {state.id} has no attempt {attempt[:20]} of {checkpoint[:128]}",
        f"it has run, with the number of attempts: {ran}" if ran else "it has run nothing yet",
    )


def is_running(state: BuildState, checkpoint: str, attempt: str) -> bool:
    """Whether this attempt of a build is open."""
    record = state.running
    return record is not None and (record.name, str(record.attempts)) == (checkpoint, attempt)


def media_type_of(name: str) -> str:
    """The media type of an attempt's file."""
    return MEDIA_TYPES.get(Path(name).suffix, "application/octet-stream")


def _files(directory: Path) -> Iterator[AttemptFile]:
    try:
        entries = list(os.scandir(directory))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    for entry in entries:
        if not _NAME.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
            continue
        if not os.access(entry.path, os.R_OK):  # a program made it for root alone
            continue
        found = entry.stat(follow_symlinks=False)
        changed = datetime.fromtimestamp(int(found.st_mtime), UTC)
        yield AttemptFile(entry.name, found.st_size, changed, media_type_of(entry.name))


def _opened(path: Path) -> BinaryIO | None:
    """The open file, None if it does not exist or is not a regular file."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return os.fdopen(descriptor, "rb")

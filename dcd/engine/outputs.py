"""The output of attempts: their logs, and the files that they leave beside them, such as the serial console
and the screen of a guest. Both can be read while the attempt runs.

A worker writes these files, and what it runs may be hostile: only regular files directly in an attempt's
directory count that the daemon's user may read, and no link is followed. In a farm, what an attempt on
another member has left comes from the registry, if it is there. Blocking.
"""

import os
import re
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

from dcd.engine.builds import now
from dcd.engine.sharing import NOT_SHARED, SharedOutput, Sharing
from dcd.engine.stores import Stores
from statemachine.build import BuildState, Lifecycle
from statemachine.errors import NotFound

MOST_FILES = 200
"""How many files of an attempt are listed."""

MOST_ATTEMPTS = 200
"""How many attempts of a checkpoint are listed, the last ones: their number is in an event, which may be of a
hostile member."""

SENT_SECONDS = 5.0
"""How long it may take until the outputs of an attempt that has just ended are in the registry."""

MEDIA_TYPES = {".log": "text/plain; charset=utf-8", ".png": "image/png"}
"""By the end of a file's name; others are only bytes."""

_ATTEMPT = re.compile(r"[1-9][0-9]{0,6}")
_NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+-]{0,199}")


@dataclass(frozen=True, slots=True)
class LogFile:
    """The output of one attempt. The path of one on another host is its name and the path in its state
    directory: `b:logs/...`."""

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
    """The outputs in `stores` of the member `host` of a farm ("": there is none), and of other members."""

    stores: Stores
    sharing: Sharing = NOT_SHARED
    host: str = ""

    def logs(self, state: BuildState) -> tuple[LogFile, ...]:
        """The logs of a build's last attempts."""
        return tuple(
            log
            for name, attempts in state.attempts.items()
            for attempt in range(max(1, attempts + 1 - MOST_ATTEMPTS), attempts + 1)
            if (log := self._log(state, name, attempt))
        )

    def of_attempt(
        self, state: BuildState, checkpoint: str, attempt: int
    ) -> Iterator[tuple[str, BinaryIO]]:
        """The names of an attempt's outputs on this host ("" for the log), and open files."""
        if log := _opened(self.stores.logs.path(state.id, checkpoint, attempt)):
            yield "", log
        directory = self.stores.logs.evidence(state.id, checkpoint, attempt)
        for file in _listed(_files(directory)):
            if opened := _opened(directory / file.name):
                yield file.name, opened

    def require_here(self, state: BuildState, checkpoint: str, attempt: str) -> None:
        """Raise NotFound for an attempt that runs on another member: it can be followed there."""
        runs_there = is_running(state, checkpoint, attempt) and state.host != self.host
        if runs_there:
            raise self._lacking(state, checkpoint, int(attempt), "log")

    def open_log(self, state: BuildState, checkpoint: str, attempt: str) -> BinaryIO:
        """The open log of an attempt, with its number as text. Raises NotFound, CheckpointError."""
        number = number_of(state, checkpoint, attempt)
        path = self.stores.logs.path(state.id, checkpoint, number)
        found = _opened(path) or self._open_shared(state, checkpoint, number, "")
        if found is None:
            raise self._lacking(state, checkpoint, number, "log")
        return found

    def files(self, state: BuildState, checkpoint: str, attempt: str) -> tuple[AttemptFile, ...]:
        """The files of an attempt, with its number as text, by name. Raises NotFound."""
        number = number_of(state, checkpoint, attempt)
        directory = self.stores.logs.evidence(state.id, checkpoint, number)
        if directory.is_dir():
            found = list(_files(directory))
        else:
            shared = [each for each in self._shared(state, checkpoint, number) if each.name]
            found = [
                AttemptFile(
                    each.name,
                    each.size_bytes,
                    datetime.fromtimestamp(each.changed_at, UTC),
                    media_type_of(each.name),
                )
                for each in shared
            ]
        return tuple(_listed(found))

    def open_file(self, state: BuildState, checkpoint: str, attempt: str, name: str) -> BinaryIO:
        """An open file of an attempt. Raises NotFound, CheckpointError."""
        number = number_of(state, checkpoint, attempt)
        found = None
        if _NAME.fullmatch(name):
            path = self.stores.logs.evidence(state.id, checkpoint, number) / name
            found = _opened(path) or self._open_shared(state, checkpoint, number, name)
        if found is None:
            known = ", ".join(file.name for file in self.files(state, checkpoint, attempt))
            if not known and _host_of(state, checkpoint, number) not in ("", self.host):
                raise self._lacking(state, checkpoint, number, f"file {name[:200]!r}")
            raise NotFound(
                f"attempt {attempt} of {checkpoint} in build {state.id} has no file {name[:200]!r}",
                f"it has {known}" if known else "it has left none",
            )
        return found

    def _log(self, state: BuildState, checkpoint: str, number: int) -> LogFile | None:
        path = self.stores.logs.path(state.id, checkpoint, number)
        if path.is_file():
            return LogFile(checkpoint, number, str(path), path.stat().st_size)
        for each in self._shared(state, checkpoint, number):
            if not each.name:
                there = path.relative_to(self.stores.logs.directory.parent)
                return LogFile(checkpoint, number, f"{each.host}:{there}", each.size_bytes)
        return None

    def _shared(self, state: BuildState, checkpoint: str, number: int) -> Sequence[SharedOutput]:
        """What another member has sent of an attempt."""
        if not self.host or is_running(state, checkpoint, str(number)):
            return ()
        # Of a build that has just failed people want the log at once.
        failed = state.lifecycle is Lifecycle.FAILED
        recent = failed and abs((now() - state.updated_at).total_seconds()) < SENT_SECONDS
        deadline = time.monotonic() + (SENT_SECONDS if recent else 0.0)
        while True:
            found = self.sharing.outputs(state.id, checkpoint, number)
            if found or time.monotonic() >= deadline:
                return found
            time.sleep(0.2)

    def _open_shared(
        self, state: BuildState, checkpoint: str, number: int, name: str
    ) -> BinaryIO | None:
        """A copy of an output that another member has sent."""
        for each in self._shared(state, checkpoint, number):
            if each.name == name:
                pieces = self.sharing.read(each.digest, each.size_bytes)
                return _copied(pieces, self.stores.blobs.directory)
        return None

    def _lacking(self, state: BuildState, checkpoint: str, number: int, what: str) -> NotFound:
        host = _host_of(state, checkpoint, number)
        if host in ("", self.host):
            return NotFound(f"build {state.id} has no {what} of {checkpoint}, attempt {number}")
        runs = is_running(state, checkpoint, str(number))
        return NotFound(
            f"the {what} of {checkpoint}, attempt {number}, of build {state.id} is on {host}",
            "the attempt runs there" if runs else "it is not in the registry",
            f"ask there: ssh {host} dcctl logs {state.id} {checkpoint} --attempt {number}",
        )


def _host_of(state: BuildState, checkpoint: str, number: int) -> str:
    """The member of the farm that ran an attempt; "" when only an event knows. Builds of an imported log have
    one that was named at the import."""
    for record in state.checkpoints:
        if record.name == checkpoint and record.attempts == number:
            return record.host or state.host
    return ""


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


def _listed(files: Iterable[AttemptFile]) -> list[AttemptFile]:
    return sorted(files, key=lambda file: file.name)[:MOST_FILES]


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


def _copied(pieces: Iterable[bytes], directory: Path) -> BinaryIO:
    with ExitStack() as stack:
        copy = stack.enter_context(tempfile.TemporaryFile(dir=directory))
        copy.writelines(pieces)
        copy.seek(0)
        stack.pop_all()
        return cast(BinaryIO, copy)


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

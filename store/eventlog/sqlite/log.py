"""The event log in a SQLite file, for a single machine.

Exactly one `SqliteLog` is open for a file, as a context manager; the daemon's lock on its state directory
ensures it. Documented in `store.eventlog.interface`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from statemachine.errors import Unavailable
from store.eventlog.errors import LogDamaged
from store.eventlog.high_water import HighWater
from store.eventlog.interface import May, OnCommit, whatever
from store.eventlog.queries import Queries, no_build
from store.eventlog.sqlite import database
from store.eventlog.sqlite.reserve import Reserve
from store.eventlog.sqlite.writer import EPOCH, SqliteWriter


class SqliteLog(Queries):
    """The log in the file `path`; created when it does not exist, migrated when it is older.

    Raises LogDamaged for a file that is foreign, truncated, corrupt or newer, Unavailable when it cannot be
    used.
    """

    restoring = "restore a backup of the log that has them (dcd restore)"

    def __init__(self, path: Path, on_commit: OnCommit | None = None) -> None:
        self.path = path
        reserve = Reserve(path.with_name(f"{path.name}.reserve"))
        self._connection = _open(path, reserve)
        try:
            with database.explained(path):
                self._writer = SqliteWriter(self._connection, reserve, HighWater(path), on_commit)
        except BaseException:
            database.close(self._connection)
            raise
        self._readers = database.reading_engine(path)
        self.lost = max(0, HighWater(path).read() - self._writer.position)
        self.append = self._writer.append
        self.append_together = self._writer.append_together

    def close(self) -> None:
        self._writer.close()
        self._readers.dispose()
        database.close(self._connection)

    @property
    def directory(self) -> Path:
        return self.path.parent

    def size_bytes(self) -> int:
        files = self.directory.glob(f"{self.path.name}*")
        return sum(path.stat().st_size for path in files)

    def take(self, build: str, host: str, may: May = whatever) -> int:
        if not self.known_builds([build]):
            raise no_build(build)
        return EPOCH

    def backup(self, target: Path) -> None:
        database.backup(self.path, target)

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with database.explained(self.path), self._readers.connect() as connection:
            yield connection


def _open(path: Path, reserve: Reserve) -> sa.Connection:
    """The writing connection. SQLite needs some space to open a log and reports an unspecific error on
    a full disk, so a failure releases the reserve and tries again."""
    try:
        return database.open_writer(path)
    except LogDamaged:
        raise
    except Unavailable:
        if not reserve.release():
            raise
        return database.open_writer(path)

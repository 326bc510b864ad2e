"""Opening the event log's database: one writing connection, any number of reading ones.

A new log is created under a temporary name and renamed, so a database with the right name is complete;
an empty file is therefore a truncated log, never a new one. Before the first event is read or written
the file is checked: it must be a SQLite database of dcd, of a known revision (an older one is migrated,
in one transaction), with every table and trigger, and with journal_mode WAL and synchronous FULL in
effect. Nothing here depends on the number of events. While the file is in use only SQLite opens it:
closing any other descriptor of it would drop SQLite's locks (https://sqlite.org/howtocorrupt.html,
2.2).
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa

from statemachine.errors import Unavailable
from store.eventlog.errors import LogDamaged
from store.eventlog.sqlite.schema import APPLICATION_ID, REVISIONS, check_schema
from store.eventlog.tables import EVENTS_VERSION
from store.host.durable import sync_directory, sync_file

BUSY_SECONDS = 10.0
"""How long a connection waits for another program's lock (a backup tool, the sqlite3 shell)."""

READERS = 4

HEADER_BYTES = 100
"""SQLite treats a file shorter than its header as a new database."""


def open_writer(path: Path) -> sa.Connection:
    """The writing connection; the database is created or migrated as needed. Raises LogDamaged,
    Unavailable."""
    with explained(path):
        if not path.exists():
            _create(path)
        if (size := path.stat().st_size) < HEADER_BYTES:
            raise LogDamaged(f"the event log {path} is truncated to {size} bytes", "", _RESTORE)
        connection = _writing_engine(path).connect()
        try:
            _examine(connection, path)
            _migrate(connection)
            check_schema(connection)
            _set_modes(connection, path)
            if _events_version(connection) != EVENTS_VERSION:
                connection.exec_driver_sql(f"PRAGMA user_version={EVENTS_VERSION}")
            connection.commit()
        except BaseException:
            close(connection)
            raise
    return connection


def reading_engine(path: Path) -> sa.Engine:
    """A pool of connections that cannot write."""

    def connect() -> sqlite3.Connection:
        connection = _connect(path, "ro")
        connection.execute("PRAGMA query_only=ON")
        return connection

    return sa.create_engine(
        "sqlite://",
        creator=connect,
        poolclass=sa.pool.QueuePool,
        pool_size=READERS,
        max_overflow=READERS,
    )


def close(connection: sa.Connection) -> None:
    """Close the writing connection and its engine."""
    connection.close()
    connection.engine.dispose()


def backup(path: Path, target: Path) -> None:
    """Copy the log at `path`, which may be in use, to the new file `target`, compact and consistent.
    The copy is complete and on disk, or does not exist. Raises Unavailable (the disk is full, `target`
    exists)."""
    if target.exists():
        raise Unavailable(f"{target} exists already", resolution="name a file that does not exist")
    aside = target.with_name(f".{target.name}.part")
    try:
        aside.unlink(missing_ok=True)
        with closing(_connect(path, "ro")) as connection:
            connection.execute("VACUUM INTO ?", (str(aside),))
        aside.chmod(0o600)
        sync_file(aside)
        aside.rename(target)
        sync_directory(target.parent)
    except (sqlite3.Error, OSError) as error:
        aside.unlink(missing_ok=True)
        raise Unavailable(f"the event log cannot be copied to {target}", str(error)) from error


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and the system into errors for people."""
    try:
        yield
    except (sqlite3.Error, sa.exc.DBAPIError, OSError) as error:
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        if primary_code(error) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise LogDamaged(
                f"the event log {path} is damaged, or not an event log", str(cause), _RESTORE
            ) from error
        raise Unavailable(
            f"the event log {path} cannot be used",
            str(cause),
            "fix the cause (permissions, disk, another program that locks the file), then restart dcd",
        ) from error


def primary_code(error: Exception) -> int:
    """SQLite's primary result code (https://sqlite.org/rescode.html) of an error; 0 if it has none."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    return int(getattr(cause, "sqlite_errorcode", 0)) & 0xFF


_RESTORE = "restore the latest backup of the event log, or move the file away to start a new one"


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )


def _writing_engine(path: Path) -> sa.Engine:
    engine = sa.create_engine(
        "sqlite://", creator=lambda: _connect(path, "rw"), poolclass=sa.pool.StaticPool
    )

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _create(path: Path) -> None:
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    connection = _writing_engine(aside).connect()
    try:
        connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
        connection.exec_driver_sql(f"PRAGMA user_version={EVENTS_VERSION}")
        connection.commit()
        _migrate(connection)
    finally:
        close(connection)
    sync_file(aside)
    aside.rename(path)
    sync_directory(path.parent)


def _examine(connection: sa.Connection, path: Path) -> None:
    found = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
    if found != APPLICATION_ID:
        raise LogDamaged(
            f"{path} is a database, but not an event log of dcd",
            f"its application_id is {found}, not {APPLICATION_ID}",
            "use the right state directory, or move the file away",
        )
    revision = _revision(connection)
    if revision is None:
        raise LogDamaged(f"the event log {path} has no revision", "", _RESTORE)
    if revision not in REVISIONS:
        raise _newer(
            path, f"its revision is {revision}; this version supports up to {REVISIONS[-1]}"
        )
    if _events_version(connection) > EVENTS_VERSION:
        raise _newer(path, "it may hold events that this version cannot read")
    connection.commit()


def _revision(connection: sa.Connection) -> str | None:
    tables = "SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'"
    if not connection.exec_driver_sql(tables).scalar_one():
        return None
    row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
    return None if row is None else str(row[0])


def _newer(path: Path, details: str) -> LogDamaged:
    return LogDamaged(
        f"the event log {path} was written by a newer dcd",
        details,
        "run the newer version, or restore a backup made before the upgrade",
    )


def _events_version(connection: sa.Connection) -> int:
    return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())


def _migrate(connection: sa.Connection) -> None:
    with connection.begin():
        if _revision(connection) == REVISIONS[-1]:
            return
        # Imported only for a migration: the import takes longer than the rest of the start.
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", "store.eventlog.sqlite:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        check_schema(connection)


def _set_modes(connection: sa.Connection, path: Path) -> None:
    """Set WAL and FULL, the fastest modes that lose no acknowledged commit in a power cut. Raises
    Unavailable when SQLite does not apply them, as on a network file system."""
    connection.commit()
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.execute("PRAGMA journal_mode=WAL")
    driver.execute("PRAGMA synchronous=FULL")
    (journal_mode,) = driver.execute("PRAGMA journal_mode").fetchone()
    (synchronous,) = driver.execute("PRAGMA synchronous").fetchone()
    if (journal_mode, synchronous) != ("wal", 2):
        raise Unavailable(
            f"the event log {path} cannot be kept safe",
            f"journal_mode is {journal_mode}, synchronous {synchronous}; wanted: wal, 2 (full)",
            "put the state directory on a local file system",
        )

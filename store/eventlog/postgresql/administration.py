"""Making a database the log of a farm, and moving a log from SQLite into it. For administrators; blocking."""

from pathlib import Path

import sqlalchemy as sa
from psycopg import sql

from statemachine.errors import NotFound, Refused
from store.eventlog.errors import LogDamaged
from store.eventlog.postgresql import schema
from store.eventlog.postgresql.connection import Connection, check, connect, explained
from store.eventlog.postgresql.members import require_name
from store.eventlog.postgresql.writer import as_stored, position_of, read_rows
from store.eventlog.queries import chain_problems
from store.eventlog.sqlite.database import reading_engine
from store.eventlog.sqlite.log import SqliteLog
from store.eventlog.tables import builds, events, layer_keys


def init(dsn: str) -> bool:
    """Create or renew the roles, tables and functions of a farm in the database. Returns whether it was new.
    Raises LogDamaged (it is used by a newer dcd), Unavailable."""
    with explained(), connect(dsn) as connection:
        if connection.execute("SELECT to_regclass('dcd.farm')").fetchone() != (None,):
            row = connection.execute("SELECT revision FROM farm").fetchone()
            if row and row[0] > schema.REVISION:
                check(connection)
        with connection.transaction():
            new = schema.create(connection)
        check(connection)
    return new


def import_log(dsn: str, file: Path, host: str) -> int:
    """Copy a log in SQLite, which no daemon uses, into the empty log of a farm, as that of the member `host`.
    Returns the number of events. All hashes are verified before and after; in between nothing is visible.
    Raises LogDamaged, Refused (the log is not empty), UsageError, Unavailable."""
    require_name(host)
    if not file.exists():
        raise NotFound(
            f"there is no event log {file}", "", "name the file events.db of a state directory"
        )
    with SqliteLog(file) as log:
        if problems := log.verify_all():
            raise LogDamaged(f"{file} is damaged", "\n".join(problems), "import a backup")
    engine = reading_engine(file)
    try:
        with explained(), connect(dsn) as target, engine.connect() as source:
            check(target)
            with target.transaction():
                _copy(source, target, host)
            count = position_of(target)
    finally:
        engine.dispose()
    return count


def _copy(source: sa.Connection, target: Connection, host: str) -> None:
    owner = schema.owner_of(target)
    assert owner is not None
    target.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(owner)))
    target.execute("SELECT dcd_lock()")
    if position_of(target):
        raise Refused(
            "the event log of the farm is not empty",
            f"it has {position_of(target)} events",
            "import into a new database",
        )
    for table in (events, builds, layer_keys):
        with target.cursor().copy(f"COPY {table.name} FROM STDIN") as copy:
            for row in source.execute(sa.select(table)):
                copy.write_row(tuple(as_stored(dict(row._mapping)).values()))
    target.execute("UPDATE head SET position = (SELECT count(*) FROM events)")
    target.execute("UPDATE farm SET origin = %s", [host])
    target.execute(_PLACEMENTS, {"host": host})
    for (build,) in target.execute("SELECT id FROM builds").fetchall():
        if problems := chain_problems(read_rows(target, build)):
            raise LogDamaged(f"build {build} was not copied as it was", "\n".join(problems))


_PLACEMENTS = """
    INSERT INTO placements
    SELECT DISTINCT ON (build) build, 0, %(host)s, ARRAY(
        SELECT json_array_elements_text(dcd_json(data)->'requires')
        UNION SELECT 'host:' || %(host)s WHERE json_array_length(dcd_json(data)->'inputs') > 0 OR EXISTS (
            SELECT FROM events first WHERE first.build = e.build AND first.sequence = 1
                AND json_typeof(dcd_json(first.data)->'locked') = 'object')
        ORDER BY 1)
    FROM events e
    WHERE type = 'BuildSubmitted'
       OR (type = 'BuildResumed' AND json_typeof(dcd_json(data)->'plan') = 'object')
    ORDER BY build, sequence DESC
"""
"""Captured files, and the packages of locked builds, are on the host whose log it was."""

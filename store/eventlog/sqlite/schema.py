"""Triggers and revisions of a log in SQLite.

Triggers reject every change and removal of an event, and every insert that is not the next event of the
log and of its build, including INSERT OR REPLACE.
`check_schema` compares the database with these declarations, because a migration can silently drop
triggers and constraints. Migrations may only add columns or tables.
"""

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from statemachine.errors import DcdError
from store.eventlog.tables import metadata

APPLICATION_ID = 0x64636431
"""`dcd1` in the file's header: distinguishes an event log from other SQLite databases."""

REVISIONS = ("0001",)
"""Alembic revisions, oldest first; the last one is current."""

TRIGGERS = {
    "events_are_in_order": """
        CREATE TRIGGER events_are_in_order BEFORE INSERT ON events
        WHEN NEW.position IS NOT (SELECT coalesce(max(position), 0) + 1 FROM events)
          OR NEW.sequence IS NOT
             (SELECT coalesce(max(sequence), 0) + 1 FROM events WHERE build = NEW.build)
        BEGIN
          SELECT RAISE(ABORT, 'an event must be the next of the log and of its build');
        END
    """,
    "events_are_never_changed": """
        CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
        BEGIN
          SELECT RAISE(ABORT, 'events are never changed');
        END
    """,
    "events_are_never_removed": """
        CREATE TRIGGER events_are_never_removed BEFORE DELETE ON events
        BEGIN
          SELECT RAISE(ABORT, 'events are never removed');
        END
    """,
}


def check_schema(connection: sa.Connection) -> None:
    """Raise DcdError unless the database has exactly the declared tables, indexes and triggers."""
    rows = connection.exec_driver_sql(
        "SELECT name, sql FROM sqlite_master"
        " WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' AND name != 'alembic_version'"
    )
    found = {name: _normal(sql) for name, sql in rows}
    declared = dict(_declared())
    wrong = sorted(
        name for name in found.keys() | declared.keys() if found.get(name) != declared.get(name)
    )
    if wrong:
        raise DcdError(
            "the schema of the event log differs from this version's",
            f"different or missing: {', '.join(wrong)}",
            "restore a backup, or report it if only dcd has changed the file",
        )


def _declared() -> Iterator[tuple[str, str]]:
    dialect = sqlite.dialect()
    for table in metadata.sorted_tables:
        yield table.name, _normal(str(CreateTable(table).compile(dialect=dialect)))
        for index in table.indexes:
            yield str(index.name), _normal(str(CreateIndex(index).compile(dialect=dialect)))
    for name, sql in TRIGGERS.items():
        yield name, _normal(sql)


def _normal(sql: str) -> str:
    return " ".join(sql.replace('"', "").split())

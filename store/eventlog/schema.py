"""Tables, triggers and revisions of the event log's database.

`events` is authoritative and append-only: triggers reject every change and removal, and every insert
that is not the next event of the log and of its build, including INSERT OR REPLACE. `builds` and
`layer_keys` are projections, written in the same transaction as the events from which they follow.
`check_schema` compares the database with these declarations, because a migration can silently drop
triggers and constraints. Migrations may only add columns or tables.
"""

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from statemachine.codec import PAYLOADS
from statemachine.errors import DcdError

APPLICATION_ID = 0x64636431
"""`dcd1` in the file's header: distinguishes an event log from other SQLite databases."""

REVISIONS = ("0001",)
"""Alembic revisions, oldest first; the last one is current."""

EVENTS_VERSION = sum(payload.VERSION for payload in PAYLOADS.values())
"""Increases with every new event type and every new version of one. The file's user_version is set by
the newest dcd that opened it: an older dcd could not read all events and refuses the file."""

metadata = sa.MetaData()

events = sa.Table(
    "events",
    metadata,
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("build", sa.Text, nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("time", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.UniqueConstraint("build", "sequence"),
    sqlite_strict=True,
)

builds = sa.Table(
    "builds",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("submitted_at", sa.Text, nullable=False),
    sa.Column("updated_at", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("pause_before", sa.Text),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("completed_checkpoints", sa.Integer, nullable=False),
    sa.Column("total_checkpoints", sa.Integer, nullable=False),
    sa.Column("removed", sa.Integer, nullable=False),
    sa.Column("submitted_position", sa.Integer, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

layer_keys = sa.Table(
    "layer_keys",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("build", sa.Text, primary_key=True),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

sa.Index("builds_by_submission", builds.c.submitted_position, unique=True)
sa.Index("builds_by_state", builds.c.state, builds.c.submitted_position)
sa.Index(
    "builds_by_idempotency_key",
    builds.c.idempotency_key,
    unique=True,
    sqlite_where=builds.c.idempotency_key.is_not(None),
)
sa.Index("layer_keys_by_build", layer_keys.c.build)

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

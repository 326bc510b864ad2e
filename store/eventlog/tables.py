"""The tables of the event log, on every database.

`events` is authoritative and append-only. `builds` and `layer_keys` are projections, written in the same
transaction as the events from which they follow. How a database enforces this is its own matter:
`sqlite/schema.py`, `postgresql/schema.py`.
"""

import sqlalchemy as sa

from statemachine.codec import PAYLOADS

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Text that sorts by its bytes: prefixes of ids are ranges, and encoded times sort like times."""

INTEGER = sa.Integer().with_variant(sa.BigInteger, "postgresql")

EVENTS_VERSION = sum(payload.VERSION for payload in PAYLOADS.values())
"""Increases with every new event type and every new version of one. The newest dcd that opened a database
writes it there: an older dcd could not read all events and refuses the database."""

metadata = sa.MetaData()

events = sa.Table(
    "events",
    metadata,
    sa.Column("position", INTEGER, primary_key=True),
    sa.Column("build", TEXT, nullable=False),
    sa.Column("sequence", INTEGER, nullable=False),
    sa.Column("type", TEXT, nullable=False),
    sa.Column("version", INTEGER, nullable=False),
    sa.Column("time", TEXT, nullable=False),
    sa.Column("actor", TEXT, nullable=False),
    sa.Column("data", TEXT, nullable=False),
    sa.Column("hash", TEXT, nullable=False),
    sa.UniqueConstraint("build", "sequence"),
    sqlite_strict=True,
)

builds = sa.Table(
    "builds",
    metadata,
    sa.Column("id", TEXT, primary_key=True),
    sa.Column("name", TEXT, nullable=False),
    sa.Column("state", TEXT, nullable=False),
    sa.Column("reason", TEXT, nullable=False),
    sa.Column("submitted_at", TEXT, nullable=False),
    sa.Column("updated_at", TEXT, nullable=False),
    sa.Column("actor", TEXT, nullable=False),
    sa.Column("priority", INTEGER, nullable=False),
    sa.Column("pause_before", TEXT),
    sa.Column("idempotency_key", TEXT),
    sa.Column("completed_checkpoints", INTEGER, nullable=False),
    sa.Column("total_checkpoints", INTEGER, nullable=False),
    sa.Column("removed", INTEGER, nullable=False),
    sa.Column("submitted_position", INTEGER, nullable=False),
    sa.Column("position", INTEGER, nullable=False),
    sa.Column("sequence", INTEGER, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

layer_keys = sa.Table(
    "layer_keys",
    metadata,
    sa.Column("key", TEXT, primary_key=True),
    sa.Column("build", TEXT, primary_key=True),
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
    postgresql_where=builds.c.idempotency_key.is_not(None),
)
sa.Index("layer_keys_by_build", layer_keys.c.build)

"""The first schema: events, which only grow, and the projections of builds and layer keys."""

from alembic import op

revision = "0001"
down_revision = None

_STATEMENTS = (
    """
    CREATE TABLE events (
        position INTEGER NOT NULL,
        build TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        type TEXT NOT NULL,
        version INTEGER NOT NULL,
        time TEXT NOT NULL,
        actor TEXT NOT NULL,
        data TEXT NOT NULL,
        hash TEXT NOT NULL,
        PRIMARY KEY (position),
        UNIQUE (build, sequence)
    ) STRICT
    """,
    """
    CREATE TABLE builds (
        id TEXT NOT NULL,
        name TEXT NOT NULL,
        state TEXT NOT NULL,
        reason TEXT NOT NULL,
        submitted_at TEXT NOT NULL,
        updated_at TEXT NOT NULL,
        actor TEXT NOT NULL,
        priority INTEGER NOT NULL,
        pause_before TEXT,
        idempotency_key TEXT,
        completed_checkpoints INTEGER NOT NULL,
        total_checkpoints INTEGER NOT NULL,
        removed INTEGER NOT NULL,
        submitted_position INTEGER NOT NULL,
        position INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        PRIMARY KEY (id)
    ) WITHOUT ROWID, STRICT
    """,
    """
    CREATE TABLE layer_keys (
        key TEXT NOT NULL,
        build TEXT NOT NULL,
        PRIMARY KEY (key, build)
    ) WITHOUT ROWID, STRICT
    """,
    "CREATE UNIQUE INDEX builds_by_submission ON builds (submitted_position)",
    "CREATE INDEX builds_by_state ON builds (state, submitted_position)",
    """
    CREATE UNIQUE INDEX builds_by_idempotency_key ON builds (idempotency_key)
    WHERE idempotency_key IS NOT NULL
    """,
    "CREATE INDEX layer_keys_by_build ON layer_keys (build)",
    """
    CREATE TRIGGER events_are_in_order BEFORE INSERT ON events
    WHEN NEW.position IS NOT (SELECT coalesce(max(position), 0) + 1 FROM events)
      OR NEW.sequence IS NOT
         (SELECT coalesce(max(sequence), 0) + 1 FROM events WHERE build = NEW.build)
    BEGIN
      SELECT RAISE(ABORT, 'an event must be the next of the log and of its build');
    END
    """,
    """
    CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
    BEGIN
      SELECT RAISE(ABORT, 'events are never changed');
    END
    """,
    """
    CREATE TRIGGER events_are_never_removed BEFORE DELETE ON events
    BEGIN
      SELECT RAISE(ABORT, 'events are never removed');
    END
    """,
)


def upgrade() -> None:
    """Make the tables, indexes and triggers."""
    for statement in _STATEMENTS:
        op.execute(statement)

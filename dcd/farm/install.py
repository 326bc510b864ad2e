"""The queue's tables in the database of a farm: Procrastinate's own, which members may change.

What a member does to them cannot alter a build: the event log decides (`dcd.farm.jobs`). It can delay builds,
and have others take them.
"""

import procrastinate
from psycopg import sql

from dcd.farm.queue import SCHEMA
from store.eventlog.postgresql.connection import Connection, connect, explained
from store.eventlog.postgresql.schema import group_of, owner_of

GRANTED = (
    "USAGE ON SCHEMA {schema}",
    "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema}",
    "USAGE ON ALL SEQUENCES IN SCHEMA {schema}",
    "EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema}",
)
"""What members may do."""


def create_queue(dsn: str) -> None:
    """Create the tables of the queue where they are missing, as an administrator, in the database of a farm.
    Raises Unavailable."""
    with explained(), connect(dsn) as connection, connection.transaction():
        _create(connection)


def _create(connection: Connection) -> None:
    owner = owner_of(connection)
    assert owner is not None
    schema, group = sql.Identifier(SCHEMA), sql.Identifier(group_of(owner))
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
    connection.execute(sql.SQL("SET LOCAL search_path = {}").format(schema))
    table = f"{SCHEMA}.procrastinate_jobs"
    if connection.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
        manager = procrastinate.App(connector=procrastinate.PsycopgConnector()).schema_manager
        connection.execute(manager.get_schema())
    for granted in GRANTED:
        statement = sql.SQL("GRANT " + granted + " TO {group}")
        connection.execute(statement.format(schema=schema, group=group))

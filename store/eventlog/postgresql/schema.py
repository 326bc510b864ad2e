"""The tables that only a farm has, and what makes a database the log of a farm.

Everything is in the schema `dcd` and belongs to a role without login, DATABASE_owner. Members log in with a
role each, in the group DATABASE_member, which may read the tables and execute the functions of
`functions.sql`, and nothing else.
"""

import secrets
from importlib.resources import files
from typing import Any

import msgspec
import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.dialects import postgresql

from statemachine import events as facts_of
from statemachine.build import Lifecycle
from statemachine.codec import PAYLOADS
from store.eventlog.tables import EVENTS_VERSION, TEXT, metadata

REVISION = 5
"""Of the tables and functions; `dcd farm init` brings a database to it."""

SCHEMA = "dcd"

FACTS = tuple(
    fact.__name__
    for fact in (
        facts_of.BuildPlaced,
        facts_of.BuildStarted,
        facts_of.CheckpointStarted,
        facts_of.ResourceClaimed,
        facts_of.CheckpointReused,
        facts_of.CheckpointCompleted,
        facts_of.LayerDamaged,
        facts_of.CheckpointFailed,
        facts_of.CheckpointInterrupted,
        facts_of.ArtifactPublished,
        facts_of.BuildCompleted,
        facts_of.BuildFailed,
    )
)
"""What only the owner of a build may record."""

of_farm = sa.MetaData()

farm = sa.Table(
    "farm",
    of_farm,
    sa.Column("one", sa.Boolean, sa.CheckConstraint("one"), primary_key=True),
    sa.Column("id", TEXT, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("events_version", sa.BigInteger, nullable=False),
    sa.Column("origin", TEXT, nullable=False, server_default=""),
)
"""`origin` is the member whose log was imported ("": none was): events of that log name no host."""

head = sa.Table(
    "head",
    of_farm,
    sa.Column("one", sa.Boolean, sa.CheckConstraint("one"), primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
)

forms = sa.Table(
    "forms",
    of_farm,
    sa.Column("name", TEXT, primary_key=True),
    sa.Column("version", sa.BigInteger),
    sa.Column("form", postgresql.JSONB, nullable=False),
)
"""What members can read: the types of events in their present versions, and what their data refers to
(`version` is NULL), as JSON Schemas (https://json-schema.org)."""

facts = sa.Table("facts", of_farm, sa.Column("type", TEXT, primary_key=True))

placements = sa.Table(
    "placements",
    of_farm,
    sa.Column("build", TEXT, primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("host", TEXT, nullable=False),
    sa.Column("requires", postgresql.ARRAY(sa.Text), nullable=False),
    sa.Column("moves_to", TEXT),
)
"""Who owns each build; "" and epoch 0 before the first taking. `moves_to` is the member for which it is to
leave its owner ("": any other one); NULL when it is to stay."""

members = sa.Table(
    "members",
    of_farm,
    sa.Column("role", TEXT, primary_key=True),
    sa.Column("host", TEXT, nullable=False, unique=True),
    sa.Column("labels", postgresql.ARRAY(sa.Text), nullable=False),
    sa.Column("announced", postgresql.ARRAY(sa.Text), nullable=False),
    sa.Column("version", TEXT, nullable=False),
    sa.Column("draining", sa.Boolean, nullable=False),
    sa.Column("seen_at", sa.DateTime(timezone=True)),
    sa.Column("unbroken_since", sa.DateTime(timezone=True)),
    sa.Column("clock_ahead_seconds", sa.Double),
)
"""`labels` are what builds may require of the host; only an administrator sets them. `announced` are those
that the host found."""

CALLED_BY_MEMBERS = (
    "dcd_json(text)",
    "dcd_append_all(json)",
    "dcd_take(text, bigint, json, json)",
    "dcd_heartbeat(double precision, text[], text, double precision)",
    "dcd_drain(text, boolean)",
)


Connection = psycopg.Connection[tuple[Any, ...]]


def owner_of(connection: Connection) -> str | None:
    """The role that owns the schema of a farm; None when there is none. The database may have been restored
    under another name."""
    found = connection.execute(
        "SELECT rolname FROM pg_namespace JOIN pg_roles r ON r.oid = nspowner WHERE nspname = %s",
        [SCHEMA],
    ).fetchone()
    return None if found is None else str(found[0])


def group_of(owner: str) -> str:
    """The role whose members are the members of the farm."""
    return f"{owner.removesuffix('_owner')}_member"


def create(connection: Connection) -> bool:
    """Create what is missing for a farm in the database, in the transaction of an administrator. Returns
    whether the database was none of a farm before."""
    database, found = connection.info.dbname, owner_of(connection)
    owning = found or f"{database}_owner"
    for role in (owning, group_of(owning)):
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
    owner, group = sql.Identifier(owning), sql.Identifier(group_of(owning))
    schema = sql.Identifier(SCHEMA)
    statements: list[sql.SQL | sql.Composed] = [
        sql.SQL("GRANT {} TO CURRENT_USER").format(owner),
        sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)),
        sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(database), group),
        sql.SQL("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}").format(schema, owner),
        sql.SQL("SET LOCAL ROLE {}").format(owner),
        sql.SQL("SET LOCAL search_path = {}").format(schema),
        *(sql.SQL(statement) for statement in _tables()),
        *(sql.SQL(statement) for statement in _LATER_COLUMNS),
        sql.SQL(files(__package__).joinpath("functions.sql").read_text()),
        sql.SQL("REVOKE ALL ON ALL TABLES IN SCHEMA {} FROM PUBLIC").format(schema),
        sql.SQL("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {} FROM PUBLIC").format(schema),
        sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, group),
        sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA {} TO {}").format(schema, group),
        *(
            sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(sql.SQL(called), group)
            for called in CALLED_BY_MEMBERS
        ),
    ]
    for statement in statements:
        connection.execute(statement)
    connection.execute("INSERT INTO head VALUES (true, 0) ON CONFLICT DO NOTHING")
    connection.execute(
        "INSERT INTO facts SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING", [list(FACTS)]
    )
    connection.cursor().executemany(
        "INSERT INTO forms VALUES (%s, %s, %s::jsonb) ON CONFLICT (name) DO UPDATE"
        " SET version = excluded.version, form = excluded.form",
        _forms(),
    )
    connection.execute(
        "INSERT INTO farm (one, id, revision, events_version) VALUES (true, %s, %s, %s)"
        " ON CONFLICT (one) DO UPDATE"
        " SET revision = excluded.revision,"
        " events_version = greatest(farm.events_version, excluded.events_version)",
        [secrets.token_hex(8), REVISION, EVENTS_VERSION],
    )
    return found is None


def _forms() -> list[tuple[str, int | None, str]]:
    """The rows of `forms`, from the classes that read events."""
    read = [*PAYLOADS.values(), facts_of.Actor, Lifecycle]
    _, found = msgspec.json.schema_components(read, ref_template="{name}")
    versions = {name: payload.VERSION for name, payload in PAYLOADS.items()}
    return [
        (name, versions.get(name), msgspec.json.encode(form).decode())
        for name, form in found.items()
    ]


_LATER_COLUMNS = (
    "ALTER TABLE members ADD COLUMN IF NOT EXISTS clock_ahead_seconds double precision",
    "ALTER TABLE farm ADD COLUMN IF NOT EXISTS origin text NOT NULL DEFAULT ''",
    "ALTER TABLE placements ADD COLUMN IF NOT EXISTS moves_to text",
)
"""What tables of earlier revisions lack."""


def _tables() -> list[str]:
    """The statements that create the tables and their indexes where they are missing."""
    tables = [table for every in (metadata, of_farm) for table in every.sorted_tables]
    created: list[sa.schema.ExecutableDDLElement] = [
        sa.schema.CreateTable(table, if_not_exists=True) for table in tables
    ]
    for table in tables:
        created += [sa.schema.CreateIndex(each, if_not_exists=True) for each in table.indexes]
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return [str(statement.compile(dialect=dialect)) for statement in created]

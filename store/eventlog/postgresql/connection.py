"""Connections to the database of a farm: how they are made, what is checked, and what errors mean."""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from statemachine.errors import DcdError, Unavailable, UsageError
from store.eventlog.errors import LogDamaged, LogFull
from store.eventlog.postgresql.refusals import why_refused
from store.eventlog.postgresql.schema import REVISION, SCHEMA
from store.eventlog.postgresql.schema import Connection as Connection
from store.eventlog.tables import EVENTS_VERSION

DEFAULTS: dict[str, str] = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    # Milliseconds. Without it a cut network is silence for a quarter of an hour.
    "tcp_user_timeout": "5000",
    "application_name": "dcd",
}
"""Parameters of libpq (https://www.postgresql.org/docs/current/libpq-connect.html) that a DSN may set
otherwise."""

LOCK_SECONDS = 10
"""How long a statement waits for a lock that another program holds."""

LOST = ("08", "57P01", "57P02", "57P03")
"""SQLSTATEs, or their beginnings, of a connection that is gone, or a server that starts or stops."""

INIT = "run `dcd farm init DSN` as the administrator of the database"


def connect(dsn: str) -> Connection:
    """A connection in autocommit. Raises psycopg.Error, UsageError for what is no connection string."""
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise UsageError(
            "the database of the farm is not named by a connection string of libpq",
            str(error),
            "such as: host=db.example dbname=dcd sslmode=verify-full",
        ) from error
    options = (
        f"-c search_path={SCHEMA} -c lock_timeout={LOCK_SECONDS}s"
        r" -c default_transaction_isolation=read\ committed"
    )
    extra = {name: value for name, value in DEFAULTS.items() if name not in given}
    extra["options"] = f"{given.get('options') or ''} {options}".strip()
    return psycopg.connect(make_conninfo(dsn, **extra), autocommit=True)


def connect_to(dsn: str, farm: str) -> Connection:
    """A connection to the database of the farm with this id: under the same address there may be another one
    meanwhile. Raises as `connect`, and LogDamaged."""
    connection = connect(dsn)
    try:
        if (found := farm_of(connection)) != farm:
            raise another_farm(found, farm)
    except BaseException:
        connection.close()
        raise
    return connection


def farm_of(connection: Connection) -> str:
    """The id of the farm of the database; "" when there is none. Raises psycopg.Error."""
    row = connection.execute("SELECT id FROM farm").fetchone()
    return "" if row is None else str(row[0])


def another_farm(found: str, expected: str) -> LogDamaged:
    """The error for a database that is not the one of before."""
    return LogDamaged(
        "the database is that of another farm",
        f"it is {found or 'no farm'}, this host belongs to {expected}",
        "correct [farm] database; to join the other farm, use a new state directory",
    )


def reading_engine(dsn: str, farm: str) -> sa.Engine:
    """A pool of connections that cannot write, each transaction of which sees one state of the log."""
    return sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect_to(dsn, farm),
        isolation_level="REPEATABLE READ",
        pool_size=2,
        max_overflow=6,
        pool_pre_ping=True,
    ).execution_options(postgresql_readonly=True)


def check(connection: Connection) -> str:
    """Refuse a database that is not the log of a farm, is of another version, or may lose what it has
    acknowledged. Returns the id of the farm. Raises LogDamaged, Unavailable."""
    for setting, remedy in _SAFE.items():
        row = connection.execute("SELECT current_setting(%s)", [setting]).fetchone()
        if row == ("off",):
            raise _unsafe(setting, remedy)
    if connection.execute("SHOW transaction_read_only").fetchone() == ("on",):
        raise explain(psycopg.errors.ReadOnlySqlTransaction("transaction_read_only is on"))
    try:
        row = connection.execute("SELECT id, revision, events_version FROM farm").fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise LogDamaged("the database is not that of a farm", str(error), INIT) from error
    if row is None:
        raise LogDamaged("the database is not that of a farm", "its table farm is empty", INIT)
    farm, revision, events_version = row
    details = (
        f"its revision is {revision} and its events' {events_version};"
        f" this version's are {REVISION} and {EVENTS_VERSION}"
    )
    if revision > REVISION or events_version > EVENTS_VERSION:
        raise LogDamaged(
            "the database of the farm is used by a newer dcd",
            details,
            "install the newer version here too",
        )
    if revision < REVISION or events_version < EVENTS_VERSION:
        # Members must not be able to do this: one that was stolen could keep all others out.
        raise LogDamaged("the database of the farm is older than this dcd", details, INIT)
    return str(farm)


_SAFE = {
    "synchronous_commit": "ALTER DATABASE ... SET synchronous_commit = on, and the same for the role",
    "fsync": "set fsync = on in postgresql.conf and reload the server",
    "full_page_writes": "set full_page_writes = on in postgresql.conf and reload the server",
}
"""Settings without which acknowledged events can be lost, or the database damaged, in a crash."""


def _unsafe(setting: str, remedy: str) -> Unavailable:
    return Unavailable(
        "the database of the farm may lose what it has acknowledged",
        f"{setting} is off",
        remedy,
    )


def is_lost(error: BaseException) -> bool:
    """Whether an error says that the connection is gone: what was under way may have happened."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if not isinstance(cause, psycopg.Error):
        return False
    if cause.sqlstate is None:
        return isinstance(cause, psycopg.OperationalError)
    return cause.sqlstate.startswith(LOST)


def explain(error: BaseException) -> DcdError:
    """The error for people of an error of the database."""
    if isinstance(error, DcdError):
        return error
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    state = getattr(cause, "sqlstate", None) or ""
    # Without its context: the statements in our functions.
    primary = cause.diag.message_primary if isinstance(cause, psycopg.Error) else None
    # Where OpenSSL has no reason, libpq's message contains arbitrary bytes.
    message = primary or str(cause)
    told = "".join(each if each.isprintable() or each in "\n\t" else "?" for each in message)
    details = told.strip() or type(cause).__name__
    if not state and (refused := why_refused(details, _user())):
        return Unavailable(refused[0], details, refused[1])
    if not state and "FATAL" in details:  # libpq gives no SQLSTATE for a refused connection
        return Unavailable(
            "the database of the farm refuses the connection",
            details,
            f"correct [farm] database, or {INIT} and `dcd farm member add`",
        )
    known = next((told for start, told in _ERRORS if state.startswith(start)), None)
    if known is None and state and not is_lost(error):
        return Unavailable("the database of the farm refuses a statement", f"{state}: {details}")
    kind, brief, remedy = known or _GONE
    return kind(brief, details, remedy)


def _user() -> str:
    """The user as which this process reads the files of its certificate: its name, or else its number."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


@contextmanager
def explained() -> Iterator[None]:
    """Turn errors of the database into errors for people."""
    try:
        yield
    except (psycopg.Error, sa.exc.DBAPIError) as error:
        raise explain(error) from error


_GONE = (
    Unavailable,
    "the database of the farm cannot be reached",
    "start it, or repair the network; dcd connects again by itself",
)
_ERRORS: tuple[tuple[str, tuple[type[Unavailable], str, str]], ...] = (
    ("53100", (LogFull, "the disk of the farm's database is full", "free some space there")),
    (
        "25006",
        (
            Unavailable,
            "the database of the farm is read-only",
            "end that, or name the primary server (of several: target_session_attrs=read-write)",
        ),
    ),
    ("3F000", (LogDamaged, "the database is not that of a farm", INIT)),
    ("42P01", (LogDamaged, "the database is not that of a farm", INIT)),
    ("42883", (LogDamaged, "the database is not that of a farm", INIT)),
    (
        "42501",
        (
            Unavailable,
            "this role may not do this in the database of the farm",
            "add the host with `dcd farm member add`; that needs an administrator of the database",
        ),
    ),
    ("DC005", (Unavailable, "this host is no member of the farm", "see `dcd farm member add`")),
    (
        "DC008",
        (
            Unavailable,
            "the database of the farm may lose what it has acknowledged",
            "turn these settings on again",
        ),
    ),
    (
        "55P03",
        (
            Unavailable,
            "another program locks the event log",
            "look for it in pg_stat_activity, and end its transaction",
        ),
    ),
    (
        "XX00",
        (
            LogDamaged,
            "the database of the farm is damaged",
            "look for the cause in the server's log, then restore a backup",
        ),
    ),
)

"""The members of a farm, as the database knows them. Times are by the database's clock only.

An administrator adds and removes members; a member says that it lives, and sees the others.
"""

import re
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from statemachine.build import ENDED, WORKING
from statemachine.errors import NotFound, Unavailable, UsageError
from store.eventlog.postgresql.connection import Connection, check, connect, explained
from store.eventlog.postgresql.schema import group_of, owner_of

HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,57}[a-z0-9])?")
"""PostgreSQL cuts the names of roles off after 63 bytes, and a role's is four longer than its host's."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member. `labels` are what builds may require of it, by the administrator's word; `announced` those
    that it found itself. `silent_seconds` since its last heartbeat (None: it has sent none),
    `unbroken_seconds` since its heartbeats follow each other without a gap. `builds` are the unfinished ones
    that it owns, `working` those of them that work; `members_by` fills both in. `clock_ahead_seconds` is how
    far its clock is ahead of the database's, as its last heartbeat said (None: it has sent none, or is of an
    earlier version)."""

    role: str
    host: str
    labels: list[str]
    announced: list[str]
    version: str
    draining: bool
    silent_seconds: float | None
    unbroken_seconds: float
    builds: list[str] = field(default_factory=list)
    clock_ahead_seconds: float | None = None
    working: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an unfinished build is: `host` is "" and `epoch` 0 before it was taken. `moves_to` as in
    `BuildState`."""

    build: str
    state: str
    priority: int
    host: str
    epoch: int
    requires: list[str]
    moves_to: str | None


@dataclass(frozen=True, slots=True)
class Added:
    """A new member: the role that it logs in with."""

    role: str
    host: str
    labels: tuple[str, ...]


def role_of(host: str) -> str:
    """The role of a host."""
    return f"dcd-{host}"


def require_name(host: str) -> None:
    """Raise UsageError for what is no name of a host."""
    if not HOST.fullmatch(host):
        raise UsageError(
            f"{host!r} is no name of a host",
            "",
            "use at most 59 lower-case letters, digits, dots and dashes",
        )


def add(dsn: str, host: str, labels: Sequence[str]) -> Added:
    """Add a member, or change its labels. It logs in as `role_of`, with a client certificate (pg_hba.conf:
    `hostssl dcd +dcd_member all cert`), or a password that the administrator gives the role. Raises
    UsageError, LogDamaged, Unavailable."""
    require_name(host)
    role = role_of(host)
    with _administering(dsn) as (connection, group), connection.transaction():
        name, joined = sql.Identifier(role), sql.Identifier(group)
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
        connection.execute(sql.SQL("GRANT {} TO {}").format(joined, name))
        connection.execute(
            "INSERT INTO members (role, host, labels, announced, version, draining)"
            " VALUES (%s, %s, %s, '{}', '', false)"
            " ON CONFLICT (role) DO UPDATE SET labels = excluded.labels",
            [role, host, sorted(set(labels))],
        )
    return Added(role, host, tuple(sorted(set(labels))))


def remove(dsn: str, host: str) -> None:
    """Remove a member and its role. Its builds are taken by others. Raises NotFound, LogDamaged,
    Unavailable."""
    with _administering(dsn) as (connection, group), connection.transaction():
        gone = connection.execute("DELETE FROM members WHERE host = %s RETURNING role", [host])
        row = gone.fetchone()
        if row is None:
            raise NotFound(f"there is no member {host}", "", "`dcd farm member list` shows them")
        name, joined = sql.Identifier(row[0]), sql.Identifier(group)
        connection.execute(sql.SQL("REVOKE {} FROM {}").format(joined, name))
        with_others = "SELECT 1 FROM pg_auth_members WHERE member = %s::regrole"
        quoted = name.as_string(connection)
        if not connection.execute(with_others, [quoted]).fetchone():
            connection.execute(sql.SQL("DROP ROLE {}").format(name))


def members(dsn: str) -> list[Member]:
    """All members, by host. Raises LogDamaged, Unavailable."""
    with explained(), connect(dsn) as connection:
        check(connection)
        return members_by(connection)


def members_by(connection: Connection) -> list[Member]:
    """The same over a connection that is there. Raises psycopg.Error."""
    with connection.cursor(row_factory=class_row(Member)) as cursor:
        return cursor.execute(_MEMBERS).fetchall()


def some_by(
    connection: Connection, hosts: Collection[str], announcing: Collection[str]
) -> list[Member]:
    """These hosts, and those that announce one of these labels, by host and without their builds. Raises
    psycopg.Error."""
    given = {"hosts": sorted(hosts), "announcing": sorted(announcing)}
    with connection.cursor(row_factory=class_row(Member)) as cursor:
        return cursor.execute(_SOME, given).fetchall()


def own_host(connection: Connection) -> str:
    """The name of the member whose role this connection has. Raises Unavailable for one that is none,
    psycopg.Error."""
    found = connection.execute("SELECT host FROM members WHERE role = session_user").fetchone()
    if found is None:
        raise Unavailable(
            "this host is no member of the farm",
            f"the database does not know the role {connection.info.user}",
            "as its administrator: dcd farm member add HOST LABEL...",
        )
    return str(found[0])


def placements(dsn: str) -> list[Placement]:
    """Where the unfinished builds are, oldest first. Raises LogDamaged, Unavailable."""
    with explained(), connect(dsn) as connection:
        check(connection)
        return placements_by(connection)


def placements_by(connection: Connection) -> list[Placement]:
    """The same over a connection that is there. Raises psycopg.Error."""
    with connection.cursor(row_factory=class_row(Placement)) as cursor:
        return cursor.execute(_PLACEMENTS).fetchall()


def heartbeat(
    connection: Connection, gap_seconds: float, labels: Sequence[str], version: str
) -> None:
    """Say that this member lives. A longer gap since its last one begins its unbroken time anew. Raises
    psycopg.Error."""
    given = [gap_seconds, list(labels), version, time.time()]
    connection.execute("SELECT dcd_heartbeat(%s, %s, %s, %s)", given)


def lost(connection: Connection, lost_seconds: float) -> list[str]:
    """The hosts that own unfinished builds and have been silent for so long, as far as this member may judge:
    its own heartbeats were unbroken and the server was up for as long. Otherwise none. One whose log was
    imported is not lost before it has joined. Raises psycopg.Error."""
    return [str(row[0]) for row in connection.execute(_LOST, {"seconds": lost_seconds})]


def drain(dsn: str, host: str, draining: bool) -> None:
    """Let a member take no more builds, or take them again. Raises NotFound, Unavailable."""
    try:
        with explained(), connect(dsn) as connection:
            connection.execute("SELECT dcd_drain(%s, %s)", [host, draining])
    except Unavailable as error:
        if isinstance(error.__cause__, psycopg.Error) and error.__cause__.sqlstate == "DC005":
            raise no_member(host) from error
        raise


def no_member(host: str) -> NotFound:
    """The error for a host that is no member, for users."""
    return NotFound(f"there is no member {host}", "", "`dcctl hosts` shows them")


@contextmanager
def _administering(dsn: str) -> Iterator[tuple[Connection, str]]:
    """A connection of an administrator to the database of a farm, and the group of its members."""
    with explained(), connect(dsn) as connection:
        check(connection)
        owner = owner_of(connection)
        assert owner is not None
        yield connection, group_of(owner)


def among(states: Iterable[str]) -> str:
    """A list of states in SQL: `('queued', 'running')`."""
    return f"({', '.join(repr(str(each)) for each in sorted(states))})"


_UNFINISHED = f"b.state NOT IN {among(ENDED)}"
_OF_MEMBER = "SELECT b.id FROM builds b JOIN placements p ON p.build = b.id WHERE p.host = m.host"
_OWNED = f"{_OF_MEMBER} AND {_UNFINISHED} ORDER BY b.submitted_position"
_WORKING = f"{_OF_MEMBER} AND b.state IN {among(WORKING)} ORDER BY b.submitted_position"
_COLUMNS = """
    role, host, labels, announced, version, draining,
    extract(epoch FROM now() - seen_at)::float8 AS silent_seconds,
    coalesce(extract(epoch FROM now() - unbroken_since), 0)::float8 AS unbroken_seconds, clock_ahead_seconds
"""
_MEMBERS = f"""
    SELECT {_COLUMNS}, ARRAY({_OWNED}) AS builds, ARRAY({_WORKING}) AS working FROM members m ORDER BY host
"""
_SOME = f"""
    SELECT {_COLUMNS} FROM members WHERE host = ANY(%(hosts)s) OR announced && %(announcing)s::text[]
    ORDER BY host
"""
_PLACEMENTS = f"""
    SELECT p.build, b.state, b.priority, p.host, p.epoch, p.requires, p.moves_to
    FROM placements p JOIN builds b ON b.id = p.build
    WHERE {_UNFINISHED} ORDER BY b.submitted_position
"""
_LOST = f"""
    WITH long AS (SELECT now() - make_interval(secs => %(seconds)s) AS ago)
    SELECT DISTINCT p.host FROM long, placements p
    JOIN builds b ON b.id = p.build AND {_UNFINISHED}
    LEFT JOIN members m ON m.host = p.host
    WHERE (m.seen_at < long.ago OR (m.seen_at IS NULL AND p.epoch > 0))
      AND pg_postmaster_start_time() < long.ago
      AND EXISTS (SELECT FROM members me
                  WHERE me.role = session_user AND me.unbroken_since < long.ago AND me.seen_at > long.ago)
    ORDER BY p.host
"""

"""The event log in PostgreSQL, shared by the members of a farm. Documented in `store.eventlog.interface`.

Only a farm imports this package: it needs psycopg, which `pip install dcd[farm]` brings.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psycopg
import sqlalchemy as sa

from statemachine.errors import DcdError, Refused
from statemachine.events import Actor, BuildPlaced, Event
from store.eventlog import projection
from store.eventlog.errors import Conflict, LogDamaged
from store.eventlog.high_water import HighWater
from store.eventlog.interface import May, OnCommit, whatever
from store.eventlog.postgresql.connection import (
    Connection,
    another_farm,
    check,
    connect,
    connect_to,
    explain,
    explained,
    is_lost,
    reading_engine,
)
from store.eventlog.postgresql.listener import Listener
from store.eventlog.postgresql.members import Member, Placement, members_by, placements_by
from store.eventlog.postgresql.writer import (
    PostgresqlWriter,
    as_stored,
    fold,
    prepare,
)
from store.eventlog.queries import Queries, no_build
from store.eventlog.tables import events
from store.eventlog.writer import Append, Part
from store.host.durable import write_file

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

PAGE_BYTES = 32 << 20
"""Of events that are read at once; the last one may be over it."""

TRIES = 3
"""Of a taking, when people give commands to the build meanwhile."""


class PostgresqlLog(Queries):
    """The log in the database `dsn` (a connection string of libpq).

    `directory` keeps what belongs to this host: which farm it belongs to, and the position that it has
    seen, so that a database restored from an older backup is noticed. Raises LogDamaged for a database
    of no farm, of another farm or of another version, Unavailable when it cannot be used.
    """

    restoring = "restore a backup of the farm's database that has them (docs/how-to/the-database-is-down.md)"

    def __init__(self, dsn: str, directory: Path, on_commit: OnCommit | None = None) -> None:
        self.path = self.directory = directory
        self._dsn = dsn
        high_water = HighWater(directory / "farm")
        with explained():
            connection = connect(dsn)
            try:
                self.farm = check(connection)
                row = connection.execute("SELECT origin FROM farm").fetchone()
                self.origin = str(row[0]) if row else ""
                """The member whose log was imported: events without a host are of it."""
                _belong(directory, self.farm)
                self._writer = PostgresqlWriter(dsn, self.farm, connection, high_water, on_commit)
            except BaseException:
                connection.close()
                raise
        self.lost = max(0, high_water.read() - self._writer.position)
        self._readers = reading_engine(dsn, self.farm)
        self._listener = Listener(dsn, self.farm, self._writer)
        self.append = self._writer.append
        self.append_together = self._writer.append_together

    def close(self) -> None:
        self._listener.close()
        self._writer.close()
        self._readers.dispose()

    def size_bytes(self) -> int:
        return 0

    def verify_projection(self) -> list[str]:
        with self._reading() as connection:
            return projection.verify(connection, as_stored)

    def backup(self, target: Path) -> None:
        raise Refused(
            "the event log of a farm is in its database",
            "",
            "back the database up with its own means, such as pg_dump",
        )

    def read(self, build: str | None = None, after: int = 0, limit: int = 1000) -> list[Event]:
        if build is not None:
            return super().read(build, after, limit)
        while True:
            rows = self._page(None, after, limit)
            found = [event for row in rows if (event := _readable(row))]
            if found or not rows:
                return found
            after = rows[-1].position

    def _page(self, build: str | None, after: int, limit: int) -> Sequence[Any]:
        """As many rows as are read at once: no more than `PAGE_BYTES` before the last one. An event may have
        16 MiB, and a member could append them by the thousand."""
        sizes = sa.select(events.c.position, sa.func.octet_length(events.c.data).label("size"))
        sizes = sizes.where(events.c.position > after)
        if build is not None:
            sizes = sizes.where(events.c.build == build)
        few = sizes.order_by(events.c.position).limit(limit).subquery()
        summed = sa.func.sum(few.c.size).over(order_by=few.c.position) - few.c.size
        before = sa.select(few.c.position, summed.label("before")).subquery()
        query = sa.select(events).join(before, before.c.position == events.c.position)
        query = query.where(before.c.before < PAGE_BYTES).order_by(events.c.position)
        with self._reading() as connection:
            return connection.execute(query).all()

    def members(self) -> list[Member]:
        """The members of the farm, by host. Raises Unavailable."""
        return self._asked(members_by)

    def placements(self) -> list[Placement]:
        """Where the unfinished builds are, oldest first. Raises Unavailable."""
        return self._asked(placements_by)

    def _asked(self, ask: Callable[[Connection], Answer]) -> Answer:
        with self._reading() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            return ask(driver)

    def take(self, build: str, host: str, may: May = whatever) -> int:
        with explained(), connect_to(self._dsn, self.farm) as connection:
            started_at = None
            for _ in range(TRIES):
                state = fold(connection, build)
                if state is None:
                    raise no_build(build)
                if started_at is None:
                    started_at = state.epoch
                if state.epoch != started_at:
                    break
                if not may(state):
                    raise Refused(f"build {build} is for another member than {host}")
                request = Append((), Actor(), datetime.now(UTC))
                placed = BuildPlaced(host, state.epoch + 1)
                sent = prepare(request, Part(build, state.sequence, (placed,)), state).sent
                given = (build, state.sequence, _json(sent["events"]), _json(sent["row"]))
                try:
                    connection.execute("SELECT dcd_take(%s, %s, %s::json, %s::json)", given)
                except psycopg.Error as error:
                    if is_lost(error):
                        if self._took(build, placed):
                            return placed.epoch
                        raise
                    if error.sqlstate != "DC002":
                        raise _refused(build, host, error) from error
                else:
                    return placed.epoch
            raise Conflict(f"another member has taken build {build} at the same time")

    def _took(self, build: str, placed: BuildPlaced) -> bool:
        """Whether a taking is in the log whose answer was lost."""
        return any(event.data == placed for event in self.read_build(build))

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        try:
            with explained(), self._readers.connect() as connection:
                yield connection
        except LogDamaged:
            # The sessions of a role that was removed, and added again, see no tables.
            self._readers.dispose()
            raise


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _readable(row: Any) -> Event | None:
    """The event of a row; None for one that cannot be read, which the error log names."""
    try:
        return projection.event_of(row)
    except DcdError as error:
        logger.error("event %s of build %s cannot be read: %s", row.sequence, row.build, error)
        return None


def require_same(directory: Path, farm: str) -> bool:
    """Compare the farm with the one to which this host belongs by its `directory`. Returns whether it belongs
    to one. Raises LogDamaged."""
    file = directory / "farm"
    if not file.exists():
        return False
    if (known := file.read_text().strip()) != farm:
        raise another_farm(farm, known)
    return True


def _belong(directory: Path, farm: str) -> None:
    """Remember the farm of this host, or compare it. Raises LogDamaged."""
    if not require_same(directory, farm):
        write_file(directory / "farm", f"{farm}\n".encode())


def _refused(build: str, host: str, error: psycopg.Error) -> DcdError:
    why = str(error.diag.message_primary)
    match error.sqlstate:
        case "DC006":
            return Refused(f"build {build} cannot be taken", why)
        case "DC007":
            return Refused(
                f"{host} may not take build {build}",
                f"it lacks: {why}",
                f"if it has them, let an administrator say so: `dcd farm member add {host} LABEL...`",
            )
        case "DC009":
            return Refused(why, "", f"`dcctl hosts resume {host}`")
    return explain(error)

"""The event log: the append-only record of all builds.

Exactly one `EventLog` is open for a file, as a context manager; the daemon's lock on its state
directory ensures it. `append` may be called from any thread and returns at once; when its future has a
result, the events are on disk. All other methods read, block, may be called from any thread, and see
all events committed before the call. Followers only need `read(after=...)`; `on_commit` signals new
events. The cost does not depend on the number of ended builds, except for `verify_all`.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import msgspec
import sqlalchemy as sa

from statemachine.build import ENDED, Lifecycle, submission_key
from statemachine.codec import FIRST_HASH, HASHED, decode_actor, event_hash
from statemachine.errors import DcdError, NotFound, Unavailable
from statemachine.events import (
    BuildResumed,
    BuildSubmitted,
    CheckpointCompleted,
    CheckpointReused,
    Event,
)
from store.eventlog import database, projection
from store.eventlog.errors import LogDamaged
from store.eventlog.high_water import HighWater
from store.eventlog.projection import BuildSummary
from store.eventlog.reserve import Reserve
from store.eventlog.schema import builds, events, layer_keys
from store.eventlog.writer import Writer

UNFINISHED = tuple(state for state in Lifecycle if state not in ENDED)
"""States that are not final."""


class EventLog:
    """The log in the file `path`; created when it does not exist, migrated when it is older.

    `on_commit` is called after each commit with the last position and the duration in seconds, on the
    writer's thread: it must return at once (`loop.call_soon_threadsafe`). Raises LogDamaged for a file
    that is foreign, truncated, corrupt or newer, Unavailable when it cannot be used.
    """

    def __init__(self, path: Path, on_commit: Callable[[int, float], None] | None = None) -> None:
        self.path = path
        reserve = Reserve(path.with_name(f"{path.name}.reserve"))
        self._connection = _open(path, reserve)
        try:
            with database.explained(path):
                self._writer = Writer(self._connection, reserve, HighWater(path), on_commit)
        except BaseException:
            database.close(self._connection)
            raise
        self._readers = database.reading_engine(path)
        self.lost = max(0, HighWater(path).read() - self._writer.position)
        """The number of committed events that were missing when the log was opened."""
        self.append = self._writer.append
        """See `Writer.append`."""
        self.append_together = self._writer.append_together
        """See `Writer.append_together`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write all queued events, then close the file. Idempotent."""
        self._writer.close()
        self._readers.dispose()
        database.close(self._connection)

    @property
    def position(self) -> int:
        """Position of the last event on disk; 0 for an empty log."""
        return self._writer.position

    @property
    def trouble(self) -> DcdError | None:
        """The reason why appends fail or soon will: LogFailed, LogFull; None when healthy."""
        return self._writer.trouble

    def read(self, build: str | None = None, after: int = 0, limit: int = 1000) -> list[Event]:
        """Up to `limit` events with a position greater than `after`, in order, of one build or all."""
        query = sa.select(events).where(events.c.position > after)
        if build is not None:
            query = query.where(events.c.build == build)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(events.c.position).limit(limit))
            return [projection.event_of(row) for row in rows]

    def read_build(self, build: str) -> list[Event]:
        """All events of a build, verified. Raises NotFound, LogDamaged."""
        rows = self._rows(build)
        if not rows:
            raise NotFound(f"there is no build {build}")
        if problems := _chain_problems(rows):
            raise LogDamaged(
                f"the events of build {build} are damaged",
                "\n".join(problems),
                "restore a backup of the event log",
            )
        return [projection.event_of(row) for row in rows]

    def completed(self, build: str) -> list[Event]:
        """The events CheckpointCompleted of a build, in order; none when there is no such build."""
        query = sa.select(events).where(
            events.c.build == build, events.c.type == CheckpointCompleted.__name__
        )
        with self._reading() as connection:
            rows = connection.execute(query.order_by(events.c.sequence))
            return [projection.event_of(row) for row in rows]

    def verify(self, build: str) -> list[str]:
        """The problems with the events of a build: gaps, altered events, missing last events, a
        different count in the list of builds. Empty when there are none. Raises NotFound."""
        rows = self._rows(build)
        with self._reading() as connection:
            summary = connection.execute(sa.select(builds).where(builds.c.id == build)).first()
        if not rows and summary is None:
            raise NotFound(f"there is no build {build}")
        problems = _chain_problems(rows)
        for row in rows:
            try:
                projection.event_of(row)
            except (DcdError, ValueError) as error:
                problems.append(f"event {row.sequence} cannot be read: {error}")
        last = rows[-1].sequence if rows else 0
        if summary is None or summary.sequence > last:
            listed = "no" if summary is None else summary.sequence
            problems.append(f"the list of builds has {listed} events, the log has {last}")
        return problems

    def verify_all(self) -> list[str]:
        """The problems with the events of all builds and with the projections. Reads every event."""
        with self._reading() as connection:
            known = connection.execute(sa.union(sa.select(builds.c.id), sa.select(events.c.build)))
            names = list(known.scalars())
        problems = [f"build {name}: {what}" for name in names for what in self.verify(name)]
        return problems or self.verify_projection()

    def verify_projection(self) -> list[str]:
        """The differences between the projections and the events. Reads every event."""
        with self._reading() as connection:
            return projection.verify(connection)

    def list_builds(
        self,
        states: Collection[str] | None = None,
        limit: int = 100,
        before: int | None = None,
        name: str | None = None,
        group: str | None = None,
    ) -> list[BuildSummary]:
        """Builds that are not removed, newest first, in these states, of that name and of the group that a
        unique prefix names, if given; `before` is the `submitted_position` of the last build on the previous
        page. Raises NotFound for a prefix of no group, or of several."""
        query = sa.select(builds).where(builds.c.removed == 0)
        if states is not None:
            query = query.where(builds.c.state.in_([str(state) for state in states]))
        if before is not None:
            query = query.where(builds.c.submitted_position < before)
        if name is not None:
            query = query.where(builds.c.name == name)
        if group is not None:
            first, last = _ids_of(self.resolve_group(group))
            query = query.where(builds.c.id >= first, builds.c.id < last)
        return self._summaries(query.order_by(builds.c.submitted_position.desc()).limit(limit))

    def newest_completed(self, names: Collection[str]) -> dict[tuple[str, str], tuple[int, str]]:
        """The newest completed build, not removed, of each of these names and of each cell of a group, which
        the end of an id stands for: `submitted_position` and id."""
        newest = sa.func.max(builds.c.submitted_position)
        dash = sa.func.instr(builds.c.id, "-")
        cell = sa.case((dash > 0, sa.func.substr(builds.c.id, dash + 1)), else_="").label("cell")
        query = sa.select(builds.c.name, cell, newest, builds.c.id).where(
            builds.c.state == str(Lifecycle.COMPLETED),
            builds.c.removed == 0,
            builds.c.name.in_(list(names)),
        )
        with self._reading() as connection:
            rows = connection.execute(query.group_by(builds.c.name, cell))
            # Source: SQLite, "bare columns in an aggregate query": those of the row with the maximum.
            return {(name, of): (position, build) for name, of, position, build in rows}

    def unfinished(self) -> list[BuildSummary]:
        """Builds that have not ended, oldest first. A daemon loads these when it starts."""
        query = sa.select(builds).where(builds.c.state.in_([str(state) for state in UNFINISHED]))
        return self._summaries(query.order_by(builds.c.submitted_position))

    def ended_counts(self) -> dict[Lifecycle, int]:
        """The number of ended builds by state, including removed ones. Reads an index only."""
        ended = [str(state) for state in Lifecycle if state not in UNFINISHED]
        query = sa.select(builds.c.state, sa.func.count()).where(builds.c.state.in_(ended))
        with self._reading() as connection:
            rows = connection.execute(query.group_by(builds.c.state))
            return {Lifecycle(state): count for state, count in rows}

    def summary(self, build: str) -> BuildSummary:
        """The summary of a build, even a removed one. Raises NotFound."""
        found = self._summaries(sa.select(builds).where(builds.c.id == build))
        if not found:
            raise NotFound(f"there is no build {build}")
        return found[0]

    def resolve_prefix(self, prefix: str) -> str:
        """The id of the build that a unique prefix names. Raises NotFound for none or several."""
        after_all = prefix + chr(0x10FFFF)
        query = sa.select(builds.c.id).where(builds.c.id >= prefix, builds.c.id < after_all)
        with self._reading() as connection:
            ids = list(connection.execute(query.order_by(builds.c.id).limit(6)).scalars())
        if prefix and prefix in ids:
            return prefix
        if not ids or not prefix:
            raise NotFound(f"there is no build {prefix}", "", "`dcctl list` shows the builds")
        if len(ids) > 1:
            more = ", ..." if len(ids) > 5 else ""
            raise NotFound(
                f"{prefix} names more than one build",
                ", ".join(ids[:5]) + more,
                "give a longer prefix",
            )
        return str(ids[0])

    def resolve_group(self, prefix: str) -> str:
        """The group that a unique prefix names. Raises NotFound for none or several."""
        dash = sa.func.instr(builds.c.id, "-")
        named = sa.func.substr(builds.c.id, 1, dash - 1)
        among = (builds.c.id >= prefix, builds.c.id < prefix + chr(0x10FFFF), dash > 0)
        with self._reading() as connection:
            found = list(connection.execute(sa.select(named).where(*among).distinct().limit(6)))
        groups = [str(row[0]) for row in found if prefix and "-" not in prefix]
        if prefix in groups:
            groups = [prefix]
        if len(groups) != 1:
            raise NotFound(
                f"{prefix} names more than one group" if groups else f"there is no group {prefix}",
                ", ".join(groups),
                "give a longer prefix" if groups else "`dcctl list` shows the builds",
            )
        return groups[0]

    def group(self, prefix: str) -> tuple[str, list[tuple[BuildSummary, dict[str, str]]]]:
        """The group that a unique prefix names, and its builds, also removed ones, in the order of the
        submit, each with its cell. Raises NotFound for none or several."""
        group = self.resolve_group(prefix)
        first, last = _ids_of(group)
        inside = sa.select(builds).where(builds.c.id >= first, builds.c.id < last)
        cell = sa.func.json_extract(events.c.data, "$.cell")
        cells = sa.select(events.c.build, cell).where(
            events.c.build >= first, events.c.build < last, events.c.sequence == 1
        )
        summaries = self._summaries(inside.order_by(builds.c.submitted_position))
        with self._reading() as connection:
            known = {
                build: dict(msgspec.json.decode(text)) for build, text in connection.execute(cells)
            }
        return group, [(each, known[each.id]) for each in summaries]

    def by_idempotency_key(self, uid: int | None, key: str) -> str | None:
        """The id of the build that this user submitted with this key."""
        # Version 0.1.0 stored keys without their user.
        wanted = builds.c.idempotency_key.in_((submission_key(uid, key), key))
        query = sa.select(builds.c.id, builds.c.actor).where(wanted)
        with self._reading() as connection:
            for build, actor in connection.execute(query):
                if decode_actor(actor).uid == uid:
                    return str(build)
        return None

    def known_builds(self, among: Collection[str]) -> set[str]:
        """The ids in `among` that are builds, including removed ones."""
        return self._known(builds.c.id, among)

    def removed_among(self, names: Collection[str]) -> set[str]:
        """The ids in `names` that are removed builds."""
        return self._known(builds.c.id, names, builds.c.removed == 1)

    def known_keys(self, among: Collection[str]) -> set[str]:
        """The layer keys in `among` that an event of a build that is not removed names."""
        return self._known(layer_keys.c.key, among)

    def resolved_lists(self, without: Collection[str] = ()) -> set[str]:
        """The lists of packages (CheckpointCompleted.resolved) of all builds that are neither removed nor
        cancelled, and those that builds which have not ended are locked to (BuildSubmitted.locked); not of
        the builds `without`."""
        # As one JSON text: SQLite limits the number of parameters of a statement.
        left_out = sa.func.json_each(msgspec.json.encode(list(without)).decode()).table_valued(
            "value"
        )
        counts = builds.c.id.not_in(sa.select(left_out.c.value))
        named = sa.func.json_extract(events.c.data, "$.resolved")
        resolved = (
            sa.select(named)
            .select_from(events.join(builds, builds.c.id == events.c.build))
            .where(
                events.c.type.in_((CheckpointCompleted.__name__, CheckpointReused.__name__)),
                builds.c.removed == 0,
                builds.c.state != Lifecycle.CANCELLED.value,
                named != "",
                counts,
            )
        )
        locked = _in_kept_builds(BuildSubmitted, "$.locked.lists")
        locked = locked.where(builds.c.state.in_(UNFINISHED), counts)
        with self._reading() as connection:
            return set(connection.execute(sa.union(resolved, locked)).scalars())

    def locked_builds_of_others(self, users: Collection[int]) -> set[str]:
        """The ids of builds, removed ones included, that users other than these have locked to lists of
        packages from the package store: they may have brought the lists themselves."""
        user = sa.func.json_extract(builds.c.actor, "$.uid")
        query = (
            sa.select(builds.c.id)
            .select_from(events.join(builds, builds.c.id == events.c.build))
            .where(
                events.c.type == BuildSubmitted.__name__,
                sa.func.json_array_length(events.c.data, "$.locked.lists") > 0,
                sa.func.coalesce(sa.func.json_extract(events.c.data, "$.locked.fetch"), 0) == 0,
                user.not_in(users),
            )
        )
        with self._reading() as connection:
            return set(connection.execute(query).scalars())

    def inputs(self) -> set[str]:
        """The digests of the captured inputs of all builds that are neither removed nor cancelled, and of
        the uploaded content manifests that rebuilds among them are compared with."""
        query = sa.union(
            _in_kept_builds(BuildSubmitted, "$.inputs", "$.sha256"),
            _in_kept_builds(BuildResumed, "$.inputs", "$.sha256"),
            _in_kept_builds(BuildSubmitted, "$.rebuild.manifests"),
        )
        with self._reading() as connection:
            return set(connection.execute(query).scalars())

    def backup(self, target: Path) -> None:
        """Write a consistent copy to the new file `target`, while builds continue. Raises
        Unavailable."""
        database.backup(self.path, target)

    def _known(
        self, column: sa.Column[str], among: Collection[str], *conditions: sa.ColumnElement[bool]
    ) -> set[str]:
        """The values in `among` that the column has in rows that meet the conditions."""
        # As one JSON text: SQLite limits the number of parameters of a statement.
        values = sa.func.json_each(msgspec.json.encode(list(among)).decode()).table_valued("value")
        query = sa.select(column).where(column.in_(sa.select(values.c.value)), *conditions)
        with self._reading() as connection:
            return set(connection.execute(query).scalars())

    def _rows(self, build: str) -> Sequence[Any]:
        query = sa.select(events).where(events.c.build == build).order_by(events.c.sequence)
        with self._reading() as connection:
            return connection.execute(query).all()

    def _summaries(self, query: sa.Select[Any]) -> list[BuildSummary]:
        with self._reading() as connection:
            return [projection.summary_of(row) for row in connection.execute(query)]

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with database.explained(self.path), self._readers.connect() as connection:
            yield connection


def _in_kept_builds(
    of: type[BuildSubmitted | BuildResumed], path: str, part: str = "$"
) -> sa.Select[Any]:
    """The values at a JSON path in events of one type, of all builds that are neither removed nor cancelled;
    of each value one part."""
    values = sa.func.json_each(events.c.data, path).table_valued("value")
    value = sa.func.json_extract(values.c.value, part) if part != "$" else values.c.value
    return (
        sa.select(value)
        .select_from(events.join(builds, builds.c.id == events.c.build).join(values, sa.true()))
        .where(
            events.c.type == of.__name__,
            builds.c.removed == 0,
            builds.c.state != Lifecycle.CANCELLED.value,
        )
    )


def _open(path: Path, reserve: Reserve) -> sa.Connection:
    """The writing connection. SQLite needs some space to open a log and reports an unspecific error on
    a full disk, so a failure releases the reserve and tries again."""
    try:
        return database.open_writer(path)
    except LogDamaged:
        raise
    except Unavailable:
        if not reserve.release():
            raise
        return database.open_writer(path)


def _ids_of(group: str) -> tuple[str, str]:
    """The ids of a group's builds are between these."""
    return f"{group}-", f"{group}."


def _chain_problems(rows: Sequence[Any]) -> list[str]:
    """The gaps and altered events in the rows of a build."""
    problems = []
    previous_hash = FIRST_HASH
    for expected, row in enumerate(rows, start=1):
        if row.sequence != expected:
            problems.append(f"event {expected} is missing: event {row.sequence} is in its place")
            break
        if event_hash(previous_hash, *(getattr(row, name) for name in HASHED)) != row.hash:
            problems.append(f"event {row.sequence} or the one before it has been altered")
        previous_hash = row.hash
    return problems

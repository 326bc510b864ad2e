"""What is asked of the event log, the same on every database. Documented in `interface`."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import msgspec
import sqlalchemy as sa

from statemachine.build import ENDED, Lifecycle, submission_key
from statemachine.codec import FIRST_HASH, HASHED, decode_actor, event_hash
from statemachine.errors import DcdError, NotFound
from statemachine.events import (
    BuildResumed,
    BuildSubmitted,
    CheckpointCompleted,
    CheckpointReused,
    Event,
)
from store.eventlog import portable, projection
from store.eventlog.errors import LogDamaged
from store.eventlog.projection import BuildSummary
from store.eventlog.tables import INTEGER, builds, events, layer_keys
from store.eventlog.writer import Writer

UNFINISHED = tuple(state for state in Lifecycle if state not in ENDED)
"""States that are not final."""


class Queries(ABC):
    """The reading methods of an event log, and what its writer tells of it."""

    _writer: Writer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None: ...

    @property
    def position(self) -> int:
        return self._writer.position

    @property
    def trouble(self) -> DcdError | None:
        return self._writer.trouble

    @abstractmethod
    def _reading(self) -> AbstractContextManager[sa.Connection]:
        """A connection that sees all events committed before, and cannot write. Turns errors of the
        database into errors for people."""

    def read(self, build: str | None = None, after: int = 0, limit: int = 1000) -> list[Event]:
        return [projection.event_of(row) for row in self._page(build, after, limit)]

    def read_build(self, build: str) -> list[Event]:
        rows = self._rows(build)
        if not rows:
            raise no_build(build)
        if problems := chain_problems(rows):
            raise LogDamaged(
                f"the events of build {build} are damaged",
                "\n".join(problems),
                "restore a backup of the event log",
            )
        return [projection.event_of(row) for row in rows]

    def completed(self, build: str) -> list[Event]:
        query = sa.select(events).where(
            events.c.build == build, events.c.type == CheckpointCompleted.__name__
        )
        with self._reading() as connection:
            rows = connection.execute(query.order_by(events.c.sequence))
            return [projection.event_of(row) for row in rows]

    def verify(self, build: str) -> list[str]:
        # In this order: another event may be appended in between.
        with self._reading() as connection:
            summary = connection.execute(sa.select(builds).where(builds.c.id == build)).first()
        rows = self._rows(build)
        if not rows and summary is None:
            raise no_build(build)
        problems = chain_problems(rows)
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
        with self._reading() as connection:
            known = connection.execute(sa.union(sa.select(builds.c.id), sa.select(events.c.build)))
            names = list(known.scalars())
        problems = [f"build {name}: {what}" for name in names for what in self.verify(name)]
        return problems or self.verify_projection()

    def verify_projection(self) -> list[str]:
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
        dash = portable.position(builds.c.id, "-")
        cell = sa.case((dash > 0, sa.func.substr(builds.c.id, dash + 1)), else_="").label("cell")
        among = (
            builds.c.state == str(Lifecycle.COMPLETED),
            builds.c.removed == 0,
            builds.c.name.in_(list(names)),
        )
        newest = sa.select(sa.func.max(builds.c.submitted_position)).where(*among)
        query = sa.select(builds.c.name, cell, builds.c.submitted_position, builds.c.id).where(
            builds.c.submitted_position.in_(newest.group_by(builds.c.name, cell))
        )
        with self._reading() as connection:
            rows = connection.execute(query)
            return {(name, of): (position, build) for name, of, position, build in rows}

    def unfinished(self) -> list[BuildSummary]:
        query = sa.select(builds).where(builds.c.state.in_([str(state) for state in UNFINISHED]))
        return self._summaries(query.order_by(builds.c.submitted_position))

    def ended_counts(self) -> dict[Lifecycle, int]:
        ended = [str(state) for state in Lifecycle if state not in UNFINISHED]
        query = sa.select(builds.c.state, sa.func.count()).where(builds.c.state.in_(ended))
        with self._reading() as connection:
            rows = connection.execute(query.group_by(builds.c.state))
            return {Lifecycle(state): count for state, count in rows}

    def summary(self, build: str) -> BuildSummary:
        found = self._summaries(sa.select(builds).where(builds.c.id == build))
        if not found:
            raise no_build(build)
        return found[0]

    def resolve_prefix(self, prefix: str) -> str:
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
        dash = portable.position(builds.c.id, "-")
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
        group = self.resolve_group(prefix)
        first, last = _ids_of(group)
        inside = sa.select(builds).where(builds.c.id >= first, builds.c.id < last)
        cell = portable.extract(events.c.data, "cell")
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
        # Version 0.1.0 stored keys without their user.
        wanted = builds.c.idempotency_key.in_((submission_key(uid, key), key))
        query = sa.select(builds.c.id, builds.c.actor).where(wanted)
        with self._reading() as connection:
            for build, actor in connection.execute(query):
                if decode_actor(actor).uid == uid:
                    return str(build)
        return None

    def known_builds(self, among: Collection[str]) -> set[str]:
        return self._known(builds.c.id, among)

    def removed_among(self, names: Collection[str]) -> set[str]:
        return self._known(builds.c.id, names, builds.c.removed == 1)

    def known_keys(self, among: Collection[str]) -> set[str]:
        return self._known(layer_keys.c.key, among)

    def resolved_lists(self, without: Collection[str] = ()) -> set[str]:
        counts = builds.c.id.not_in(portable.any_of(without))
        named = portable.extract(events.c.data, "resolved")
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
        lists = portable.items(events.c.data, "locked", "lists")
        locked = _in_kept_builds(BuildSubmitted, lists, lists.c.value).where(
            builds.c.state.in_(UNFINISHED), counts
        )
        with self._reading() as connection:
            return set(connection.execute(sa.union(resolved, locked)).scalars())

    def locked_builds_of_others(self, users: Collection[int]) -> set[str]:
        user = sa.cast(portable.extract(builds.c.actor, "uid"), INTEGER)
        fetched = sa.cast(portable.extract(events.c.data, "locked", "fetch"), sa.Text)
        query = (
            sa.select(builds.c.id)
            .select_from(events.join(builds, builds.c.id == events.c.build))
            .where(
                events.c.type == BuildSubmitted.__name__,
                portable.extract(events.c.data, "locked", "lists", 0).is_not(None),
                # PostgreSQL has JSON's words for it, SQLite numbers.
                sa.func.coalesce(fetched, "false").not_in(("true", "1")),
                user.not_in(users),
            )
        )
        with self._reading() as connection:
            return set(connection.execute(query).scalars())

    def inputs(self) -> set[str]:
        files = portable.items(events.c.data, "inputs")
        sha256 = portable.extract(files.c.value, "sha256")
        compared = portable.values(events.c.data, "rebuild", "manifests")
        query = sa.union(
            _in_kept_builds(BuildSubmitted, files, sha256),
            _in_kept_builds(BuildResumed, files, sha256),
            _in_kept_builds(BuildSubmitted, compared, compared.c.value),
        )
        with self._reading() as connection:
            return set(connection.execute(query).scalars())

    def _known(
        self, column: sa.Column[str], among: Collection[str], *conditions: sa.ColumnElement[bool]
    ) -> set[str]:
        """The values in `among` that the column has in rows that meet the conditions."""
        query = sa.select(column).where(column.in_(portable.any_of(among)), *conditions)
        with self._reading() as connection:
            return set(connection.execute(query).scalars())

    def _page(self, build: str | None, after: int, limit: int) -> Sequence[Any]:
        """The rows of `read`."""
        query = sa.select(events).where(events.c.position > after)
        if build is not None:
            query = query.where(events.c.build == build)
        with self._reading() as connection:
            return connection.execute(query.order_by(events.c.position).limit(limit)).all()

    def _rows(self, build: str) -> Sequence[Any]:
        query = sa.select(events).where(events.c.build == build).order_by(events.c.sequence)
        with self._reading() as connection:
            return connection.execute(query).all()

    def _summaries(self, query: sa.Select[Any]) -> list[BuildSummary]:
        with self._reading() as connection:
            return [projection.summary_of(row) for row in connection.execute(query)]


def no_build(build: str) -> NotFound:
    """The answer to an id that is not that of a build."""
    return NotFound(f"there is no build {build}")


def _in_kept_builds(
    of: type[BuildSubmitted | BuildResumed],
    values: sa.TableValuedAlias,
    value: sa.ColumnElement[Any],
) -> sa.Select[Any]:
    """A value of each of the `values` in events of one type, of all builds that are neither removed nor
    cancelled."""
    return (
        sa.select(value)
        .select_from(events.join(builds, builds.c.id == events.c.build).join(values, sa.true()))
        .where(
            events.c.type == of.__name__,
            builds.c.removed == 0,
            builds.c.state != Lifecycle.CANCELLED.value,
        )
    )


def _ids_of(group: str) -> tuple[str, str]:
    """The ids of a group's builds are between these."""
    return f"{group}-", f"{group}."


def chain_problems(rows: Sequence[Any]) -> list[str]:
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

"""The rows of a simulated database in SQLite, for the queries of the log that are asked in SQL."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import sqlalchemy as sa

from statemachine.events import Event
from store.eventlog.tables import builds, events, layer_keys, metadata


class Projected(Protocol):
    """A build: its row in `builds`, the rows of its events, and the keys of its layers."""

    row: dict[str, Any]
    rows: list[Any]
    keys: set[str]


class Mirror:
    """The projections of a database, for SQL."""

    def __init__(self) -> None:
        self.engine = sa.create_engine(
            "sqlite://",
            poolclass=sa.pool.StaticPool,
            connect_args={"check_same_thread": False},
        )
        metadata.create_all(self.engine)
        self._position = 0

    def update(self, log: Sequence[Event], known: Mapping[str, Projected]) -> None:
        """Copy the new events of a log, and the rows of their builds in `known`."""
        new = log[self._position :]
        if not new:
            return
        changed = {event.build: known[event.build] for event in new}
        with self.engine.begin() as connection:
            connection.execute(
                events.insert(),
                [known[e.build].rows[e.sequence - 1]._asdict() for e in new],
            )
            connection.execute(builds.delete().where(builds.c.id.in_(list(changed))))
            connection.execute(builds.insert(), [build.row for build in changed.values()])
            connection.execute(layer_keys.delete().where(layer_keys.c.build.in_(list(changed))))
            keys = [(key, name) for name, build in changed.items() for key in build.keys]
            if keys:
                rows = [{"key": key, "build": name} for key, name in keys]
                connection.execute(layer_keys.insert(), rows)
        self._position = len(log)

"""Writing the projections of a log in SQLite. Callers hold the transaction."""

from collections.abc import Collection, Iterable

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from statemachine.build import BuildState
from statemachine.events import BuildRemoved, Event
from store.eventlog.projection import keys_of, row_of
from store.eventlog.tables import builds, layer_keys

_INSERT = insert(builds)
_UPSERT = _INSERT.on_conflict_do_update(
    index_elements=[builds.c.id],
    set_={column.name: _INSERT.excluded[column.name] for column in builds.c},
)


def store(
    connection: sa.Connection, states: Collection[BuildState], appended: Iterable[Event]
) -> None:
    """Update the projections to the states after `appended`."""
    if not states:
        return
    connection.execute(_UPSERT, [row_of(state) for state in states])
    removed = [event.build for event in appended if isinstance(event.data, BuildRemoved)]
    keys = keys_of(appended)
    if keys:
        connection.execute(insert(layer_keys).on_conflict_do_nothing(), keys)
    if removed:
        connection.execute(layer_keys.delete().where(layer_keys.c.build.in_(removed)))

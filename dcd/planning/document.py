"""The DOC of a build after one of its checkpoints.

The volatile part is the stored manifest; the persistent part was saved with the checkpoint's layer. Only
reads; blocking: `saved` is called in a thread, `matches` by a planner (`dcd.planner`).
"""

from dataclasses import dataclass

from dcd.manifest.data_object import DataObject
from dcd.manifest.doc import DataObjectCache, object_path, write_text
from dcd.manifest.paths import PathError
from statemachine.build import BuildState
from statemachine.errors import NotFound, Refused, UsageError
from statemachine.plan import Json
from store.layers.interface import Layers

MOST_MATCHES = 1000
"""The maximum number of matches of a path."""


@dataclass(frozen=True, slots=True)
class Match:
    """A match of a path: an object, with its own path and XML, or the value of an attribute."""

    path: str | None
    xml: str | None
    value: Json


def saved(
    layers: Layers, state: BuildState, at: str | None = None
) -> tuple[str | None, str | None]:
    """The checkpoint `at`, or the last completed one, and the persistent part of the DOC after it, as text
    (None, None: nothing has completed yet). Raises NotFound for a checkpoint or layer that does not exist,
    Refused for a checkpoint that has not completed."""
    records = {record.name: record for record in state.checkpoints}
    if at is None:
        done = [record.name for record in state.checkpoints if record.done]
        if not done:
            return None, None
        at = done[-1]
    if at not in records:
        raise NotFound(
            f"build {state.id} has no checkpoint {at}",
            f"its checkpoints are {', '.join(records)}",
        )
    record = records[at]
    if not record.done:
        raise Refused(
            f"{at} has not completed, so there is no DOC after it",
            f"it is {record.state}",
            "leave out the checkpoint for the present DOC",
        )
    if layers.find(record.key) is None:
        raise NotFound(
            f"the layer of {at} does not exist any more",
            f"it was {record.key}",
            "a build that needs it makes it again",
        )
    return at, layers.document(record.key)


def matches(doc: DataObjectCache, path: str | None) -> tuple[Match, ...]:
    """The matches of the path string; the whole DOC without one. Raises NotFound when nothing matches,
    UsageError for a path that is malformed or has too many matches."""
    if path is None:
        return (Match("", doc.to_text(), None),)
    try:
        found = doc.find_path(path)
    except PathError as error:
        raise UsageError(error.brief, error.details, error.resolution) from None
    if len(found) > MOST_MATCHES:
        raise UsageError(
            f"{path!r} names {len(found)} objects",
            f"at most {MOST_MATCHES} are listed",
            "limit them: [#10] behind a name keeps the first ten",
        )
    return tuple(
        Match(object_path(match), write_text(match), None)
        if isinstance(match, DataObject)
        else Match(None, None, match)
        for match in found
    )
